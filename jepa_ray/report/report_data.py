"""The values that a report is rendered from, as frozen dataclasses. `jepa_ray.sweep.output.reporting` fills them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jepa_ray.config import Budget, Objective
from jepa_ray.diagnosis import Diagnosis, Remedy

STATUSES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")  # of trials, in the order in which they are shown
Params = Mapping[str, Any]  # dotted key -> value, without the keys whose conditions do not hold


class SweepState(enum.StrEnum):
    """State of a sweep at the time its report is written."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    UNFINISHED = "not finished"  # it is running or was killed: the study does not say which


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, or a rate, with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Epoch:
    """The metrics of an epoch, and the group and time of its training if they were recorded."""

    metrics: Mapping[str, float]
    group: str | None = None
    ended: float | None = None  # Unix time

    @property
    def seconds(self) -> float:
        """Duration of training and validation."""
        return self.metrics.get("epoch_s", 0.0)


@dataclass(frozen=True)
class PlanningSuccess:
    """Success rates of planning with a trial's model, and of random actions."""

    success: Interval
    random: float


@dataclass(frozen=True)
class Trial:
    """One training run of the sweep."""

    number: int
    name: str
    label: str  # its configuration on one line
    status: str  # COMPLETE, PRUNED, FAILED, RUNNING
    params: Params
    epochs: Sequence[Epoch] = ()
    rank: int | None = None  # place in the leaderboard; None while it runs, and for repeats
    objective: float | None = None  # of its best epoch
    best_epoch: int | None = None
    stop: str | None = None  # reason of an early stop
    error: str | None = None  # reason of a failure
    collapse: str | None = None  # reason of a stop because the model was at chance level
    diagnosis: Diagnosis | None = None  # of its best epoch
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # of metrics over seeds, if it was repeated
    runs: int = 1  # number of seeds, including its own
    planned: PlanningSuccess | None = None
    pareto: bool | None = None  # with several objectives: whether it is on the Pareto front
    repeat_of: str | None = None
    seed: int | None = None

    @property
    def at_best(self) -> Mapping[str, float]:
        """The metrics of its best epoch."""
        return self.epochs[self.best_epoch - 1].metrics if self.best_epoch else {}

    @property
    def seconds(self) -> float:
        """Duration of all its epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def why(self) -> str | None:
        """The reason why it ended early, if it did."""
        return self.error or self.collapse or self.stop


@dataclass(frozen=True)
class Session:
    """One execution of the sweep command."""

    began: float  # Unix time
    command: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ReportData:
    """All values that a report shows."""

    name: str
    state: SweepState
    written: float  # Unix time
    objectives: Sequence[Objective]
    space: Mapping[str, Any]  # dotted key -> Optuna distribution
    trials: Sequence[Trial]
    budget: Budget
    sessions: Sequence[Session]
    spec: Mapping[str, Any]
    spec_text: str
    remedies: Sequence[Remedy] = ()  # against the most common condition of unhealthy models
    picture: bytes | None = None  # PNG of planned episodes
    versions: Mapping[str, str] = field(default_factory=dict)  # of the environment that writes the report

    @property
    def objective(self) -> Objective:
        """The first objective, by which trials are ranked."""
        return self.objectives[0]

    @property
    def own(self) -> list[Trial]:
        """The trials without the repeats of finalists."""
        return [trial for trial in self.trials if trial.repeat_of is None]

    @property
    def ranked(self) -> list[Trial]:
        """The trials with a rank, best first."""
        return sorted((t for t in self.own if t.rank is not None), key=lambda t: t.rank or 0)

    @property
    def best(self) -> Trial | None:
        """The highest-ranked trial that has a model."""
        return next((trial for trial in self.ranked if trial.status in ("COMPLETE", "PRUNED")), None)

    @property
    def keys(self) -> list[str]:
        """The swept keys."""
        return list(self.space)

    @property
    def epochs_spent(self) -> int:
        """Number of epochs of all trials, including repeats."""
        return sum(len(trial.epochs) for trial in self.trials)

    @property
    def training_seconds(self) -> float:
        """Duration of all epochs, summed over all groups."""
        return sum(trial.seconds for trial in self.trials)
