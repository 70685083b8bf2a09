"""What is said first: the best configuration, how good it is, and what finding it took."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass

from jepa_ray.report.panels import labels, param
from jepa_ray.report.report_data import ReportData, SweepState, Trial
from jepa_ray.report.timeline import Timeline

SHOWN_METRICS = ("val_rollout_mrr", "rollout_probe_r2", "val_loss", "val_cosine", "effective_rank", "action_gap")


@dataclass(frozen=True)
class SummaryItem:
    """A number and what it is; `note` puts it into proportion."""

    label: str
    value: str
    note: str = ""


def status_line(sweep: ReportData) -> str:
    """How far the sweep is, in a sentence."""
    counts = Counter(trial.status for trial in sweep.trials)
    words = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAILED": "failed", "RUNNING": "begun, not ended"}
    ended = ", ".join(f"{counts[status]:,} {word}" for status, word in words.items() if counts[status])
    line = f"{len(sweep.trials):,} of {sweep.budget.runs:,} runs begun" + (f": {ended}." if ended else ".")
    if sweep.state is not SweepState.FINISHED:
        line += " This is what there was when the report was written; the same command continues the sweep."
    return line


def best_parameters(sweep: ReportData) -> list[SummaryItem]:
    """The best configuration, a value a key."""
    names = labels(sweep.keys)
    return [
        SummaryItem(names[key], _shown(value), key) for key, value in (sweep.best.params if sweep.best else {}).items()
    ]


def _shown(value: object) -> str:
    value = param(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def best_metrics(sweep: ReportData) -> list[SummaryItem]:
    """What the best configuration reaches, with intervals where its seeds or its plans give one."""
    best = sweep.best
    if best is None:
        return []
    objectives = [objective.metric for objective in sweep.objectives]
    names = [name for name in dict.fromkeys([*objectives, *SHOWN_METRICS]) if name in best.at_best]
    figures = [_metric(best, name, is_objective=name in objectives) for name in names]
    if best.planned:
        rate = best.planned.success
        note = f"95 %: {rate.low:.0%} to {rate.high:.0%}; random actions: {best.planned.random:.0%}"
        figures.insert(1, SummaryItem("plan_success", f"{rate.value:.0%}", note))
    return figures


def _metric(best: Trial, name: str, *, is_objective: bool) -> SummaryItem:
    what = "objective; " if is_objective else ""
    if found := best.intervals.get(name):
        note = f"{what}mean of {best.runs} seeds, 95 %: {found.low:.3g} to {found.high:.3g}"
        return SummaryItem(name, f"{found.value:.4g}", note)
    value = best.at_best[name]
    return SummaryItem(name, f"{value:.4g}" if math.isfinite(value) else "not finite", f"{what}epoch {best.best_epoch}")


def spent(sweep: ReportData, line: Timeline) -> list[SummaryItem]:
    """Compute and time."""
    figures = [SummaryItem("epochs trained", f"{sweep.epochs_spent:,}", _against(sweep))]
    if line.seconds:
        sessions = max(1, len(line.pauses) + 1)
        note = "from the start to the last epoch" + (f", {sessions} sessions" if sessions > 1 else "")
        figures.append(SummaryItem("wall time", clock(line.seconds), note))
    groups = f", in {len(line.groups)} groups" if line.groups else ""
    figures.append(SummaryItem("training time", clock(sweep.training_seconds), f"summed over all epochs{groups}"))
    if line.groups and (busy := sum(group.busy for group in line.groups)):
        share = line.idle / (busy + line.idle)
        figures.append(SummaryItem("idle", f"{share:.0%}", "of the groups' time since their first epochs"))
    return figures


def _against(sweep: ReportData) -> str:
    budget, notes = sweep.budget, []
    if budget.grid_epochs:
        notes.append(f"{sweep.epochs_spent / budget.grid_epochs:.0%} of the full grid's {budget.grid_epochs:,}")
    if budget.epochs and budget.epochs != budget.grid_epochs:
        notes.append(f"{sweep.epochs_spent / budget.epochs:.0%} of at most {budget.epochs:,}")
    return "; ".join(notes)


def stamp(sweep: ReportData) -> str:
    """When and by what the page was written."""
    return f"Written {moment(sweep.written)} by jepa-ray {sweep.versions.get('jepa-ray', '')}".rstrip()


def clock(seconds: float) -> str:
    """1:02:03 h or 2:03 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def moment(seconds: float) -> str:
    """Unix time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
