"""The budget of a sweep: how many trials it may train, and for how many epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The trials and epochs that a sweep may spend. `jepa_ray.sweep.search.budget` works it out from a spec."""

    points: int | None  # of the search space; None if a dimension is continuous
    trials: int  # at most
    repeats: int  # further runs of the finalists
    rungs: Sequence[int]  # epochs at which a trial can be stopped
    max_epochs: int  # of one run

    @property
    def runs(self) -> int:
        """Trials and repeats."""
        return self.trials + self.repeats

    @property
    def worst_case_epochs(self) -> int:
        """Epochs if no trial is stopped early."""
        return self.runs * self.max_epochs

    @property
    def grid_epochs(self) -> int | None:
        """Epochs if every point of the search space is trained to its end; None if it has infinitely many points."""
        return None if self.points is None else self.points * self.max_epochs
