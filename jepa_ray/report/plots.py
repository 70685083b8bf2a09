"""The plots of a report as plain Plotly figures (`data` and `layout`), or a note where there is nothing to plot.

Colours are names of CSS variables (`var:complete`). The page replaces them by colours of its light or dark mode.
"""

from __future__ import annotations

import html
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepa_ray.formatting import format_params, round_finite
from jepa_ray.report.report_data import STATUSES, ReportData, Trial
from jepa_ray.report.timeline import Span, Timeline

MAX_CURVES, BEST_CURVES = 150, 50  # lines in total, and lines of the best trials; more lines hide each other
MAX_GROUPS = 60
SEED = 0
WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAILED": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class Plot:
    """A figure with a note. If there is nothing to plot, `figure` is None and the note gives the reason."""

    figure: dict[str, Any] | None
    note: str = ""


def sample_trials(trials: Sequence[Trial], max_trials: int, best: int) -> list[Trial]:
    """All trials, or if there are too many, the `best` first ones and a random sample of the others."""
    if len(trials) <= max_trials:
        return list(trials)
    others = random.Random(SEED).sample(trials[best:], max_trials - best)
    return [*trials[:best], *sorted(others, key=lambda trial: trial.number)]


def describe_sample(shown: int, total: int, best: int) -> str:
    """A note about the trials that `sample_trials` left out; empty if all trials are shown."""
    if shown == total:
        return ""
    return f"The plot shows the best {best} of {total:,} trials, and {shown - best} of the others, chosen at random."


# --------------------------------------------------------------------------------- learning curves


def plot_curves(sweep: ReportData) -> Plot:
    """The objective of each trial by epoch, with the rungs, and a cross where a trial was stopped early."""
    trials = [t for t in [*sweep.ranked, *(t for t in sweep.own if t.rank is None)] if t.epochs]
    if not trials:
        return Plot(None, "No trial has ended an epoch yet, so there are no learning curves.")
    shown, metric = sample_trials(trials, MAX_CURVES, BEST_CURVES), sweep.objective.metric
    traces = [_lines([t for t in shown if t.status == status], status, metric) for status in STATUSES]
    best = [_best_line(sweep.best, metric)] if sweep.best else []
    stops = _stops([t for t in shown if t.status == "PRUNED"], metric)
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "dtick": _tick(max(len(t.epochs) for t in shown)), "rangemode": "tozero"},
        "yaxis": {"title": {"text": metric}},
        "shapes": [_vertical(rung) for rung in sweep.budget.rungs],
        "annotations": [_above(rung, "rung") for rung in sweep.budget.rungs[:4]],
        "hovermode": "closest",
    }
    data = [trace for trace in [*traces[::-1], *stops, *best] if trace]
    return Plot({"data": data, "layout": layout}, describe_sample(len(shown), len(trials), BEST_CURVES))


def _tick(epochs: int) -> int:
    return max(1, math.ceil(epochs / 12))


def _lines(trials: Sequence[Trial], status: str, metric: str) -> dict[str, Any] | None:
    """One trace with the curves of all trials of a status, separated by gaps."""
    if not trials:
        return None
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        values = [round_finite(epoch.metrics.get(metric)) for epoch in trial.epochs]
        x += [*range(1, len(values) + 1), None]
        y += [*values, None]
        text += [_hover(trial)] * (len(values) + 1)
    return {
        "type": "scatter",
        "mode": "lines+markers" if max(len(t.epochs) for t in trials) < 30 else "lines",
        "name": f"{WORDS[status]} ({len(trials)})",
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<br>epoch %{x}: %{y:.4g}<extra></extra>",
        "line": {"color": f"var:{status.lower()}", "width": 1.2},
        "marker": {"size": 4},
        "opacity": 0.7,
        "connectgaps": False,
    }


def _best_line(best: Trial, metric: str) -> dict[str, Any]:
    line = _lines([best], best.status, metric)
    assert line is not None
    width = {"color": "var:best", "width": 3.5}
    return {**line, "name": f"best: {best.name}", "mode": "lines+markers", "opacity": 1, "line": width}


def _stops(trials: Sequence[Trial], metric: str) -> list[dict[str, Any]]:
    if not trials:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "stop",
            "x": [len(trial.epochs) for trial in trials],
            "y": [round_finite(trial.epochs[-1].metrics.get(metric)) for trial in trials],
            "text": [f"{_hover(trial)}<br>{escape(trial.why or '')}" for trial in trials],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"symbol": "x", "size": 7, "color": "var:pruned"},
        }
    ]


def _hover(trial: Trial) -> str:
    return f"<b>{escape(trial.name)}</b> {escape(format_params(trial.params))}"


def escape(text: str) -> str:
    """Shorten a text and escape it as HTML, since Plotly interprets some HTML tags in texts."""
    return html.escape(text if len(text) <= 160 else text[:157] + "...")


