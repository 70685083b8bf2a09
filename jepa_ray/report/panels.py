"""The tables of a report: leaderboard, model selection by each metric, diagnoses. Plain values without HTML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jepa_ray.config import METRIC_INFO, METRICS, Place, metrics_shown
from jepa_ray.diagnosis import Condition
from jepa_ray.formatting import label_keys, round_finite
from jepa_ray.report.report_data import Interval, ReportData, Trial

Cell = str | float | int | None


@dataclass(frozen=True)
class ReportColumn:
    """A column of a table that can be sorted and filtered."""

    label: str
    numeric: bool = True
    main: bool = True  # whether it is shown initially
    title: str = ""  # full name, if the label is a short one


@dataclass(frozen=True)
class ReportTable:
    """Columns, and rows in their initial order."""

    columns: list[ReportColumn]
    rows: list[list[Cell]]

    def plain(self) -> dict[str, Any]:
        """The table as values that JSON can represent."""
        return {"columns": [asdict(column) for column in self.columns], "rows": self.rows}


# ------------------------------------------------------------------------------------- leaderboard


def build_leaderboard(sweep: ReportData) -> ReportTable:
    """The leaderboard: ranked trials, then running trials, then the repeats of finalists."""
    running = [trial for trial in sweep.own if trial.rank is None]
    repeats = [trial for trial in sweep.trials if trial.repeat_of is not None]
    objectives = {objective.metric for objective in sweep.objectives}  # these have columns of their own
    measured = set().union(*(trial.at_best for trial in sweep.trials)) - objectives
    metrics = [name for name in METRICS if name in measured]
    columns = [*_first_columns(sweep), *_key_columns(sweep.keys), *_metric_columns(metrics), *_last_columns(sweep)]
    rows = [[value(trial) for _, value in columns] for trial in [*sweep.ranked, *running, *repeats]]
    return ReportTable([column for column, _ in columns], rows)


def _first_columns(sweep: ReportData) -> list[Any]:
    """Pairs of a column and the function that returns a trial's cell, as in the functions below."""
    several = sweep.objectives[1:]
    planned = any(trial.planned for trial in sweep.trials)
    repeated = any(trial.intervals for trial in sweep.trials)
    metric = sweep.objective.metric
    return [
        (ReportColumn("rank"), lambda t: t.rank),
        (ReportColumn("trial", numeric=False), lambda t: t.name),
        (ReportColumn("status", numeric=False), lambda t: t.status),
        (ReportColumn("epochs"), lambda t: len(t.epochs)),
        (
            ReportColumn(metric, title=f"the objective, {sweep.objective.mode}"),
            lambda t: round_finite(t.objective),
        ),
        *(
            [(ReportColumn("mean over seeds", numeric=False), lambda t: format_interval(t.intervals.get(metric)))]
            if repeated
            else []
        ),
        *[
            (ReportColumn(o.metric, title=f"{o.mode}"), lambda t, o=o: round_finite(t.at_best.get(o.metric)))
            for o in several
        ],
        *(
            [(ReportColumn("pareto", numeric=False), lambda t: {True: "yes", False: "no"}.get(t.pareto))]
            if several
            else []
        ),
        *([(ReportColumn("plan_success", numeric=False), lambda t: format_planned(t))] if planned else []),
    ]


def _key_columns(keys: Sequence[str]) -> list[Any]:
    names = label_keys(keys)
    return [
        (ReportColumn(names[key], title=key, numeric=True), lambda t, key=key: format_param(t.params.get(key)))
        for key in keys
    ]


def _metric_columns(metrics: Iterable[str]) -> list[Any]:
    main = metrics_shown(Place.REPORT_TABLE)
    return [
        (ReportColumn(name, main=name in main), lambda t, name=name: round_finite(t.at_best.get(name)))
        for name in metrics
    ]


def _last_columns(sweep: ReportData) -> list[Any]:
    return [
        (ReportColumn("seconds"), lambda t: round(t.seconds, 1)),
        (ReportColumn("diagnosis", numeric=False), lambda t: t.diagnosis and str(t.diagnosis.condition)),
        (ReportColumn("note", numeric=False), _note),
    ]


def _note(trial: Trial) -> str | None:
    repeat = f"repeat of {trial.repeat_of}, seed {trial.seed}" if trial.repeat_of else None
    return "; ".join(part for part in (repeat, trial.why) if part) or None


# ------------------------------------------------------------------------------------------- cells


def format_param(value: Any) -> Cell:
    """The value of a hyperparameter as a table cell."""
    if value is None or isinstance(value, (bool, list, dict)):
        return None if value is None else str(value)
    return value if isinstance(value, (int, str)) else float(f"{value:.6g}")


