from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder, differences, remove_partial_files, write_atomically

OWNER = """
import sys
from pathlib import Path
from jepa_ray.files import RunFolder
with RunFolder(Path(sys.argv[1]), "config.yaml").begin("a: 1", fresh=False):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "outputs" / "run", "config.yaml")


@contextmanager
def other_owner(folder: RunFolder) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", OWNER, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        try:
            yield process
        finally:
            process.kill()


def asides(folder: RunFolder) -> list[Path]:
    return sorted(path for path in folder.path.parent.iterdir() if path.is_dir() and path != folder.path)


# --------------------------------------------------------------------------------- write_atomically


def test_content_is_written_and_nothing_else_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file.bin", b"\x00data")
    assert (tmp_path / "new" / "file.bin").read_bytes() == b"\x00data"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_old_content_survives_a_write_that_fails_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    whole = Path.write_bytes

    def full_disk(self: Path, data: bytes) -> int:
        whole(self, data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "folder" / "file", b"whole")
    (tmp_path / "folder" / "file.0a1b2c3d.partial").write_bytes(b"half")
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # what cannot be replaced by a file
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---------------------------------------------------------------------------------------- RunFolder


def test_begin_writes_the_document_and_is_not_finished(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False) as aside:
        assert aside is None
        assert not folder.finished
        assert (folder.path / "config.yaml").read_text() == "a: 1"
    assert not folder.finished


def test_finished_is_remembered_with_its_seconds(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False):
        folder.mark_finished(12.34)
    again = RunFolder(folder.path, "config.yaml")
    assert again.finished
    assert again.seconds == 12.3


def test_same_document_continues_in_the_same_folder(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False):
        (folder.path / "result").touch()
    with folder.begin("a: 1", fresh=False) as aside:
        assert aside is None
        assert (folder.path / "result").exists()


def test_other_document_is_refused_and_changes_nothing(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False):
        pass
    with (
        pytest.raises(ConfigError, match=r"begun with other settings: a 1 -> 2; .*--fresh"),
        folder.begin("a: 2", fresh=False),
    ):
        pytest.fail("was let in")
    assert (folder.path / "config.yaml").read_text() == "a: 1"


BEGUN = "budget: {trials: 4}\nseed: 0"


def test_a_larger_budget_is_taken_and_reopens_a_finished_folder(folder: RunFolder) -> None:
    with folder.begin(BEGUN, fresh=False):
        (folder.path / "result").touch()
        folder.mark_finished(1)
    with folder.begin("budget: {trials: 9}\nseed: 0", fresh=False, growing=["budget.trials"]):
        assert not folder.finished
        assert (folder.path / "result").exists()
    assert "trials: 9" in (folder.path / "config.yaml").read_text()


@pytest.mark.parametrize("text", ["budget: {trials: 3}\nseed: 0", "budget: {trials: 9}\nseed: 1"])
def test_a_smaller_budget_or_anything_else_beside_it_is_refused(folder: RunFolder, text: str) -> None:
    with folder.begin(BEGUN, fresh=False):
        folder.mark_finished(1)
    with (
        pytest.raises(ConfigError, match=r"budget\.trials 4 -> "),
        folder.begin(text, fresh=False, growing=["budget.trials"]),
    ):
        pytest.fail("was let in")
    assert folder.finished


def test_differences_name_every_leaf() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": None, "f": 0}
    assert differences(old, new) == {"a.c": ([1], [2]), "d": (2, None), "f": (None, 0)}


@pytest.mark.parametrize("text", ["a: 1", "a: 2"])
def test_fresh_keeps_the_old_folder_aside(folder: RunFolder, text: str) -> None:
    with folder.begin("a: 1", fresh=False):
        (folder.path / "result").write_text("precious")
        folder.mark_finished(1)
    with folder.begin(text, fresh=True) as aside:
        assert aside is not None
        assert (aside / "result").read_text() == "precious"
        assert (aside / "config.yaml").read_text() == "a: 1"
        assert not folder.finished
        assert {p.name for p in folder.path.iterdir()} == {"config.yaml", ".id"}


def test_fresh_without_an_old_folder_just_begins(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=True) as aside:
        assert aside is None


def test_fresh_twice_within_a_second_keeps_both_old_folders(folder: RunFolder) -> None:
    for content in ("first", "second", "third"):
        with folder.begin("a: 1", fresh=True):
            (folder.path / "result").write_text(content)
    assert sorted((path / "result").read_text() for path in asides(folder)) == ["first", "second"]


def test_second_owner_is_refused_and_changes_nothing(folder: RunFolder) -> None:
    with other_owner(folder) as process:
        for fresh in (False, True):
            with (
                pytest.raises(ConfigError, match=f"process {process.pid} on .* is running this"),
                folder.begin("a: 1", fresh=fresh),
            ):
                pytest.fail("was let in")
        assert asides(folder) == []
        assert (folder.path / "config.yaml").read_text() == "a: 1"


def test_folder_is_free_again_after_its_owner_was_killed(folder: RunFolder) -> None:
    with other_owner(folder) as process:
        process.kill()
        process.wait()
        with folder.begin("a: 1", fresh=False) as aside:
            assert aside is None


def test_folder_is_free_again_after_an_error_inside(folder: RunFolder) -> None:
    with pytest.raises(RuntimeError, match="boom"), folder.begin("a: 1", fresh=False):
        raise RuntimeError("boom")
    with folder.begin("a: 1", fresh=False):
        pass


def test_path_that_is_a_file_is_bad_input(folder: RunFolder) -> None:
    folder.path.parent.mkdir()
    folder.path.write_text("a file of the user")
    with pytest.raises(ConfigError, match="run"), folder.begin("a: 1", fresh=False):
        pytest.fail("was let in")
    assert folder.path.read_text() == "a file of the user"
