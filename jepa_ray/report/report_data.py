"""What a report is drawn from: plain frozen values, filled by whoever keeps the books of a sweep."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jepa_ray.config import Objective
from jepa_ray.diagnosis import Diagnosis, Remedy

Params = Mapping[str, Any]  # dotted key -> value; a key whose condition does not hold is absent


class SweepState(enum.StrEnum):
    """How far a sweep is when its report is written."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    UNFINISHED = "not finished"  # it runs, or was killed: the books alone do not tell


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, or a rate, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Epoch:
    """What an epoch left, and where and when it was trained, if that is known."""

    metrics: Mapping[str, float]
    group: str | None = None
    ended: float | None = None  # Unix time

    @property
    def seconds(self) -> float:
        """Of training and validating."""
        return self.metrics.get("epoch_s", 0.0)


@dataclass(frozen=True)
class Planned:
    """How often planning with a trial's model reached the goal."""

    success: Interval
    random: float  # of random actions


@dataclass(frozen=True)
class Trial:
    """One training run of the sweep."""

    number: int
    name: str
    label: str  # its configuration in a line
    status: str  # COMPLETE, PRUNED, FAILED, RUNNING
    params: Params
    epochs: Sequence[Epoch] = ()
    rank: int | None = None  # none while it runs, and of a repeat
    objective: float | None = None  # of its best epoch
    best_epoch: int | None = None
    stop: str | None = None  # why it was stopped early,
    error: str | None = None  # or failed,
    collapse: str | None = None  # or ended at chance
    diagnosis: Diagnosis | None = None  # of its best epoch
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # of metrics over seeds, where it was repeated
    runs: int = 1  # seeds, its own included
    planned: Planned | None = None
    pareto: bool | None = None  # with several objectives: no other one beats it
    repeat_of: str | None = None
    seed: int | None = None

    @property
    def at_best(self) -> Mapping[str, float]:
        """The metrics of its best epoch."""
        return self.epochs[self.best_epoch - 1].metrics if self.best_epoch else {}

    @property
    def seconds(self) -> float:
        """Of all its epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    @property
    def why(self) -> str | None:
        """Why it ended before its time."""
        return self.error or self.collapse or self.stop


@dataclass(frozen=True)
class Budget:
    """What the sweep may spend."""

    runs: int  # trials and repeats
    max_epochs: int  # of one run
    rungs: Sequence[int]  # epochs at which trials may be stopped
    points: int | None  # of the grid; None of an infinite space

    @property
    def epochs(self) -> int:
        """If nothing is stopped early."""
        return self.runs * self.max_epochs

    @property
    def grid_epochs(self) -> int | None:
        """If every point of the grid is trained to its end."""
        return None if self.points is None else self.points * self.max_epochs


@dataclass(frozen=True)
class Session:
    """From one start of the command to its end, or to an interruption."""

    began: float  # Unix time
    command: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows."""

    name: str
    state: SweepState
    written: float  # Unix time
    objectives: Sequence[Objective]
    space: Mapping[str, Any]  # dotted key -> Optuna distribution
    conditional: frozenset[str]  # keys that not every trial has
    trials: Sequence[Trial]
    budget: Budget
    sessions: Sequence[Session]
    spec: Mapping[str, Any]
    spec_text: str
    remedies: Sequence[Remedy] = ()  # of what ails most of the trials
    picture: bytes | None = None  # PNG of planned episodes
    versions: Mapping[str, str] = field(default_factory=dict)  # where the report was written

    @property
    def objective(self) -> Objective:
        """What ranks."""
        return self.objectives[0]

    @property
    def own(self) -> list[Trial]:
        """The trials without the repeats of finalists."""
        return [trial for trial in self.trials if trial.repeat_of is None]

    @property
    def ranked(self) -> list[Trial]:
        """The ended ones, best first."""
        return sorted((t for t in self.own if t.rank is not None), key=lambda t: t.rank or 0)

    @property
    def best(self) -> Trial | None:
        """The first of the ranking that has a model."""
        return next((trial for trial in self.ranked if trial.status in ("COMPLETE", "PRUNED")), None)

    @property
    def keys(self) -> list[str]:
        """What is swept."""
        return list(self.space)

    @property
    def epochs_spent(self) -> int:
        """By all trials, repeats included."""
        return sum(len(trial.epochs) for trial in self.trials)

    @property
    def training_seconds(self) -> float:
        """Spent in epochs, all groups together."""
        return sum(trial.seconds for trial in self.trials)


def short(key: str) -> str:
    """`training.learning_rate` -> `learning_rate`."""
    return key.rpartition(".")[2]
