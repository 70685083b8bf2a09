"""Stopping rules: which trials end early, and why. Plain numbers in, decisions out; they know no Ray and no Optuna.

A rule's state follows from the results it was told, in any order, so a resumed sweep rebuilds it from the study.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from jepa_ray.config import SweepConfig


@dataclass(frozen=True)
class StopDecision:
    """Why a trial is stopped."""

    epoch: int
    value: float
    cutoff: float  # what the value had to reach
    rule: str  # how the cut-off comes about

    def __str__(self) -> str:
        return f"stopped at epoch {self.epoch}: {self.value:.4g} is worse than {self.cutoff:.4g}, {self.rule}"


class StoppingRule(Protocol):
    """What decides."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """A result of a trial that was judged before, in an earlier session."""
        ...

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Take in a new result, and say whether it is the trial's last; a result known already stops nothing."""
        ...


class Never:
    """Every trial trains to its end."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Nothing to remember."""

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
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

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Whether the value is among the best 1/reduction of its rung so far."""
        rung = self._rungs.get(epoch, {})
        if epoch not in self._rungs or number in rung:
            return None
        before = list(rung.values())
        self.tell(number, epoch, value)
        if not before:
            return None
        cutoff = float(np.percentile(before, (1 - 1 / self._reduction) * 100))
        if self._sign * value >= cutoff:
            return None
        return StopDecision(
            epoch, value, self._sign * cutoff, f"the best 1/{self._reduction} of {len(before)} before it"
        )


class Hyperband:
    """Asynchronous Hyperband: ASHA several times over, from all rungs down to none (Li et al. 2018, algorithm 1).

    A bracket with fewer rungs gives its trials more time before it judges them, and gets fewer trials, so that all
    brackets train about as much. Which one a trial is in follows from its number alone.

    Args:
        rungs: those of the bracket that stops earliest.
        reduction: a rung keeps the best 1/reduction.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: list[int], reduction: int, sign: int) -> None:
        self._brackets = [Asha(rungs[skipped:], reduction, sign) for skipped in range(len(rungs) + 1)]
        self._cycle = [b for b, size in enumerate(bracket_sizes(len(rungs), reduction)) for _ in range(size)]

    def bracket(self, number: int) -> int:
        """The bracket of a trial: how many rungs it is spared."""
        return self._cycle[number % len(self._cycle)]

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember what reached a rung of its bracket."""
        self._brackets[self.bracket(number)].tell(number, epoch, value)

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """ASHA among the trials of the same bracket."""
        bracket = self.bracket(number)
        stop = self._brackets[bracket].judge(number, epoch, value)
        return stop and replace(stop, rule=f"{stop.rule} in bracket {bracket + 1} of {len(self._brackets)}")


def bracket_sizes(rungs: int, reduction: int) -> list[int]:
    """Trials of each bracket, before the first one gets trials again; those with `rungs`, rungs - 1, ... 0 rungs."""
    return [-(-(rungs + 1) * reduction**left // (left + 1)) for left in range(rungs, -1, -1)]


class Median:
    """Vizier's median rule (Golovin et al. 2017, section 3.2.2).

    A trial ends whose best value so far is worse than the median of the others' means over the same epochs. Vizier
    asks completed trials; here all count that reached the epoch, since the first ones all complete at the same time.

    Args:
        rungs: epochs at which is decided.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: Iterable[int], sign: int) -> None:
        self._rungs, self._sign = frozenset(rungs), sign
        self._curves: dict[int, dict[int, float]] = defaultdict(dict)  # number -> epoch -> value * sign

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember a value of any epoch."""
        self._curves[number][epoch] = self._sign * value

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Whether the trial's best is at least the median of the others' means."""
        if epoch in self._curves[number]:
            return None
        self.tell(number, epoch, value)
        others = [_mean(curve, epoch) for other, curve in self._curves.items() if other != number and epoch in curve]
        if epoch not in self._rungs or not others:
            return None
        best, cutoff = max(self._curves[number].values()), statistics.median(others)
        if best >= cutoff:
            return None
        rule = f"the median of {len(others)} others' means over epochs 1 to {epoch}"
        return StopDecision(epoch, self._sign * best, self._sign * cutoff, rule)


def _mean(curve: dict[int, float], last: int) -> float:
    """Over the epochs to `last`; exact sums, since the order of arrival must not matter."""
    values = [value for epoch, value in curve.items() if epoch <= last]
    return math.fsum(values) / len(values)


def make_stopping_rule(spec: SweepConfig) -> StoppingRule:
    """The rule that a spec describes."""
    stopping = spec.early_stopping
    sign = 1 if spec.objective.mode == "max" else -1
    match stopping.rule:
        case "asha":
            return Asha(stopping.rungs(), stopping.reduction_factor, sign)
        case "hyperband":
            return Hyperband(stopping.rungs(), stopping.reduction_factor, sign)
        case "median":
            return Median(stopping.rungs(), sign)
        case "none":
            return Never()
