"""Stopping rules: which trials end early, and why. Numbers in, decisions out: neither Ray nor Optuna is used.

A rule's state depends on the reported results and not on their order, so a resumed sweep rebuilds it from the study.
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
from jepa_ray.formatting import format_count


@dataclass(frozen=True)
class StopDecision:
    """Why a trial is stopped."""

    epoch: int
    value: float
    cutoff: float  # the value that the trial had to reach
    rule: str  # how the cut-off is computed

    def __str__(self) -> str:
        return f"stopped at epoch {self.epoch}: {self.value:.4g} is worse than {self.cutoff:.4g}, {self.rule}"


class StoppingRule(Protocol):
    """Decides after every epoch whether a trial ends."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Take in a result without a decision: a trial's last one, or one that an earlier session decided about."""
        ...

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Take in a new result; the decision to stop the trial, or None. A result that is already known never stops."""
        ...


class Never:
    """Stops no trial."""

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Do nothing."""

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Never stop a trial."""
        return None


class Asha:
    """Asynchronous successive halving (Li et al. 2020), the variant that stops and never waits.

    At each rung a trial continues if its value is at least the 1 - 1/reduction quantile (linear interpolation) of the
    values that earlier trials had there. The first trial at a rung always continues.

    Args:
        rungs: epochs at which the rule decides.
        reduction: a rung keeps the best 1/reduction of its trials.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: Iterable[int], reduction: int, sign: int) -> None:
        self._rungs: dict[int, dict[int, float]] = {rung: {} for rung in rungs}  # epoch -> number -> value * sign
        self._reduction, self._sign = reduction, sign

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember the value, if the epoch is a rung."""
        if epoch in self._rungs:
            self._rungs[epoch][number] = self._sign * value

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Stop the trial if its value is not among the best 1/reduction of its rung so far."""
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
        rule = f"the cut-off of the best 1/{self._reduction} of the {format_count(len(before), 'trial')} before it"
        return StopDecision(epoch, value, self._sign * cutoff, rule)


class Hyperband:
    """Asynchronous Hyperband: several brackets, each ASHA with one rung fewer (Li et al. 2018, algorithm 1).

    A bracket with fewer rungs trains its trials longer before the first decision, and gets fewer trials, so that all
    brackets train about the same number of epochs. A trial's number alone determines its bracket.

    Args:
        rungs: rungs of the bracket that stops earliest.
        reduction: a rung keeps the best 1/reduction of its trials.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: list[int], reduction: int, sign: int) -> None:
        self._brackets = [Asha(rungs[skipped:], reduction, sign) for skipped in range(len(rungs) + 1)]
        self._cycle = [b for b, size in enumerate(bracket_sizes(len(rungs), reduction)) for _ in range(size)]

    def bracket(self, number: int) -> int:
        """The bracket of a trial: the number of rungs that it skips."""
        return self._cycle[number % len(self._cycle)]

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember the value, if the epoch is a rung of the trial's bracket."""
        self._brackets[self.bracket(number)].tell(number, epoch, value)

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """ASHA among the trials of the same bracket."""
        bracket = self.bracket(number)
        stop = self._brackets[bracket].judge(number, epoch, value)
        return stop and replace(stop, rule=f"{stop.rule} in bracket {bracket + 1} of {len(self._brackets)}")


def bracket_sizes(rungs: int, reduction: int) -> list[int]:
    """How many trials in a row each bracket gets: first the one with all rungs, last the one without rungs.

    A bracket with `left` rungs gets ceil((rungs + 1) / (left + 1) * reduction^left) trials (Li et al. 2018).
    """
    return [-(-(rungs + 1) * reduction**left // (left + 1)) for left in range(rungs, -1, -1)]


class Median:
    """Vizier's median rule (Golovin et al. 2017, section 3.2.2).

    A trial ends if its best value so far is worse than the median of the other trials' means over the same epochs.
    Vizier compares with complete trials only. Here every trial that reached the epoch counts, since otherwise the first
    trials, which all complete at about the same time, could not be stopped.

    Args:
        rungs: epochs at which the rule decides.
        sign: 1 where larger values are better, -1 where smaller ones are.
    """

    def __init__(self, rungs: Iterable[int], sign: int) -> None:
        self._rungs, self._sign = frozenset(rungs), sign
        self._curves: dict[int, dict[int, float]] = defaultdict(dict)  # number -> epoch -> value * sign

    def tell(self, number: int, epoch: int, value: float) -> None:
        """Remember the value of any epoch."""
        self._curves[number][epoch] = self._sign * value

    def judge(self, number: int, epoch: int, value: float) -> StopDecision | None:
        """Stop the trial if its best value is worse than the median of the others' means."""
        if epoch in self._curves[number]:
            return None
        self.tell(number, epoch, value)
        others = [_mean(curve, epoch) for other, curve in self._curves.items() if other != number and epoch in curve]
        if epoch not in self._rungs or not others:
            return None
        best, cutoff = max(self._curves[number].values()), statistics.median(others)
        if best >= cutoff:
            return None
        rule = f"the median of the means of {format_count(len(others), 'other trial')} over epochs 1 to {epoch}"
        return StopDecision(epoch, self._sign * best, self._sign * cutoff, rule)


def _mean(curve: dict[int, float], last: int) -> float:
    """The mean up to epoch `last`. The sum is exact, so that the order in which values arrive does not matter."""
    values = [value for epoch, value in curve.items() if epoch <= last]
    return math.fsum(values) / len(values)


def make_stopping_rule(spec: SweepConfig) -> StoppingRule:
    """The stopping rule of a spec."""
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
