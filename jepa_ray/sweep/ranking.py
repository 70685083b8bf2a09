"""The order of a sweep's trials: their ranks, the means of repeated trials, and the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scipy import stats

from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import StudyView

SortKey = tuple[int, float]  # the place of the status, and the objective with the sign that makes smaller values better
RANKED = (Status.COMPLETE, Status.PRUNED)  # the statuses of trials that have a model


@dataclass(frozen=True)
class MeanInterval:
    """The mean objective of one configuration over runs with different seeds, and its 95 % confidence interval."""

    runs: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> MeanInterval:
        """The interval by Student's t-distribution; needs at least two values."""
        runs, mean = len(values), statistics.mean(values)
        half = float(stats.t.ppf(0.975, runs - 1)) * statistics.stdev(values) / math.sqrt(runs)
        return cls(runs, mean, mean - half, mean + half)


def compute_repeat_means(study: StudyView) -> dict[int, MeanInterval]:
    """The mean objective of every repeated finalist, by the number of its first trial. Failed repeats do not count."""
    values: dict[int, list[float]] = {}
    records = study.records()
    for record in records:
        if record.repeat_of is not None and record.status in RANKED:
            value = study.best_value(record)
            assert value is not None, ("a repeat that did not fail has epochs", record)
            values.setdefault(record.repeat_of, []).append(value)
    first = {record.number: study.best_value(record) for record in records if record.number in values}
    return {
        number: MeanInterval.of([value for value in [first[number], *repeats] if value is not None])
        for number, repeats in values.items()
    }


def rank_trials(study: StudyView, *, by_planning: bool = True, by_repeats: bool = True) -> list[TrialRecord]:
    """All trials that have ended, best first; repeats are left out.

    Trials with a planning score come first, ordered by their success rate; then repeated trials, ordered by their mean
    objective; then complete trials, pruned trials (compared over fewer epochs) and failed trials, each by objective.
    """
    means = compute_repeat_means(study) if by_repeats else {}

    def order(record: TrialRecord) -> tuple[float, bool, SortKey, int]:
        mean = means.get(record.number)
        success = record.planning_score.plan_success if by_planning and record.planning_score else -1.0
        return -success, mean is None, sort_key(study, record, mean.mean if mean else None), record.number

    ended = [r for r in study.records() if r.status is not Status.RUNNING and r.repeat_of is None]
    return sorted(ended, key=order)


def sort_key(study: StudyView, record: TrialRecord, value: float | None = None) -> SortKey:
    """The key by which a trial that has ended is sorted, best first: its status, then `value` or its best objective."""
    value = study.best_value(record) if value is None else value
    sign = -1 if study.spec.objective.mode == "max" else 1
    order = [*RANKED, Status.FAILED]
    return order.index(record.status), math.inf if value is None else sign * value


def find_best(ranking: Iterable[TrialRecord]) -> TrialRecord | None:
    """The first trial of a ranking that did not fail."""
    return next((record for record in ranking if record.status in RANKED), None)


def find_pareto_front(study: StudyView) -> set[int]:
    """The numbers of the complete trials that are not dominated by another one.

    A trial dominates another if it is at least as good in every objective, and better in at least one.
    """
    signs = [1 if objective.mode == "max" else -1 for objective in study.spec.objectives]
    gains = {
        record.number: [sign * value for sign, value in zip(signs, study.best_values(record), strict=True)]
        for record in study.records()
        if record.status is Status.COMPLETE and record.repeat_of is None
    }
    return {number for number, gain in gains.items() if not any(_dominates(other, gain) for other in gains.values())}


def _dominates(a: list[float], b: list[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
