"""Sweep locations: a folder on a disk, or an object store with a local copy."""

import os
from pathlib import Path

import pytest
from helpers.studies import make_spec

from jepa_ray import storage
from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.storage import Storage
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.location import (
    JOB_VARIABLE,
    STORAGE_VARIABLE,
    ObjectStoreLocation,
    SweepLocation,
    locate_sweep,
)

TEXT = "name: unit\nsearch: {num_trials: 4}\n"
MORE = TEXT.replace("4", "9")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    for name, seconds in (("BEAT_S", 0.2), ("DEAD_S", 0.8), ("SETTLE_S", 0.05)):
        monkeypatch.setattr(storage, name, seconds)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A folder that stands for an object store."""
    path = tmp_path / "bucket"
    path.mkdir()
    return path


def locate(bucket: Path, output: Path) -> ObjectStoreLocation:
    return ObjectStoreLocation(str(bucket), output, "unit")


def spec() -> SweepConfig:
    """A sweep of two points."""
    return make_spec(space={"training.ema_decay": [0.9, 0.99]})


class TestLocateSweep:
    def test_the_spec_takes_precedence_over_the_environment_and_the_output_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert str(locate_sweep("unit", None, tmp_path)) == str(tmp_path / "sweeps/unit")
        monkeypatch.setenv(STORAGE_VARIABLE, "s3://of-the-cluster/runs")
        assert str(locate_sweep("unit", None, tmp_path)) == "s3://of-the-cluster/runs/sweeps/unit"
        assert str(locate_sweep("unit", "s3://own", tmp_path)) == "s3://own/sweeps/unit"
        assert str(locate_sweep("unit", "/shared/runs", tmp_path)) == "/shared/runs/sweeps/unit"
        assert str(locate_sweep("unit", "file:///shared/runs", tmp_path)) == "/shared/runs/sweeps/unit"

    def test_a_job_whose_results_would_be_deleted_with_it_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(JOB_VARIABLE, "1")
        with pytest.raises(ConfigError, match="storage: a Ray job's folder is deleted when the job ends"):
            locate_sweep("unit", None, Path("outputs"))
        assert str(locate_sweep("unit", None, tmp_path)) == str(tmp_path / "sweeps/unit")
        assert isinstance(locate_sweep("unit", "s3://own", Path("outputs")), ObjectStoreLocation)


class TestObjectStoreLocation:
    def claim(self, location: SweepLocation, text: str = TEXT, fresh: bool = False) -> Path | None:
        with location.claim(text, fresh=fresh, growing=("search.num_trials",), say=print) as aside:
            (location.folder.path / "leaderboard.csv").write_text("rank\n1\n")
            location.publish(location.open_study(spec()))
        return aside

    def test_another_machine_finds_the_sweep(self, bucket: Path, tmp_path: Path) -> None:
        first, second = locate(bucket, tmp_path / "a"), locate(bucket, tmp_path / "b")
        assert not first.has_study
        self.claim(first)
        assert second.has_study
        assert second.spec_file().read_text() == TEXT
        assert (tmp_path / "b/sweeps/unit/leaderboard.csv").read_text() == "rank\n1\n"
        assert second.folder.id == first.folder.id
        assert not second.folder.finished

    def test_it_is_finished_on_all_machines_or_on_none(self, bucket: Path, tmp_path: Path) -> None:
        first, second = locate(bucket, tmp_path / "a"), locate(bucket, tmp_path / "b")
        with first.claim(TEXT, fresh=False, growing=(), say=print):
            first.mark_finished(12.0)
        second.spec_file()
        assert (second.folder.finished, second.folder.seconds) == (True, 12.0)
        self.claim(second, MORE)  # a larger budget continues it
        first.spec_file()
        assert not first.folder.finished
        assert first.folder.path.joinpath("spec.yaml").read_text() == MORE

    def test_another_spec_is_refused_and_changes_nothing(self, bucket: Path, tmp_path: Path) -> None:
        self.claim(locate(bucket, tmp_path / "a"))
        with pytest.raises(ConfigError, match=r"was started with other settings: search\.num_trials 4 -> 3"):
            self.claim(locate(bucket, tmp_path / "b"), TEXT.replace("4", "3"))
        assert Storage(str(bucket)).read("sweeps/unit/spec.yaml") == TEXT.encode()

    def test_fresh_renames_the_old_sweep_in_both_places(self, bucket: Path, tmp_path: Path) -> None:
        self.claim(locate(bucket, tmp_path / "a"))
        store = Storage(str(bucket)).below("sweeps/unit")
        store.write("checkpoints/trial_00000.pt", b"old")
        aside = self.claim(locate(bucket, tmp_path / "b"), fresh=True)
        assert aside is not None
        renamed = Storage(str(bucket)).below(f"sweeps/{aside.name}")
        assert renamed.read("checkpoints/trial_00000.pt") == b"old"
        assert renamed.read("spec.yaml") == TEXT.encode()
        assert store.names("checkpoints") == []
        assert renamed.read(".id") != store.read(".id")

    def test_a_local_folder_of_another_sweep_is_renamed(self, bucket: Path, tmp_path: Path) -> None:
        with SweepLocation(tmp_path / "a", "unit").claim(TEXT, fresh=False, growing=(), say=print):
            (tmp_path / "a/sweeps/unit/precious").write_text("local")
        self.claim(locate(bucket, tmp_path / "a"))
        assert [path.read_text() for path in (tmp_path / "a/sweeps").glob("unit.*/precious")] == ["local"]

    def test_a_sweep_that_does_not_exist_cannot_be_resumed(self, bucket: Path, tmp_path: Path) -> None:
        for location in (locate(bucket, tmp_path / "a"), SweepLocation(tmp_path / "a", "unit")):
            with pytest.raises(ConfigError, match="there is no sweep to resume"):
                location.spec_file()

    def test_another_machine_continues_the_study_of_a_dead_driver(self, bucket: Path, tmp_path: Path) -> None:
        first = locate(bucket, tmp_path / "a").open_study(spec())
        number = Search(first).ask().number  # type: ignore[union-attr]
        again = Search(locate(bucket, tmp_path / "b").open_study(spec()))
        suggestions = list(iter(again.ask, None))
        assert [len(suggestions), suggestions[0].number] == [2, number]  # the unfinished one first; both points once


class TestData:
    @pytest.fixture
    def packed(self, tmp_path: Path) -> Path:
        folder = tmp_path / "job" / "data" / "set"
        (folder / "meta").mkdir(parents=True)
        (folder / "a.npy").write_bytes(b"a")
        (folder / "meta/b.json").write_bytes(b"b")
        return folder

    def test_the_data_of_a_job_is_stored_with_the_sweep(self, packed: Path, bucket: Path, tmp_path: Path) -> None:
        for location in (SweepLocation(tmp_path / "root", "unit"), locate(bucket, tmp_path / "a")):
            location.keep_data(packed)
            location.keep_data(packed)
            assert location.store.names("data", recursive=True) == ["data/set/a.npy", "data/set/meta/b.json"]
            assert location.data_location(packed) == str(location.store.below("data/set"))

    def test_other_data_under_the_same_name_is_refused(self, packed: Path, tmp_path: Path) -> None:
        location = SweepLocation(tmp_path / "root", "unit")
        location.keep_data(packed)
        (packed / "a.npy").write_bytes(b"other")
        with pytest.raises(ConfigError, match=r"data/set/a.npy: differs from the data that came with this job"):
            location.keep_data(packed)
        assert location.store.read("data/set/a.npy") == b"a"


def test_a_new_driver_waits_until_the_lease_of_a_dead_one_has_expired(bucket: Path, tmp_path: Path) -> None:
    Storage(str(bucket)).below("sweeps/unit").write("owner", f"x 3 process {os.getpid()} on gone".encode())
    messages: list[str] = []
    with locate(bucket, tmp_path / "a").claim(TEXT, fresh=False, growing=(), say=messages.append):
        pass
    assert "waiting 0.8 s to see whether it is still running" in messages[0]
