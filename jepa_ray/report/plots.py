"""The plots of a report as plain Plotly figures, `data` and `layout`; a sentence where there is nothing to see.

Colours are names of CSS variables (`var:complete`), which the page fills in: light and dark need other ones.
"""

from __future__ import annotations

import html
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepa_ray.report.panels import configuration
from jepa_ray.report.report_data import ReportData, Trial
from jepa_ray.report.timeline import Span, Timeline

MAX_CURVES, BEST_CURVES = 150, 50  # more lines hide each other
MAX_GROUPS = 60
SEED = 0
STATUSES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")
WORDS = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAILED": "failed", "RUNNING": "in training"}


@dataclass(frozen=True)
class Plot:
    """A figure and what is to be said about it; no figure where there is nothing to see, and the note says why."""

    figure: dict[str, Any] | None
    note: str = ""


def thinned(trials: Sequence[Trial], most: int, best: int) -> list[Trial]:
    """All of them, or of too many the best ones (they come first) and a sample of the others."""
    if len(trials) <= most:
        return list(trials)
    others = random.Random(SEED).sample(trials[best:], most - best)
    return [*trials[:best], *sorted(others, key=lambda trial: trial.number)]


def said(shown: int, total: int, best: int) -> str:
    """What `thinned` left out."""
    return (
        "" if shown == total else f"Shown are the best {best} of {total:,} trials and {shown - best} others by chance."
    )


# --------------------------------------------------------------------------------- learning curves


def curves(sweep: ReportData) -> Plot:
    """The objective of every trial by epoch, with the rungs, and a cross where a trial was stopped."""
    trials = [t for t in [*sweep.ranked, *(t for t in sweep.own if t.rank is None)] if t.epochs]
    if not trials:
        return Plot(None, "No trial has ended an epoch yet, so there are no learning curves.")
    shown, metric = thinned(trials, MAX_CURVES, BEST_CURVES), sweep.objective.metric
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
    return Plot({"data": data, "layout": layout}, said(len(shown), len(trials), BEST_CURVES))


def _tick(epochs: int) -> int:
    return max(1, math.ceil(epochs / 12))


def _lines(trials: Sequence[Trial], status: str, metric: str) -> dict[str, Any] | None:
    """One trace for all trials of a status: gaps keep them apart."""
    if not trials:
        return None
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        values = [finite(epoch.metrics.get(metric)) for epoch in trial.epochs]
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
            "y": [finite(trial.epochs[-1].metrics.get(metric)) for trial in trials],
            "text": [f"{_hover(trial)}<br>{safe(trial.why or '')}" for trial in trials],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"symbol": "x", "size": 7, "color": "var:pruned"},
        }
    ]


def _hover(trial: Trial) -> str:
    return f"<b>{safe(trial.name)}</b> {safe(configuration(trial.params))}"


def safe(text: str) -> str:
    """Plotly reads a few HTML tags in texts."""
    return html.escape(text if len(text) <= 160 else text[:157] + "...")


def finite(value: float | None) -> float | None:
    """Five digits; None of what is not a number, and JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _vertical(x: float, colour: str = "var:muted") -> dict[str, Any]:
    line = {"color": colour, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _above(x: float, text: str) -> dict[str, Any]:
    place = {"x": x, "y": 1, "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False}
    return {**place, "text": text, "font": {"size": 11, "color": "var:muted"}}


# ---------------------------------------------------------------------------------------- progress


def progress(sweeps: Sequence[ReportData], names: Sequence[str] = ("",)) -> Plot:
    """The best objective found so far against the epochs spent; a line a sweep."""
    lines = [(name, steps) for name, sweep in zip(names, sweeps, strict=True) if (steps := best_so_far(sweep))]
    if not lines:
        return Plot(None, "No trial has ended an epoch yet, so nothing was found so far.")
    colours = ("var:complete", "var:pruned")
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"shape": "hv", "color": colour, "width": 2.5, "dash": dash},
            "name": safe(name),
            "x": [step[0] for step in steps],
            "y": [step[1] for step in steps],
            "hovertemplate": "after %{x} epochs: %{y:.4g}<extra></extra>",
        }
        for (name, steps), colour, dash in zip(lines, colours, ("solid", "dash"), strict=False)
    ]
    metric = sweeps[0].objective.metric
    axes = {"xaxis": {"title": {"text": "epochs spent, all trials"}}, "yaxis": {"title": {"text": f"best {metric}"}}}
    return Plot({"data": data, "layout": {**axes, "showlegend": len(lines) > 1}})


def best_so_far(sweep: ReportData) -> list[tuple[int, float]]:
    """(epochs spent, best objective) wherever it rises, and at the end."""
    objective, steps = sweep.objective, list[tuple[int, float]]()
    best: float | None = None
    spent = 0
    for epoch in _in_order(sweep):
        spent += 1
        value = finite(epoch.metrics.get(objective.metric))
        if value is not None and objective.better(value, best):
            best = value
            steps.append((spent, value))
    return [*steps, (spent, best)] if best is not None else []


def _in_order(sweep: ReportData) -> list[Any]:
    """All epochs as they ended; those without a time as their trials were begun."""
    epochs = [epoch for trial in sweep.own for epoch in trial.epochs]
    if any(epoch.ended is None for epoch in epochs):
        return epochs
    return sorted(epochs, key=lambda epoch: epoch.ended or 0.0)


# --------------------------------------------------------------------------------------- time line


def groups_over_time(line: Timeline) -> Plot:
    """A row a group, a bar a trial."""
    if not line.spans:
        return Plot(None, "The books of this sweep do not say who trained what when: an older version wrote them.")
    names = {time.group: f"group {i}" for i, time in enumerate(line.groups[:MAX_GROUPS], start=1)}
    spans = [span for span in line.spans if span.group in names]
    unit, word = (60.0, "minutes") if line.seconds < 3 * 3600 else (3600.0, "hours")
    by_status = {status: [span for span in spans if span.status == status] for status in (*STATUSES, "MIXED")}
    data = [_bars(own, status, names, unit, word) for status, own in by_status.items() if own]
    layout = {
        "barmode": "overlay",
        "bargap": 0.25,
        "height": 170 + 26 * len(names),
        "legend": {"y": -50 / (60 + 26 * len(names))},  # below the axis' title, however low the plot is
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
        "text": [f"{safe(s.trial)}, {s.epochs} {'epoch' if s.epochs == 1 else 'epochs'}" for s in spans],
        "textposition": "none",
        "hovertemplate": f"%{{text}}<br>%{{x:.2f}} {word} from %{{base:.2f}} on<extra>%{{y}}</extra>",
        "marker": {"color": f"var:{status.lower()}", "line": {"color": "var:paper", "width": 0.7}},
    }


def _timeline_note(line: Timeline) -> str:
    notes = []
    if line.pauses:
        notes.append("The clock stands still between sessions (dotted lines).")
    if line.merged:
        notes.append("Trials that follow each other closely share a bar: there are too many to draw each.")
    if len(line.groups) > MAX_GROUPS:
        notes.append(f"Shown are the first {MAX_GROUPS} of {len(line.groups)} groups.")
    if line.unknown:
        notes.append(f"Of {line.unknown:,} epochs nobody knows who trained them.")
    return " ".join(notes)
