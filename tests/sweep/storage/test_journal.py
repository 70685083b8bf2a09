"""The study in an object store: every change is stored when the call returns, also after a death during a merge."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from helpers.studies import make_spec, make_study
from optuna.storages import JournalStorage

from jepa_ray.config import SweepConfig
from jepa_ray.errors import StorageError
from jepa_ray.storage import Storage
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage import journal
from jepa_ray.sweep.storage.journal import ObjectJournal
from jepa_ray.sweep.storage.records import PlanningScore
from jepa_ray.sweep.storage.study import Study, StudyView
from jepa_ray.sweep.tune_result import TrainedBy


def spec() -> SweepConfig:
    return make_spec(space={"training.ema_decay": {"low": 0.9, "high": 0.99}}, search={"num_trials": 100})


def open_study(folder: Path) -> Study:
    """The study in the object store of a folder."""
    return Study(spec(), JournalStorage(ObjectJournal(Storage(str(folder)))))


def train(study: Study, trials: int) -> None:
    """Train two epochs of each trial, and close every second one."""
    search = Search(study)
    for i in range(trials):
        suggestion = search.ask()
        assert suggestion is not None
        for epoch in (1, 2):
            metrics = {"val_rollout_mrr": 0.1 * i + 0.01 * epoch, "epoch_s": 1.0}
            study.report(suggestion.number, epoch, metrics, last=epoch == 2, trained_by=TrainedBy("group", 1.0))
        if i % 2:
            study.finish(suggestion.number)


@pytest.fixture(params=[1, 7, 1000])
def merging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge at every entry, at some entries, and never."""
    monkeypatch.setattr(journal, "MIN_TO_MERGE", request.param)
    monkeypatch.setattr(journal, "MIN_MERGE_SHARE", 0.0)


@pytest.mark.usefixtures("merging")
def test_a_study_that_is_opened_again_has_every_change(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    train(study, 6)
    again = open_study(tmp_path)
    closed = [record for record in study.records() if record.number % 2]
    assert [again.record(record.number) for record in closed] == closed
    assert [r.history for r in again.records()] == [r.history for r in study.records()]
    assert [r.params for r in again.records()] == [r.params for r in study.records()]
    assert Search(again).ask().number == 6  # type: ignore[union-attr]


@pytest.mark.usefixtures("merging")
def test_a_study_in_sqlite_has_the_same_records(tmp_path: Path) -> None:
    stored, local = open_study(tmp_path / "store"), make_study(spec(), tmp_path / "optuna.db")
    for study in (stored, local):
        train(study, 5)
    assert stored.records() == local.records()


def test_a_long_journal_is_few_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MIN_TO_MERGE", 10)
    study = open_study(tmp_path)
    train(study, 40)
    entries = len(ObjectJournal(Storage(str(tmp_path))).read_logs(0))
    assert entries > 200
    assert len(list(tmp_path.iterdir())) <= 0.2 * entries + 2


def test_an_epoch_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tmp_path)
    suggestion = Search(study).ask()
    assert suggestion is not None
    written: list[str] = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda *args: (written.append(args[1]), write(*args)))
    for epoch in (1, 2):
        study.report(suggestion.number, epoch, {"val_rollout_mrr": 0.1 * epoch, "epoch_s": 1.0}, last=False)
        assert len(written) == epoch
        stored = JournalStorage(ObjectJournal(Storage(str(tmp_path))))
        (trial,) = stored.get_all_trials(stored.get_study_id_from_name("unit"))
        assert trial.intermediate_values[epoch] == 0.1 * epoch
        assert len(StudyView(spec(), stored).record(suggestion.number).history) == epoch


def test_an_entry_that_could_not_be_written_is_written_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ObjectJournal(Storage(str(tmp_path)))
    log.append_logs([{"n": 0}])
    with monkeypatch.context() as away:
        away.setattr(Storage, "write", dying_after(0, Storage.write))
        with pytest.raises(SystemExit):
            log.append_logs([{"n": 1}])
    log.append_logs([{"n": 2}])
    assert [entry["n"] for entry in ObjectJournal(Storage(str(tmp_path))).read_logs(0)] == [0, 1, 2]


def dying_after(count: int, real: Callable[..., None]) -> Callable[..., None]:
    """The method `real`, which ends the process after `count` calls."""
    left = list(range(count))

    def called(self: Storage, name: str, *data: bytes) -> None:
        if not left:
            raise SystemExit
        left.pop()
        real(self, name, *data)

    return called


@pytest.mark.parametrize("deletes", [0, 1, 5])
def test_a_death_during_a_merge_loses_no_entry_and_duplicates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletes: int
) -> None:
    entries = [{"n": i} for i in range(8)]
    log = ObjectJournal(Storage(str(tmp_path)))
    for entry in entries[:-1]:
        log.append_logs([entry])
    with monkeypatch.context() as dying:
        dying.setattr(journal, "MIN_TO_MERGE", 1)
        dying.setattr(Storage, "delete", dying_after(deletes, Storage.delete))
        with pytest.raises(SystemExit):
            log.append_logs([entries[-1]])
    assert len(list(tmp_path.iterdir())) > 1
    again = ObjectJournal(Storage(str(tmp_path)))
    assert list(again.read_logs(0)) == entries
    assert len(list(tmp_path.iterdir())) == 1  # the merged objects are gone
    again.append_logs([{"n": 8}])
    assert ObjectJournal(Storage(str(tmp_path))).read_logs(8) == [{"n": 8}]


def test_a_missing_entry_is_an_error(tmp_path: Path) -> None:
    log = ObjectJournal(Storage(str(tmp_path)))
    for i in range(4):
        log.append_logs([{"n": i}])
    next(tmp_path.glob("000000002*")).unlink()
    with pytest.raises(StorageError, match="journal entry 2 is missing before 000000003"):
        ObjectJournal(Storage(str(tmp_path)))


def test_an_export_is_repeated_only_after_a_change(tmp_path: Path) -> None:
    study, database = open_study(tmp_path / "store"), tmp_path / "optuna.db"
    train(study, 3)

    def exported() -> int:
        study.export(database)
        return database.stat().st_mtime_ns  # an inode number may be used again

    first = exported()
    assert exported() == first
    study.record_planning_score(1, PlanningScore(0.5, 0.4, 0.6, 0.1))
    with_planning = exported()
    assert with_planning != first
    study.begin_session({"trials": "unchanged"})
    assert exported() != with_planning
    database.unlink()
    study.export(database)
    assert StudyView.open(spec(), database).records() == study.records()


def test_optuna_and_the_report_can_open_an_export(tmp_path: Path) -> None:
    study = open_study(tmp_path / "store")
    train(study, 5)
    study.export(tmp_path / "optuna.db")
    train(study, 4)  # three trials are continued, and one begins
    study.export(tmp_path / "optuna.db")  # replaces the older one
    assert StudyView.open(spec(), tmp_path / "optuna.db").records() == study.records()
    assert len(optuna.load_study(study_name="unit", storage=f"sqlite:///{tmp_path / 'optuna.db'}").trials) == 6
    assert [path.name for path in tmp_path.glob("optuna*")] == ["optuna.db"]
