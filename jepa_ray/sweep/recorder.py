"""The one listener to Ray Tune: turns its callbacks into entries of the study, MLflow and the view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from jepa_ray.config import METRICS
from jepa_ray.sweep.search import Status, Study
from jepa_ray.sweep.view import SweepView, describe
from jepa_ray.tracking import Run, Tracker
from jepa_ray.train.worker_group import GroupStartError


class Recorder(Callback):
    """Driver-side; the only place where results are written.

    Raises `GroupStartError` when a group cannot be started before anything was trained: then no other would, and
    retrying every trial would only hide why.
    """

    def __init__(self, study: Study, tracker: Tracker, sweep_id: str, parent: Run, view: SweepView) -> None:
        self._study, self._tracker, self._view = study, tracker, view
        self._sweep_id, self._parent = sweep_id, parent
        self._runs: dict[str, Run] = {}  # by Tune's trial id
        ended = [study.best_value(r) for r in study.records() if r.status is not Status.RUNNING]
        self._ended = len(ended)
        self._best = study.spec.objective.best(value for value in ended if value is not None)
        self._reconciled = False
        self._trained = False
        self.broken: GroupStartError | None = None

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if not self._reconciled:
            self._study.requeue_unknown({trial.trial_id for trial in trials})
            self._reconciled = True

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        record = self._study.record(trial.trial_id)
        if trial.trial_id not in self._runs:
            self._runs[trial.trial_id] = self._tracker.open_run(
                key=f"{self._sweep_id}/{record.number}",
                name=f"{record.trial_id} {describe(record.params)}",
                params=record.params,
                parent=self._parent,
                tags={"trial_id": record.trial_id, "status": Status.RUNNING},
            )
        self._view.trial_started(record.number, record.params)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if failure := result.get("failure"):
            self._study.note(trial.trial_id, error=failure)
            return
        metrics = {name: result[name] for name in METRICS if name in result}
        self._trained = True
        reached_its_end = result["finished"] and not result["collapse"]
        self._study.report(trial.trial_id, result["epoch"], metrics, last=reached_its_end)
        if collapse := result["collapse"]:
            self._study.note(trial.trial_id, collapse=collapse)
        self._tracker.log_epoch(self._runs[trial.trial_id], result["epoch"], metrics)
        self._view.epoch_done(self._study.number(trial.trial_id), result["epoch"], metrics)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._check_groups_start(trial)
        self._view.retried(self._study.number(trial.trial_id), _error(trial)[1])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._check_groups_start(trial)
        self._study.note(trial.trial_id, error=_error(trial)[1])
        self._end(trial.trial_id, failed=True)

    def _check_groups_start(self, trial: Trial) -> None:
        name, error = _error(trial)
        if name == GroupStartError.__name__ and not self._trained:
            self.broken = GroupStartError(error)
            raise self.broken

    def _end(self, tune_id: str, *, failed: bool = False) -> None:
        if tune_id in self._runs:
            self._study.note(tune_id, mlflow_run_id=self._runs[tune_id].result())
        self._study.finish(tune_id, failed=failed)
        record = self._study.record(tune_id)
        if run := self._runs.get(tune_id):
            why = {"error": record.error, "collapsed": record.collapse}
            self._tracker.tag(run, {"status": str(record.status)} | {k: v for k, v in why.items() if v})
            self._tracker.close_run(run, failed=record.status is Status.FAILED)
        self._view.trial_ended(record)
        self._log_best(self._study.best_value(record))

    def _log_best(self, value: float | None) -> None:
        """On the parent run: the best objective so far against the number of trials done."""
        objective = self._study.spec.objective
        self._ended += 1
        self._best = objective.best(v for v in (self._best, value) if v is not None)
        if self._best is not None:
            self._tracker.log_epoch(self._parent, self._ended, {f"best_{objective.metric}": self._best})


def _error(trial: Trial) -> tuple[str, str]:
    """Name and words of the exception at the end of the traceback that Tune kept.

    Read from the driver's own copy: `trial.get_error()` looks where it is synced to, later.
    """
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text() if path and path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name, _, words = (lines[-1] if lines else "an unknown error").partition(": ")
    return name.rpartition(".")[2], words or name