def format_interval(found: Interval | None, *, percent: bool = False) -> str | None:
    """`0.69 [0.66, 0.72]`."""
    if found is None:
        return None
    shown = [f"{v:.0%}" if percent else f"{v:.3g}" for v in (found.value, found.low, found.high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def format_planned(trial: Trial) -> str | None:
    """The success rate of planning with its interval; None if the trial has no planning score."""
    return format_interval(trial.planned.success, percent=True) if trial.planned else None


# ------------------------------------------------------------------------ model selection by metric


@dataclass(frozen=True)
class Pick:
    """The epoch with the best value of a metric, among all epochs of all trials."""

    metric: str
    value: float
    trial: Trial
    epoch: int
    objective: float  # in that epoch
    share: float  # position of `objective` between the worst (0) and the best (1) trial's objective


def find_picks(sweep: ReportData) -> list[Pick]:
    """The pick of each metric that is measured, sorted by the objective that is reached, best first."""
    names = dict.fromkeys([*(objective.metric for objective in sweep.objectives), *metrics_shown(Place.REPORT_PICKS)])
    worst, best = _worst_and_best(sweep)
    picks = [pick for name in names if (pick := _pick(sweep, name))]
    scaled = [replace(pick, share=_share(pick.objective, worst, best)) for pick in picks]
    return sorted(scaled, key=lambda pick: -pick.share)


def group_picks(picks: Sequence[Pick]) -> list[list[Pick]]:
    """Group the picks by trial and epoch."""
    groups: dict[tuple[int, int], list[Pick]] = {}
    for pick in picks:
        groups.setdefault((pick.trial.number, pick.epoch), []).append(pick)
    return list(groups.values())


def _pick(sweep: ReportData, metric: str) -> Pick | None:
    """The pick of one metric, whose share is not computed yet; None if no epoch has the metric and the objective."""
    modes: dict[str, str] = {objective.metric: objective.mode for objective in sweep.objectives}
    sign = -1 if modes.get(metric, METRIC_INFO[metric].direction) == "min" else 1
    objective = sweep.objective.metric
    best: tuple[float, Trial, int] | None = None
    for trial in sweep.own:
        if trial.status == "FAILED":
            continue
        for i, epoch in enumerate(trial.epochs, start=1):
            value, reached = sign * epoch.metrics.get(metric, math.nan), epoch.metrics.get(objective, math.nan)
            if math.isfinite(value) and math.isfinite(reached) and (best is None or value > best[0]):
                best = value, trial, i
    if best is None:
        return None
    value, trial, number = best
    return Pick(metric, sign * value, trial, number, trial.epochs[number - 1].metrics[objective], 0.0)


def _worst_and_best(sweep: ReportData) -> tuple[float, float]:
    """The objective of the worst and the best trial."""
    values = [trial.objective for trial in sweep.own if trial.objective is not None and trial.status != "FAILED"]
    extremes = (min(values, default=0.0), max(values, default=0.0))
    return extremes if sweep.objective.mode == "max" else extremes[::-1]


def _share(value: float, worst: float, best: float) -> float:
    return min(1.0, max(0.0, (value - worst) / (best - worst))) if best != worst else 1.0


# --------------------------------------------------------------------------------------- diagnoses


@dataclass(frozen=True)
class Diagnoses:
    """The conditions of the trials' models."""

    counts: list[tuple[str, int]]  # condition and number of trials, most common first
    unhealthy: ReportTable
    most_common: Condition | None  # among unhealthy models


def find_unhealthy(trials: Iterable[Trial]) -> list[Trial]:
    """The trials whose model was tested and is not healthy."""
    ignored = (Condition.HEALTHY, Condition.UNTESTED)
    return [trial for trial in trials if trial.diagnosis and trial.diagnosis.condition not in ignored]


def collect_diagnoses(sweep: ReportData) -> Diagnoses:
    """The diagnoses of the best epochs of all trials."""
    unhealthy = find_unhealthy(sweep.own)
    counts = Counter(trial.diagnosis.condition for trial in sweep.own if trial.diagnosis)
    columns = [ReportColumn(name, numeric=False) for name in ("trial", "condition", "configuration", "evidence")]
    rows: list[list[Cell]] = [
        [t.name, str(t.diagnosis.condition), t.label, t.diagnosis.evidence] for t in unhealthy if t.diagnosis
    ]
    return Diagnoses(
        [(str(name), count) for name, count in counts.most_common()],
        ReportTable(columns, rows),
        most_common_condition(unhealthy),
    )


def most_common_condition(trials: Iterable[Trial]) -> Condition | None:
    """The most common condition of the unhealthy models; None if all models are healthy or untested."""
    counts = Counter(trial.diagnosis.condition for trial in find_unhealthy(trials) if trial.diagnosis)
    return counts.most_common(1)[0][0] if counts else None
