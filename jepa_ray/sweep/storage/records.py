"""The record of a trial: plain frozen values, and how they are read from the trials of an Optuna study."""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from jepa_ray.config import Objective
from jepa_ray.config.dimensions import Params
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.tune_result import TrainedBy

NUMBER = "number"  # attribute of an Optuna trial: the sweep's own number of it
DISCARDED = "replaced"  # attribute of a suggestion that is a duplicate and is never trained; a stored name
WARM_START_MARK = "warm_start"  # attribute of a trial of an earlier sweep; also of a study that has all of them
OTHER_TRIALS = {DISCARDED, WARM_START_MARK}  # an Optuna trial with one of these is not a trial of the sweep


class Status(enum.StrEnum):
    """The state of a trial, as the leaderboard names it."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


TO_OPTUNA = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
_FROM_OPTUNA = {state: status for status, state in TO_OPTUNA.items()}


@dataclass(frozen=True)
class PlanningScore:
    """The success rate of planning with a trial's model."""

    plan_success: float  # in [0, 1]
    low: float  # lower end of its 95 % interval
    high: float  # upper end
    random: float  # success rate of random actions under the same protocol


@dataclass(frozen=True)
class TrialRecord:
    """Everything that the study knows about one trial."""

    number: int  # 0, 1, ... in the order in which the trials began
    params: Params  # as Optuna has them; `space.decode` turns them into those of a train config
    status: Status
    history: list[dict[str, float]]  # metrics of epoch 1, 2, ...
    finished: bool = False  # reached its own end: max_epochs, or no progress for `training.patience` epochs
    error: str | None = None  # the reason, if the trial failed
    collapse: str | None = None  # the diagnosis, if it stopped the trial
    stop: str | None = None  # the reason, if the stopping rule stopped the trial
    stop_epoch: int | None = None  # the epoch after which the stopping rule stopped the trial
    planning_score: PlanningScore | None = None  # of the best trials, if the spec asks for it
    repeat_of: int | None = None  # number of the finalist that this trial repeats
    seed: int | None = None  # of a repeat
    trained_by: list[TrainedBy] = field(default_factory=list)  # of epoch 1, 2, ...

    @property
    def over(self) -> bool:
        """Whether no further epoch is to be trained. The study closes such a trial, if it has not done so yet."""
        stopped = self.stop_epoch is not None and len(self.history) >= self.stop_epoch
        return bool(self.finished or self.collapse or self.error or stopped)

    @property
    def seconds(self) -> float:
        """Time spent on training and validating it."""
        return sum(row["epoch_s"] for row in self.history)

    @property
    def trial_id(self) -> str:
        """The trial's name in tables, logs and MLflow."""
        return trial_name(self.number)

    def best_epoch(self, objective: Objective) -> int | None:
        """The first epoch (1, 2, ...) with the best value of an objective; None if no epoch has a value.

        NaN is not a value. This is the one definition of a trial's best epoch.
        """
        values = {epoch: row[objective.metric] for epoch, row in enumerate(self.history, start=1)}
        best = objective.best(value for value in values.values() if not math.isnan(value))
        return next((epoch for epoch, value in values.items() if value == best), None)

    def best_metrics(self, objective: Objective) -> Mapping[str, float]:
        """The metrics of the best epoch; empty if the trial has no best epoch."""
        epoch = self.best_epoch(objective)
        return self.history[epoch - 1] if epoch else {}


# ------------------------------------------------------------------------------- reading from Optuna

_NO_METRICS = {"last", "ran"}  # keys of an epoch's attribute that are not metrics
_TEXT = (str, type(None))
_TRAINED_BY = (_TEXT, (int, float, type(None)), _TEXT)  # types of `TrainedBy`; older versions store no hosts


def read_records(trials: Iterable[FrozenTrial], study_attributes: Mapping[str, Any]) -> dict[int, TrialRecord]:
    """The records of the sweep's own trials, by number. Raises `ValueError` for attributes of any other form."""
    records: dict[int, TrialRecord] = {}
    for trial in trials:
        if OTHER_TRIALS & trial.user_attrs.keys():
            continue
        record = read_record(trial, study_attributes)
        if record.number in records:
            raise ValueError(f"two trials have the number {record.number}")
        records[record.number] = record
    return records


def read_record(trial: FrozenTrial, study_attributes: Mapping[str, Any]) -> TrialRecord:
    """The record of one of the sweep's own trials. Raises `ValueError` for attributes of any other form."""
    attributes, number = trial.user_attrs, number_of(trial)
    score = study_attributes.get(planning_key(number))
    keys = itertools.takewhile(lambda key: key in attributes, (f"epoch_{i}" for i in itertools.count(1)))
    rows = [_check_epoch(attributes[key], key, number) for key in keys]
    _check_types(attributes, number)
    return TrialRecord(
        number=number,
        params=dict(trial.params),
        status=_FROM_OPTUNA.get(trial.state, Status.RUNNING),
        history=[{name: value for name, value in row.items() if name not in _NO_METRICS} for row in rows],
        finished=bool(rows and rows[-1]["last"]),
        error=attributes.get("error"),
        collapse=attributes.get("collapse"),
        stop=attributes.get("stop"),
        stop_epoch=attributes.get("stop_epoch"),
        planning_score=PlanningScore(**score) if score else None,
        repeat_of=attributes.get("repeat_of"),
        seed=attributes.get("seed"),
        trained_by=[TrainedBy(*row.get("ran", ())) for row in rows],
    )


def number_of(trial: FrozenTrial) -> int:
    """The sweep's own number of an Optuna trial; Optuna's, if an older version wrote the trial. Raises `ValueError`.

    Optuna also numbers discarded suggestions and warm-start trials, so its numbers have gaps and the sweep's have none.
    """
    number = trial.user_attrs.get(NUMBER, trial.number)
    if type(number) is not int or number < 0:  # JSON's true is an int, too
        raise ValueError(f"the number {number!r} of Optuna's trial {trial.number} is not a whole number from 0 on")
    return number


def planning_key(number: int) -> str:
    """The attribute of the study that holds a trial's planning score: Optuna accepts no attributes of ended trials."""
    return f"finals_{number}"


def _check_epoch(row: Any, key: str, number: int) -> dict[str, Any]:
    """The attribute of an epoch, if it has the form that `Study.report` writes. Raises `ValueError` otherwise."""
    is_row = isinstance(row, dict) and all(
        isinstance(name, str) and isinstance(value, (int, float))
        for name, value in row.items()
        if name not in _NO_METRICS
    )
    trained_by = row.get("ran", []) if is_row else None
    length = len(trained_by) if isinstance(trained_by, list) else math.inf
    if length > len(_TRAINED_BY) or not all(map(isinstance, trained_by or (), _TRAINED_BY)):
        raise ValueError(f"{key} of trial {number} does not hold the metrics of an epoch")
    return dict(row)


def _check_types(attributes: Mapping[str, Any], number: int) -> None:
    for key in ("error", "collapse", "stop"):
        if not isinstance(attributes.get(key), _TEXT):
            raise ValueError(f"{key} of trial {number} is not a text")
    for key in ("stop_epoch", "repeat_of", "seed"):
        if not isinstance(attributes.get(key), (int, type(None))):
            raise ValueError(f"{key} of trial {number} is not a whole number")
