"""Which checkpoints of a sweep are deleted, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.studies import make_metrics, make_spec, make_study, record_trial

from jepa_ray.storage import Storage
from jepa_ray.sweep import checkpoint_name, epochs_folder
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Study

TRIALS = 5
VALUES = [0.5, 0.2, 0.9, 0.4]  # the objective of the trials that end; the fifth one is still running
BEST = {0, 2, 4}  # the two best of them, and the running one


@pytest.fixture(autouse=True)
def two_are_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_ray.sweep.storage.disk.MIN_RETAINED", 2)


@pytest.fixture
def sweep() -> Study:
    base = {"data": {"builtin": "two_rooms"}, "experiment": {"checkpoint_every": 2}}
    sweep = make_study(make_spec(base=base, search={"algorithm": "random", "num_trials": TRIALS, "finalists": 1}))
    search = Search(sweep)
    for _ in range(TRIALS):
        search.ask()
    return sweep


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    """The training checkpoint and two periodic ones of every trial."""
    store = Storage(str(tmp_path))
    for number in range(TRIALS):
        store.write(checkpoint_name(number), b"last")
        for epoch in (2, 4):
            store.write(f"{epochs_folder(number)}/epoch_{epoch:05d}.pt", b"model")
    return store


def end_trials(sweep: Study, retention: CheckpointRetention | None = None) -> None:
    for number, value in enumerate(VALUES):
        sweep.report(number, 1, make_metrics(value), last=True)
        record = sweep.finish(number)
        if retention:
            retention.ended(record)


def assert_only_the_best_are_stored(store: Storage, tmp_path: Path) -> None:
    expected = {f"trial_0000{number}" for number in BEST}
    entries = list((tmp_path / "checkpoints").iterdir())  # also no empty folder is left
    assert {path.name for path in entries if path.is_dir()} == expected
    assert {path.stem for path in entries if path.is_file()} == expected
    assert len(store.names("checkpoints", recursive=True)) == 3 * len(BEST)


def test_periodic_checkpoints_are_dropped_with_the_training_checkpoint(
    sweep: Study, store: Storage, tmp_path: Path
) -> None:
    end_trials(sweep, CheckpointRetention(sweep, store))
    assert_only_the_best_are_stored(store, tmp_path)


def test_a_later_session_drops_what_a_killed_one_left(sweep: Study, store: Storage, tmp_path: Path) -> None:
    """Of trial 1 the training checkpoint was deleted already, of trial 3 the periodic ones."""
    end_trials(sweep)
    store.delete(checkpoint_name(1))
    store.delete_folder(epochs_folder(3))
    CheckpointRetention(sweep, store)
    assert_only_the_best_are_stored(store, tmp_path)


def test_as_many_are_kept_as_repeats_need_and_complete_trials_come_before_pruned_ones(tmp_path: Path) -> None:
    study = make_study(make_spec(search={"algorithm": "random", "num_trials": TRIALS, "finalists": 3}))
    search, store = Search(study), Storage(str(tmp_path))
    for number in range(TRIALS):
        search.ask()
        store.write(checkpoint_name(number), b"weights")
    retention = CheckpointRetention(study, store)
    for number, value, last in [(0, 0.2, True), (1, 0.9, False), (2, 0.5, True), (3, 0.4, True)]:
        record_trial(study, number, value, last=last)
        retention.ended(study.record(number))
    # the best 3 trials that ended; the fifth one is still training
    assert {path.stem for path in (tmp_path / "checkpoints").iterdir()} == {f"trial_0000{n}" for n in (0, 2, 3, 4)}


def test_without_periodic_checkpoints_no_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting a folder is another request to an object store."""
    study = make_study(make_spec(search={"algorithm": "random", "num_trials": TRIALS, "finalists": 1}))
    search, store, deleted = Search(study), Storage(str(tmp_path)), list[str]()
    for _ in range(TRIALS):
        search.ask()
    monkeypatch.setattr(Storage, "delete_folder", lambda _, folder: deleted.append(folder))
    for number in range(TRIALS):
        store.write(checkpoint_name(number), b"last")
    end_trials(study, CheckpointRetention(study, store))
    assert store.names("checkpoints") == sorted(map(checkpoint_name, BEST))
    assert deleted == []
