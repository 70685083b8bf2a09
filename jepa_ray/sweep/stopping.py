"""Stopping rules: which trials end early, and why. Plain numbers in, decisions out; they know no Ray and no Optuna.

A rule's state follows from the results it was told, in any order, so a resumed sweep rebuilds it from the study.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jepa_ray.config import SweepConfig


@dataclass(frozen=True)
class Stop:
    """Why a trial is stopped."""

    epoch: int
    value: float
    cutoff: float  # what the value had to reach
    rule: str  # how the cut-off comes about

    def __str__(self) -> str:
        return f"stopped at epoch {self.epoch}: {self.value:.4g} is worse than {self.cutoff:.4g}, {self.rule}"


class Rule(Protocol):
    """What decides."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """A result of a trial that was judged before, in an earlier session."""
        ...

    def judge(self, number: int, epoch: int, value: float) -> Stop | None:
        """Take in a new result, and say whether it is the trial's last; a result known already stops nothing."""
        ...


class Never:
    """Every trial trains to its end."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Nothing to remember."""

    def judge(self, number: int, epoch: int, value: float) -> Stop | None:
        """Never."""
        return None


class Asha:
    """Asynchronous successive halving (Li et al. 2020), the variant that stops and never waits.

    At each rung a trial goes on if it is not below the 1 - 1/reduction quantile (linear interpolation) of the values
    that reached the rung before it; the first one always does.

    Args:
        rungs: epochs at which is decided.
        reduction: a rung keeps the best 1/reduction.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: Iterable[int], reduction: int, sign: int) -> None:
        self._rungs: dict[int, dict[int, float]] = {rung: {} for rung in rungs}  # epoch -> number -> value * sign
        self._reduction, self._sign = reduction, sign

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember what reached a rung."""
        if epoch in self._rungs:
            self._rungs[epoch][number] = self._sign * value

    def judge(self, number: int, epoch: int, value: float) -> Stop | None:
        """Whether the value is among the best 1/reduction of its rung so far."""
        rung = self._rungs.get(epoch, {})
        if epoch not in self._rungs or number in rung:
            return None
        before = list(rung.values())
        self.tell(number, epoch, value)
        if not before:
            return None
        cutoff = float(np.quantile(before, 1 - 1 / self._reduction))
        if self._sign * value >= cutoff:
            return None
        return Stop(epoch, value, self._sign * cutoff, f"the best 1/{self._reduction} of {len(before)} before it")


def make_rule(spec: SweepConfig) -> Rule:
    """The rule that a spec describes."""
    stopping = spec.early_stopping
    if not stopping.enabled:
        return Never()
    sign = 1 if spec.objective.mode == "max" else -1
    return Asha(stopping.rungs(), stopping.reduction_factor, sign)
