"""The one listener to Ray Tune: writes its news to study and MLflow, and passes it on to who else listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback
from ray.tune.experiment import Trial

from jepa_ray.config import METRICS
from jepa_ray.errors import GroupStartError, StorageError
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.output.view import describe
from jepa_ray.sweep.search.space import Params
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Ran, Status, Study, TrialRecord
from jepa_ray.tracking import Run, Tracker


class Listener(Protocol):
    """Who is told of every event once it is recorded: the view, the gauges."""

    def trial_started(self, number: int, params: Params) -> None: ...
    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None) -> None: ...
    def retried(self, number: int, error: str) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...


class Recorder(Callback):
    """Driver-side; the only place where results are written.

    Raises, and so ends the sweep, where going on would only lose trials: `StorageError` when checkpoints cannot be
    written, `GroupStartError` when a group cannot be started before anything was trained.

    `excused` says whether a trial that failed just now is to be retried whatever its failures: a node was lost.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        sweep_id: str,
        parent: Run,
        retention: CheckpointRetention,
        listeners: Sequence[Listener],
        excused: Callable[[], bool] = lambda: False,
    ) -> None:
        self._excused = excused
        self._study, self._tracker, self._retention, self._listeners = study, tracker, retention, listeners
        self._sweep_id, self._parent = sweep_id, parent
        self._runs: dict[int, Run] = {}  # by trial number
        ended = [study.best_value(r) for r in study.records() if r.status is not Status.RUNNING]
        self._ended = len(ended)
        self._best = study.spec.objective.best(value for value in ended if value is not None)
        self._trained = False

    def catch_up(self) -> None:
        """Write to MLflow what an earlier session recorded in the study, but did not live to pass on."""
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
        """The MLflow run of every trial, by number, once everything is written; `StorageError` if it takes longer."""
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
                name=f"{record.trial_id} {describe(params)}",
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
        record = self._study.record(trial.config["number"])
        self._open(record)
        for listener in self._listeners:
            listener.trial_started(record.number, record.params)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config["number"]
        if failure := result.get("failure"):
            self._study.note(number, error=failure)
            return
        self._trained = True
        metrics = {name: result[name] for name in METRICS if name in result}
        if collapse := result["collapse"]:
            self._study.note(number, collapse=collapse)
        reached_its_end = result["finished"] and not collapse
        ran = Ran(*(result.get("ran") or ()))
        if self._study.report(number, result["epoch"], metrics, last=reached_its_end, ran=ran):
            self._tracker.log_epoch(self._runs[number], result["epoch"], metrics)
        for listener in self._listeners:
            listener.epoch_done(number, result["epoch"], metrics, ran.group)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._check_worth_retrying(trial)
        if self._excused():
            trial.run_metadata.num_failures -= 1  # what Tune compares with max_failures
        for listener in self._listeners:
            listener.retried(trial.config["number"], _error(trial)[1])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial.config["number"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._check_worth_retrying(trial)
        self._study.note(trial.config["number"], error=_error(trial)[1])
        self._end(trial.config["number"], failed=True)

    def _check_worth_retrying(self, trial: Trial) -> None:
        name, error = _error(trial)
        if name == GroupStartError.__name__ and not self._trained:
            raise GroupStartError(error)
        if name == StorageError.__name__:
            raise StorageError(f"{error}; the same command continues")

    def _end(self, number: int, *, failed: bool = False) -> None:
        record = self._study.finish(number, failed=failed)
        self._close(record)
        self._retention.ended(record)
        for listener in self._listeners:
            listener.trial_ended(record)
        self._log_best(self._study.best_value(record))

    def _log_best(self, value: float | None) -> None:
        """On the parent run: the best objective so far against the number of trials done."""
        objective = self._study.spec.objective
        self._ended += 1
        self._best = objective.best(v for v in (self._best, value) if v is not None)
        if self._best is not None:
            self._tracker.log_metrics(self._parent, self._ended, {f"best_{objective.metric}": self._best})


def _error(trial: Trial) -> tuple[str, str]:
    """Name and words of the exception at the end of the traceback that Tune kept.

    Read from the driver's own copy: `trial.get_error()` looks where it is synced to, later.
    """
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text() if path and path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name, _, words = (lines[-1] if lines else "an unknown error").partition(": ")
    return name.rpartition(".")[2], words or name