def _vertical(x: float, colour: str = "var:muted") -> dict[str, Any]:
    line = {"color": colour, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _above(x: float, text: str) -> dict[str, Any]:
    place = {"x": x, "y": 1, "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False}
    return {**place, "text": text, "font": {"size": 11, "color": "var:muted"}}


# ---------------------------------------------------------------------------------------- progress


def plot_progress(sweeps: Sequence[ReportData], names: Sequence[str] = ("",)) -> Plot:
    """The best objective so far against the epochs spent, with one line per sweep."""
    lines = [(name, steps) for name, sweep in zip(names, sweeps, strict=True) if (steps := best_so_far(sweep))]
    if not lines:
        return Plot(None, "No trial has ended an epoch yet, so there is no objective to plot.")
    colours = ("var:complete", "var:pruned")
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "color": colour, "width": 2.5, "dash": dash},
            "name": escape(name),
            "x": [step[0] for step in steps],
            "y": [step[1] for step in steps],
            "hovertemplate": "after %{x} epochs: %{y:.4g}<extra></extra>",
        }
        for (name, steps), colour, dash in zip(lines, colours, ("solid", "dash"), strict=False)
    ]
    metric = sweeps[0].objective.metric
    axes = {
        "xaxis": {"title": {"text": "epochs spent, without repeats"}},
        "yaxis": {"title": {"text": f"best {metric}"}},
    }
    return Plot({"data": data, "layout": {**axes, "showlegend": len(lines) > 1}})


def best_so_far(sweep: ReportData) -> list[tuple[int, float]]:
    """(epochs spent, best objective) at each improvement, and at the end; epochs of repeats are not counted."""
    objective, steps = sweep.objective, list[tuple[int, float]]()
    best: float | None = None
    spent = 0
    for epoch in _in_order(sweep):
        spent += 1
        value = round_finite(epoch.metrics.get(objective.metric))
        if value is not None and objective.better(value, best):
            best = value
            steps.append((spent, value))
    return [*steps, (spent, best)] if best is not None else []


def _in_order(sweep: ReportData) -> list[Any]:
    """The epochs of all trials but repeats, in the order of their ends; if an end is unknown, in that of the trials."""
    epochs = [epoch for trial in sweep.own for epoch in trial.epochs]
    if any(epoch.ended is None for epoch in epochs):
        return epochs
    return sorted(epochs, key=lambda epoch: epoch.ended or 0.0)


# ---------------------------------------------------------------------------------------- timeline


def plot_timeline(line: Timeline) -> Plot:
    """The epochs of the groups over time, with one row per group and one bar per trial."""
    if not line.spans:
        return Plot(None, "The study has no times of epochs: no epoch has ended yet, or an older version wrote it.")
    names = {time.group: f"group {i}" for i, time in enumerate(line.groups[:MAX_GROUPS], start=1)}
    spans = [span for span in line.spans if span.group in names]
    unit, word = (60.0, "minutes") if line.seconds < 3 * 3600 else (3600.0, "hours")
    by_status = {status: [span for span in spans if span.status == status] for status in (*STATUSES, "MIXED")}
    data = [_bars(own, status, names, unit, word) for status, own in by_status.items() if own]
    layout = {
        "barmode": "overlay",
        "bargap": 0.25,
        "height": 170 + 26 * len(names),
        "legend": {"y": -50 / (60 + 26 * len(names))},  # below the axis title at any height of the plot
        "xaxis": {"title": {"text": f"{word} since the sweep began"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "categoryorder": "array", "categoryarray": list(names.values())},
        "shapes": [_vertical(pause / unit) for pause in line.pauses],
        "annotations": [_above(pause / unit, "continued") for pause in line.pauses[:6]],
    }
    return Plot({"data": data, "layout": layout}, _timeline_note(line))


def _bars(spans: Sequence[Span], status: str, names: dict[str, str], unit: float, word: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": WORDS.get(status, "several trials"),
        "y": [names[span.group] for span in spans],
        "base": [round(span.began / unit, 4) for span in spans],
        "x": [round((span.ended - span.began) / unit, 4) for span in spans],
        "text": [f"{escape(s.trial)}, {s.epochs} {'epoch' if s.epochs == 1 else 'epochs'}" for s in spans],
        "textposition": "none",
        "hovertemplate": f"%{{text}}<br>%{{x:.2f}} {word} from %{{base:.2f}} on<extra>%{{y}}</extra>",
        "marker": {"color": f"var:{status.lower()}", "line": {"color": "var:paper", "width": 0.7}},
    }


def _timeline_note(line: Timeline) -> str:
    notes = []
    if line.pauses:
        notes.append("The time between sessions is left out (dotted lines).")
    if line.merged:
        notes.append("There are too many trials for separate bars, so consecutive trials share a bar.")
    if len(line.groups) > MAX_GROUPS:
        notes.append(f"The plot shows the first {MAX_GROUPS} of {len(line.groups)} groups.")
    if line.unknown:
        notes.append(f"For {line.unknown:,} epochs, the group was not recorded.")
    return " ".join(notes)
