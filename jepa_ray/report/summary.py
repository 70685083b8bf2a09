"""The summary at the top of a report: the best configuration, its metrics, and the cost of the sweep."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from jepa_ray.config import Place, metrics_shown
from jepa_ray.formatting import format_duration, format_time, label_keys
from jepa_ray.report.panels import format_param
from jepa_ray.report.report_data import ReportData, SweepState, Trial
from jepa_ray.report.timeline import Timeline


@dataclass(frozen=True)
class SummaryItem:
    """A labelled value; `note` gives its context."""

    label: str
    value: str
    note: str = ""


def describe_status(sweep: ReportData) -> str:
    """The progress of the sweep as text."""
    counts = Counter(trial.status for trial in sweep.trials)
    names = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAILED": "failed", "RUNNING": "not ended"}
    states = ", ".join(f"{counts[status]:,} {name}" for status, name in names.items() if counts[status])
    line = f"{len(sweep.trials):,} of {sweep.budget.runs:,} runs started" + (f": {states}." if states else ".")
    if sweep.state is not SweepState.FINISHED:
        line += " The report shows the state at the time it was written; the same command continues the sweep."
    return line


def summarize_parameters(sweep: ReportData) -> list[SummaryItem]:
    """The best configuration, with one item per key."""
    names = label_keys(sweep.keys)
    return [
        SummaryItem(names[key], _format_value(value), key)
        for key, value in (sweep.best.params if sweep.best else {}).items()
    ]


def _format_value(value: object) -> str:
    value = format_param(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def summarize_metrics(sweep: ReportData) -> list[SummaryItem]:
    """The metrics of the best configuration, with intervals over its seeds and for its planning score if known."""
    best = sweep.best
    if best is None:
        return []
    objectives = [objective.metric for objective in sweep.objectives]
    metrics = dict.fromkeys([*objectives, *metrics_shown(Place.REPORT_SUMMARY)])
    names = [name for name in metrics if name in best.at_best]
    items = [_metric(best, name, is_objective=name in objectives) for name in names]
    if best.planned:
        rate = best.planned.success
        note = f"95 %: {rate.low:.0%} to {rate.high:.0%}; random actions: {best.planned.random:.0%}"
        items.insert(1, SummaryItem("plan_success", f"{rate.value:.0%}", note))
    return items


def _metric(best: Trial, name: str, *, is_objective: bool) -> SummaryItem:
    prefix = "objective; " if is_objective else ""
    if interval := best.intervals.get(name):
        note = f"{prefix}mean of {best.runs} seeds, 95 %: {interval.low:.3g} to {interval.high:.3g}"
        return SummaryItem(name, f"{interval.value:.4g}", note)
    value = best.at_best[name]
    text = f"{value:.4g}" if math.isfinite(value) else "not finite"
    return SummaryItem(name, text, f"{prefix}epoch {best.best_epoch}")


def summarize_spending(sweep: ReportData, line: Timeline) -> list[SummaryItem]:
    """The epochs and the time that the sweep has taken so far."""
    items = [SummaryItem("epochs trained", f"{sweep.epochs_spent:,}", _describe_share(sweep))]
    if line.seconds:
        sessions = max(1, len(line.pauses) + 1)
        note = "from the start to the last epoch" + (f", {sessions} sessions" if sessions > 1 else "")
        items.append(SummaryItem("wall time", format_duration(line.seconds, unit=True), note))
    groups = f", in {len(line.groups)} groups" if line.groups else ""
    training_time = format_duration(sweep.training_seconds, unit=True)
    items.append(SummaryItem("training time", training_time, f"sum over all epochs{groups}"))
    if line.groups and (busy := sum(group.busy for group in line.groups)):
        share = line.idle / (busy + line.idle)
        items.append(SummaryItem("idle", f"{share:.0%}", "of the groups' time since their first epochs"))
    return items


def _describe_share(sweep: ReportData) -> str:
    """The epochs that were trained, in percent of the full grid and of the budget."""
    budget, notes = sweep.budget, []
    if budget.grid_epochs:
        notes.append(f"{sweep.epochs_spent / budget.grid_epochs:.0%} of the full grid ({budget.grid_epochs:,})")
    if budget.worst_case_epochs and budget.worst_case_epochs != budget.grid_epochs:
        notes.append(
            f"{sweep.epochs_spent / budget.worst_case_epochs:.0%} of the budget ({budget.worst_case_epochs:,})"
        )
    return "; ".join(notes)


def format_stamp(sweep: ReportData) -> str:
    """The time at which the report was written, and the version that wrote it."""
    return f"Written {format_time(sweep.written)} by jepa-ray {sweep.versions.get('jepa-ray', '')}".rstrip()
