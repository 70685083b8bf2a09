"""One result's way through the scheduler and the recorder, and what is on disk if the driver dies on it."""

import math
import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.studies import make_metrics, make_spec, make_study
from ray.tune.schedulers import TrialScheduler

from jepa_ray.storage import Storage
from jepa_ray.sweep.recorder import Recorder
from jepa_ray.sweep.search.scheduler import TuneScheduler
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.search.stopping import StopDecision
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrainedBy, TrialUpdate, failure_to_tune, from_tune, to_tune
from jepa_ray.tracking import Run
from jepa_ray.train.mailbox import EpochResult, Failure

OBJECTIVE = "val_rollout_mrr"


class StopAtOnce:
    """A stopping rule that stops every trial after its first epoch."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        pass

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        return StopDecision(epoch, value, 0.9, "by the test")


def a_run(run_id: str) -> Run:
    run: Run = Future()
    run.set_result(run_id)
    return run


class NoTracker:
    """In place of MLflow, which is not tested here; remembers the logged epochs."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def open_run(self, **about: Any) -> Run:
        return a_run("key")

    def log_epoch(self, run: Run, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs.append(epoch)

    def tag(self, run: Run, tags: Mapping[str, str]) -> None:
        pass

    def close_run(self, run: Run, *, failed: bool = False) -> None:
        pass

    def log_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        pass


class Driver:
    """The study, scheduler and recorder of a sweep, called in the order of Ray Tune's controller."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "optuna.db"
        self.study = make_study(make_spec(), self.database)
        self.tracker = NoTracker()
        self.scheduler = TuneScheduler(StopAtOnce(), self.study)
        retention = CheckpointRetention(self.study, Storage(str(folder)))
        self.recorder = Recorder(self.study, self.tracker, "id", a_run("parent"), retention, [], self.scheduler)  # type: ignore[arg-type]
        suggestion = Search(self.study).ask()
        assert suggestion
        self.trial: Any = SimpleNamespace(config={"number": suggestion.number}, error_file=None)
        self.recorder.on_trial_start(0, [], self.trial)

    def process(self, result: dict[str, Any]) -> str:
        decision = TrialScheduler.STOP
        if not result["done"]:
            decision = self.scheduler.on_trial_result(None, self.trial, dict(result))
        self.recorder.on_trial_result(0, [], self.trial, result)
        if decision == TrialScheduler.STOP:
            self.scheduler.on_trial_complete(None, self.trial, dict(result))
            self.recorder.on_trial_complete(0, [], self.trial)
        return decision

    def reopened(self) -> TrialRecord:
        """The trial as the next session finds it on disk."""
        return Study.open(self.study.spec, self.database).record(0)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def epoch_result(value: float = 0.5, *, finished: bool = False, collapse: str | None = None) -> dict[str, Any]:
    result = EpochResult(1, make_metrics(0.5) | {OBJECTIVE: value}, finished, collapse, ["a reference"])
    return to_tune(result, TrainedBy("group", 5.0, "host"), OBJECTIVE)


def test_the_rules_decision_is_written_by_the_recorder(driver: Driver) -> None:
    assert driver.process(epoch_result()) == TrialScheduler.STOP
    record = driver.reopened()
    assert record.status is Status.PRUNED
    assert record.stop == "stopped at epoch 1: 0.5 is worse than 0.9, by the test"
    assert record.trained_by == [TrainedBy("group", 5.0, "host")]
    assert driver.tracker.epochs == [1]


def test_a_result_without_a_finite_objective_fails_the_trial(driver: Driver) -> None:
    assert driver.process(epoch_result(math.nan)) == TrialScheduler.STOP
    record = driver.reopened()
    assert record.status is Status.FAILED
    assert record.error == f"{OBJECTIVE} is nan in the result of epoch 1"
    assert record.stop is None


@pytest.mark.parametrize(
    ("result", "status", "field"),
    [
        (epoch_result(finished=True), Status.COMPLETE, None),
        (epoch_result(finished=True, collapse="at chance"), Status.PRUNED, "collapse"),
        (failure_to_tune("train_loss is nan", OBJECTIVE), Status.FAILED, "error"),
    ],
)
def test_a_trials_own_end(driver: Driver, result: dict[str, Any], status: Status, field: str | None) -> None:
    driver.process(result)
    record = driver.reopened()
    assert record.status is status
    assert {name for name in ("error", "collapse", "stop") if getattr(record, name)} == ({field} if field else set())


@pytest.mark.parametrize("result", [epoch_result(), epoch_result(finished=True, collapse="at chance")])
def test_the_reason_of_an_end_is_on_disk_before_the_epoch(
    driver: Driver, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the driver dies between the two, the trial still ends after this epoch when the next session repeats it."""
    monkeypatch.setattr(driver.study, "report", die)
    with pytest.raises(KeyboardInterrupt):
        driver.process(result)
    record = driver.reopened()
    assert record.history == []
    assert (record.stop and record.stop_epoch == 1) or record.collapse == "at chance"
    assert driver.tracker.epochs == []


def test_the_epoch_is_on_disk_before_mlflow_gets_it(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.tracker, "log_epoch", die)
    with pytest.raises(KeyboardInterrupt):
        driver.process(epoch_result())
    record = driver.reopened()
    assert len(record.history) == 1
    assert record.status is Status.PRUNED  # closed when the study is opened


def die(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def test_a_result_arrives_typed_and_without_its_checkpoint() -> None:
    update = from_tune(pickle.loads(pickle.dumps(epoch_result())))
    assert isinstance(update, TrialUpdate)
    assert update.result.checkpoint == []
    assert from_tune(failure_to_tune("why", OBJECTIVE)) == Failure("why")
