"""The callback of Ray Tune that records all results: in the study, in MLflow, and for the listeners.

It is the only writer of a trial's results. The scheduler decides when a trial is stopped, and the recorder writes why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from jepa_ray.config import METRICS
from jepa_ray.config.dimensions import Params
from jepa_ray.errors import GroupStartError, StorageError
from jepa_ray.formatting import format_params
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.search.scheduler import TuneScheduler
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrialUpdate, from_tune
from jepa_ray.tracking import Run, Tracker
from jepa_ray.train.mailbox import Failure


class Listener(Protocol):
    """Receives every event after it was recorded. The view and the gauges are listeners."""

    def trial_started(self, number: int, params: Params) -> None:
        """A group starts or continues a trial."""
        ...

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None) -> None:
        """A trial finished an epoch in `group`; None if the result comes from a checkpoint."""
        ...

    def retried(self, number: int, error: str) -> None:
        """A trial's group died; the trial will continue in another one."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        ...


class Recorder(Callback):
    """Writes every event of a sweep to the study, then to MLflow, then passes it on to the listeners.

    Raises, and so ends the sweep, where continuing would only make trials fail: `StorageError` when checkpoints cannot
    be written, `GroupStartError` when a group cannot be started before any epoch was trained.

    Args:
        study, tracker: where results are written.
        sweep_id: prefix of the keys of the trials' MLflow runs.
        parent: the sweep's own MLflow run.
        retention: is informed of every trial that ends, and deletes checkpoints.
        listeners: in the order in which they are called.
        scheduler: has decided about each result before it arrives here.
        excused: whether a failure that happens now does not count, because a node was lost.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        sweep_id: str,
        parent: Run,
        retention: CheckpointRetention,
        listeners: Sequence[Listener],
        scheduler: TuneScheduler,
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._study, self._tracker, self._retention, self._listeners = study, tracker, retention, listeners
        self._sweep_id, self._parent = sweep_id, parent
        self._scheduler, self._excused = scheduler, excused
        self._runs: dict[int, Run] = {}  # by trial number
        ended = [study.best_value(r) for r in study.records() if r.status is not Status.RUNNING]
        self._ended = len(ended)
        self._best = study.spec.objective.best(value for value in ended if value is not None)
        self._trained = False

    def catch_up(self) -> None:
        """Write to MLflow what an earlier session recorded in the study but not in MLflow before it died."""
        known = {run.key: run for run in self._tracker.known_runs(f"{self._sweep_id}/")}
        for record in self._study.records():
            run = known.get(self._key(record.number))
            if run and run.closed and run.epochs >= len(record.history):
                continue
            if run is None and not record.history and record.status is Status.RUNNING:
                continue
            self._open(record)
            for epoch, metrics in enumerate(record.history, start=1):
                if run is None or epoch > run.epochs:
                    self._tracker.log_epoch(self._runs[record.number], epoch, metrics)
            if record.status is not Status.RUNNING:
                self._close(record)

    def run_ids(self, seconds: float | None = None) -> dict[int, str]:
        """The ID of every trial's MLflow run, by trial number, after all writes.

        Raises `StorageError` if a write failed, or if the writes take longer than `seconds`; None: no limit.
        """
        self._tracker.flush(seconds)
        known = self._tracker.known_runs(f"{self._sweep_id}/")
        return {int(run.key.rpartition("/")[2]): run.id for run in known}

    def _key(self, number: int) -> str:
        return f"{self._sweep_id}/{number}"

    def _open(self, record: TrialRecord) -> None:
        if record.number not in self._runs:
            params, repeat = dict(record.params), {}
            if record.repeat_of is not None:
                params |= {"experiment.seed": record.seed}
                repeat = {"repeat_of": trial_name(record.repeat_of)}
            self._runs[record.number] = self._tracker.open_run(
                key=self._key(record.number),
                name=f"{record.trial_id} {format_params(params)}",
                params=params,
                parent=self._parent,
                tags={"trial_id": record.trial_id, "status": Status.RUNNING} | repeat,
            )

    def _close(self, record: TrialRecord) -> None:
        if run := self._runs.get(record.number):
            why = {"error": record.error, "collapsed": record.collapse, "stopped": record.stop}
            self._tracker.tag(run, {"status": str(record.status)} | {k: v for k, v in why.items() if v})
            self._tracker.close_run(run, failed=record.status is Status.FAILED)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune when a trial has an actor."""
        record = self._study.record(trial.config["number"])
        self._open(record)
        for listener in self._listeners:
            listener.trial_started(record.number, record.params)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Ray Tune for every result, after the scheduler."""
        update = from_tune(result)
        if isinstance(update, Failure):
            self._study.note(trial.config["number"], error=update.message)
        else:
            self._trained = True
            self._record_epoch(trial.config["number"], update)

    def _record_epoch(self, number: int, update: TrialUpdate) -> None:
        """Write an epoch to the study and MLflow, and inform the listeners.

        The reason of a stop is written first: after a crash, a trial with the epoch but no reason would be continued.
        """
        epoch = update.result.epoch
        metrics = {name: update.result.metrics[name] for name in METRICS if name in update.result.metrics}
        self._note_end(number, update)
        if self._study.report(number, epoch, metrics, last=update.completed, trained_by=update.trained_by):
            self._tracker.log_epoch(self._runs[number], epoch, metrics)
        for listener in self._listeners:
            listener.epoch_done(number, epoch, metrics, update.trained_by.group)

    def _note_end(self, number: int, update: TrialUpdate) -> None:
        """Write why the trial ends after this epoch, if it was stopped or failed."""
        if update.result.collapse:
            self._study.note(number, collapse=update.result.collapse)
        verdict = self._scheduler.take_verdict(number)
        if verdict and verdict.error:
            self._study.note(number, error=verdict.error)
        elif verdict:
            self._study.note(number, stop=verdict.stop, stop_epoch=verdict.epoch)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune when a trial's actor or group died and the trial is going to be retried."""
        self._check_worth_retrying(trial)
        if self._excused():
            trial.run_metadata.num_failures -= 1  # Ray Tune compares it with max_failures
        for listener in self._listeners:
            listener.retried(trial.config["number"], _read_error(trial)[1])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune when a trial ended without an exception."""
        self._end(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Called by Ray Tune when a trial has used up its retries."""
        self._check_worth_retrying(trial)
        self._study.note(trial.config["number"], error=_read_error(trial)[1])
        self._end(trial.config["number"], failed=True)

    def _check_worth_retrying(self, trial: Trial) -> None:
        """Raise the trial's error if every other trial would fail in the same way."""
        name, message = _read_error(trial)
        if name == GroupStartError.__name__ and not self._trained:
            raise GroupStartError(message)
        if name == StorageError.__name__:
            raise StorageError(f"{message}; the same command continues")

    def _end(self, number: int, *, failed: bool = False) -> None:
        record = self._study.finish(number, failed=failed)
        self._close(record)
        self._retention.ended(record)
        for listener in self._listeners:
            listener.trial_ended(record)
        self._log_best(self._study.best_value(record))

    def _log_best(self, value: float | None) -> None:
        """Log the best objective so far to the sweep's own MLflow run; the step is the number of ended trials."""
        objective = self._study.spec.objective
        self._ended += 1
        self._best = objective.best(v for v in (self._best, value) if v is not None)
        if self._best is not None:
            self._tracker.log_metrics(self._parent, self._ended, {f"best_{objective.metric}": self._best})


def _read_error(trial: Trial) -> tuple[str, str]:
    """Class name and message of the exception at the end of the traceback that Ray Tune saved.

    The driver's own copy is read: `trial.get_error()` reads the place that it is synced to, which happens later.
    """
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text() if path and path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name, _, message = (lines[-1] if lines else "an unknown error").partition(": ")
    return name.rpartition(".")[2], message or name
