from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jepa_ray.config import SweepConfig, TrainConfig, dump_yaml
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
    """Start another process that owns the folder."""
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


def test_only_the_file_is_left_after_a_write(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new" / "file.bin", b"\x00data")
    assert (tmp_path / "new" / "file.bin").read_bytes() == b"\x00data"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file.bin"]


def test_old_content_survives_an_incomplete_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_only_the_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    write_atomically(tmp_path / "folder" / "file", b"whole")
    (tmp_path / "folder" / "file.0a1b2c3d.partial").write_bytes(b"half")
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ---------------------------------------------------------------------------------------- RunFolder


def test_begin_writes_the_document_and_does_not_finish_the_folder(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False) as aside:
        assert aside is None
        assert not folder.finished
        assert (folder.path / "config.yaml").read_text() == "a: 1"
    assert not folder.finished


def test_a_finished_folder_keeps_the_duration(folder: RunFolder) -> None:
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


def test_another_document_is_refused_and_changes_nothing(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=False):
        pass
    with (
        pytest.raises(ConfigError, match=r"started with other settings: a 1 -> 2; .*--fresh"),
        folder.begin("a: 2", fresh=False),
    ):
        pytest.fail("was not refused")
    assert (folder.path / "config.yaml").read_text() == "a: 1"


BEGUN = "budget: {trials: 4}\nseed: 0"


def test_a_larger_budget_is_accepted_and_reopens_a_finished_folder(folder: RunFolder) -> None:
    with folder.begin(BEGUN, fresh=False):
        (folder.path / "result").touch()
        folder.mark_finished(1)
    with folder.begin("budget: {trials: 9}\nseed: 0", fresh=False, growing=["budget.trials"]):
        assert not folder.finished
        assert (folder.path / "result").exists()
    assert "trials: 9" in (folder.path / "config.yaml").read_text()


@pytest.mark.parametrize("text", ["budget: {trials: 3}\nseed: 0", "budget: {trials: 9}\nseed: 1"])
def test_a_smaller_budget_and_any_other_change_is_refused(folder: RunFolder, text: str) -> None:
    with folder.begin(BEGUN, fresh=False):
        folder.mark_finished(1)
    with (
        pytest.raises(ConfigError, match=r"budget\.trials 4 -> "),
        folder.begin(text, fresh=False, growing=["budget.trials"]),
    ):
        pytest.fail("was not refused")
    assert folder.finished


@pytest.fixture
def train_folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "outputs" / "run", "config.yaml", TrainConfig.add_defaults)


def without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A copy of a config's `experiment` section without some keys, as an earlier version wrote it."""
    experiment = {key: value for key, value in values["experiment"].items() if key not in keys}
    return values | {"experiment": experiment}


NEW_KEYS = ("checkpoint_every", "keep_checkpoints")


def test_document_of_an_earlier_version_continues_with_the_defaults_of_new_keys(
    train_folder: RunFolder, train_config: TrainConfig
) -> None:
    with train_folder.begin(dump_yaml(without(train_config.to_dict(), *NEW_KEYS)), fresh=False):
        train_folder.mark_finished(1)
    with train_folder.begin(dump_yaml(train_config.to_dict()), fresh=False) as aside:
        assert aside is None
        assert train_folder.finished
    assert "checkpoint_every: null" in (train_folder.path / "config.yaml").read_text()


def test_new_key_with_another_value_than_its_default_is_a_change(
    train_folder: RunFolder, train_config: TrainConfig
) -> None:
    with train_folder.begin(dump_yaml(without(train_config.to_dict(), *NEW_KEYS)), fresh=False):
        pass
    changed = dump_yaml(train_config.with_overrides({"experiment.checkpoint_every": 2}).to_dict())
    with (
        pytest.raises(ConfigError, match=r"other settings: experiment\.checkpoint_every None -> 2;"),
        train_folder.begin(changed, fresh=False),
    ):
        pytest.fail("was not refused")


def test_new_keys_in_the_base_of_a_sweep_are_no_change_either(tmp_path: Path, train_config: TrainConfig) -> None:
    """Together with a larger budget, which is accepted too."""
    spec = SweepConfig(name="s", base=train_config, space={"training.ema_decay": [0.9, 0.99]})
    folder = RunFolder(tmp_path / "s", "spec.yaml", SweepConfig.add_defaults)
    old = spec.to_dict()
    old["base"] = without(old["base"], *NEW_KEYS)
    with folder.begin(dump_yaml(old), fresh=False):
        pass
    grown = spec.to_dict()
    grown["search"]["num_trials"] += 1
    with folder.begin(dump_yaml(grown), fresh=False, growing=["search.num_trials"]) as aside:
        assert aside is None


def test_differences_contain_every_leaf() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 1, "c": [2]}, "e": None, "f": 0}
    assert differences(old, new) == {"a.c": ([1], [2]), "d": (2, None), "f": (None, 0)}


@pytest.mark.parametrize("text", ["a: 1", "a: 2"])
def test_fresh_renames_the_old_folder(folder: RunFolder, text: str) -> None:
    with folder.begin("a: 1", fresh=False):
        (folder.path / "result").write_text("precious")
        folder.mark_finished(1)
    with folder.begin(text, fresh=True) as aside:
        assert aside is not None
        assert (aside / "result").read_text() == "precious"
        assert (aside / "config.yaml").read_text() == "a: 1"
        assert not folder.finished
        assert {p.name for p in folder.path.iterdir()} == {"config.yaml", ".id"}


def test_fresh_without_an_old_folder_renames_nothing(folder: RunFolder) -> None:
    with folder.begin("a: 1", fresh=True) as aside:
        assert aside is None


def test_fresh_twice_within_a_second_keeps_both_old_folders(folder: RunFolder) -> None:
    for content in ("first", "second", "third"):
        with folder.begin("a: 1", fresh=True):
            (folder.path / "result").write_text(content)
    assert sorted((path / "result").read_text() for path in asides(folder)) == ["first", "second"]


def test_a_second_owner_is_refused_and_changes_nothing(folder: RunFolder) -> None:
    with other_owner(folder) as process:
        for fresh in (False, True):
            with (
                pytest.raises(
                    ConfigError,
                    match=f"is in use by process {process.pid} on .*: wait until it ends, or choose another",
                ),
                folder.begin("a: 1", fresh=fresh),
            ):
                pytest.fail("was not refused")
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
        pytest.fail("was not refused")
    assert folder.path.read_text() == "a file of the user"
