"""The books in an object store: every entry is there when it was told, also after a death in the middle of a merge."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage

from jepa_ray.config import SweepConfig
from jepa_ray.errors import StorageError
from jepa_ray.storage import Storage
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage import journal
from jepa_ray.sweep.storage.journal import ObjectJournal
from jepa_ray.sweep.storage.study import PlanningScore, Ran, Study, StudyView


def spec(**changes: object) -> SweepConfig:
    values = {
        "name": "unit",
        "base": {"data": {"builtin": "two_rooms"}},
        "space": {"training.ema_decay": {"low": 0.9, "high": 0.99}},
        "search": {"num_trials": 100},
    }
    return SweepConfig.model_validate(values | changes)


def books(folder: Path) -> Study:
    return Study(spec(), JournalStorage(ObjectJournal(Storage(str(folder)))))


def use(study: Study, trials: int) -> None:
    search = Search(study)
    for i in range(trials):
        asked = search.ask()
        assert asked is not None
        for epoch in (1, 2):
            metrics = {"val_rollout_mrr": 0.1 * i + 0.01 * epoch, "epoch_s": 1.0}
            study.report(asked.number, epoch, metrics, last=epoch == 2, ran=Ran("group", 1.0))
        if i % 2:
            study.finish(asked.number)


@pytest.fixture(params=[1, 7, 1000])
def merging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge at every entry, at some, and never."""
    monkeypatch.setattr(journal, "MIN_TO_MERGE", request.param)
    monkeypatch.setattr(journal, "SHARE", 0.0)


@pytest.mark.usefixtures("merging")
def test_whoever_opens_the_books_finds_what_was_told(tmp_path: Path) -> None:
    study = books(tmp_path)
    use(study, 6)
    again = books(tmp_path)
    closed = [record for record in study.records() if record.number % 2]
    assert [again.record(record.number) for record in closed] == closed
    assert [r.history for r in again.records()] == [r.history for r in study.records()]
    assert [r.params for r in again.records()] == [r.params for r in study.records()]
    assert Search(again).ask().number == 6  # type: ignore[union-attr]


@pytest.mark.usefixtures("merging")
def test_the_books_of_a_disk_say_the_same(tmp_path: Path) -> None:
    there, here = books(tmp_path / "there"), Study.open(spec(), tmp_path / "optuna.db")
    for study in (there, here):
        use(study, 5)
    assert there.records() == here.records()


def test_a_long_journal_is_few_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MIN_TO_MERGE", 10)
    study = books(tmp_path)
    use(study, 40)
    entries = len(ObjectJournal(Storage(str(tmp_path))).read_logs(0))
    assert entries > 200
    assert len(list(tmp_path.iterdir())) <= 0.2 * entries + 2


def test_an_epoch_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = books(tmp_path)
    asked = Search(study).ask()
    assert asked is not None
    written: list[str] = []
    write = Storage.write
    monkeypatch.setattr(Storage, "write", lambda *args: (written.append(args[1]), write(*args)))
    for epoch in (1, 2):
        study.report(asked.number, epoch, {"val_rollout_mrr": 0.1 * epoch, "epoch_s": 1.0}, last=False)
        assert len(written) == epoch
        there = JournalStorage(ObjectJournal(Storage(str(tmp_path))))
        (trial,) = there.get_all_trials(there.get_study_id_from_name("unit"))
        assert trial.intermediate_values[epoch] == 0.1 * epoch
        assert len(StudyView(spec(), there).record(asked.number).history) == epoch


def test_what_could_not_be_written_is_written_with_the_next_entry(
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
    """`real`, which takes the process down at a later call."""
    left = list(range(count))

    def called(self: Storage, name: str, *data: bytes) -> None:
        if not left:
            raise SystemExit
        left.pop()
        real(self, name, *data)

    return called


@pytest.mark.parametrize("deletes", [0, 1, 5])
def test_a_death_while_merging_loses_and_doubles_nothing(
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
    assert len(list(tmp_path.iterdir())) == 1  # what was merged is gone
    again.append_logs([{"n": 8}])
    assert ObjectJournal(Storage(str(tmp_path))).read_logs(8) == [{"n": 8}]


def test_a_missing_entry_is_an_error_and_nothing_is_guessed(tmp_path: Path) -> None:
    log = ObjectJournal(Storage(str(tmp_path)))
    for i in range(4):
        log.append_logs([{"n": i}])
    next(tmp_path.glob("000000002*")).unlink()
    with pytest.raises(StorageError, match="entry 2 is missing before 000000003"):
        ObjectJournal(Storage(str(tmp_path)))


def test_an_export_is_not_repeated_unless_something_has_changed(tmp_path: Path) -> None:
    study, database = books(tmp_path / "there"), tmp_path / "optuna.db"
    use(study, 3)

    def exported() -> int:
        study.export(database)
        return database.stat().st_ino

    first = exported()
    assert exported() == first
    study.record_planning_score(1, PlanningScore(0.5, 0.4, 0.6, 0.1))
    with_planning = exported()
    assert with_planning != first
    study.begin_session({"trial": "none has changed"})
    assert exported() != with_planning
    database.unlink()
    study.export(database)
    assert StudyView.open(spec(), database).records() == study.records()


def test_an_export_is_what_optuna_and_the_report_open(tmp_path: Path) -> None:
    study = books(tmp_path / "there")
    use(study, 5)
    study.export(tmp_path / "optuna.db")
    use(study, 4)  # three are continued, one begun
    study.export(tmp_path / "optuna.db")  # in the place of the older one
    assert StudyView.open(spec(), tmp_path / "optuna.db").records() == study.records()
    assert len(optuna.load_study(study_name="unit", storage=f"sqlite:///{tmp_path / 'optuna.db'}").trials) == 6
    assert [path.name for path in tmp_path.glob("optuna*")] == ["optuna.db"]
