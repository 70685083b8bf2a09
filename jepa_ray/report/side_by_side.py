"""The comparison of two sweeps: their specs, their results, and their cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jepa_ray.files import differences
from jepa_ray.formatting import round_finite
from jepa_ray.report import panels, plots, space_plots, summary
from jepa_ray.report.importance import compute_importance
from jepa_ray.report.page import render_page
from jepa_ray.report.plots import Plot
from jepa_ray.report.report_data import Params, ReportData, Trial
from jepa_ray.report.timeline import build_timeline

SECTIONS = (
    ("found", "Results"),
    ("progress", "Progress"),
    ("differences", "Differences"),
    ("both", "Tried in both"),
    ("importance", "Importance"),
    ("leaderboards", "Best ten"),
)
TOP = 10
SHOWN_IN_TITLE = ("name",)  # keys that are not listed among the differences


def render_comparison(a: ReportData, b: ReportData) -> str:
    """The comparison of two sweeps as HTML."""
    names = _names(a, b)
    bars = {f"importance-{i}": space_plots.plot_importance(s, compute_importance(s)) for i, s in enumerate((a, b))}
    shared = shared_trials(a, b)
    drawn = {"progress": _progress(a, b, names), "both": _scatter(a, b, shared, names), **bars}
    changed = differences(a.spec, b.spec)
    return render_page(
        "side_by_side.html.j2",
        f"{names[0]} and {names[1]}",
        SECTIONS,
        summary.format_stamp(max(a, b, key=lambda sweep: sweep.written)),
        {},
        drawn,
        state="",
        subtitle="Two sweeps side by side.",
        names=names,
        sides=[_side(sweep) for sweep in (a, b)],
        caution=_caution(a, b),
        changed=[(key, *map(_cell, pair)) for key, pair in changed.items() if key not in SHOWN_IN_TITLE],
        shared=_describe_shared(a, shared, names),
    )


def _names(a: ReportData, b: ReportData) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")


def _side(sweep: ReportData) -> dict[str, Any]:
    top = [
        (trial.rank, trial.name, trial.status, len(trial.epochs), round_finite(trial.objective), trial.label)
        for trial in sweep.ranked[:TOP]
    ]
    return {
        "state": str(sweep.state),
        "status": summary.describe_status(sweep),
        "best": sweep.best.name if sweep.best else None,
        "objective": str(sweep.objective),
        "parameters": summary.summarize_parameters(sweep),
        "metrics": summary.summarize_metrics(sweep),
        "spent": summary.summarize_spending(sweep, build_timeline(sweep)),
        "top": top,
    }


def _caution(a: ReportData, b: ReportData) -> str | None:
    """The reason why the values of the two sweeps cannot be compared; None if they can."""
    if str(a.objective) != str(b.objective):
        return f"The objectives differ ({a.objective}; {b.objective}), so their values cannot be compared."
    data = [sweep.spec.get("base", {}).get("data") for sweep in (a, b)]
    if data[0] != data[1]:
        return "The data differ, so the values were measured on different trajectories and cannot be compared."
    return None


def _cell(value: Any) -> str:
    return "not set" if value is None else str(value)


def _progress(a: ReportData, b: ReportData, names: tuple[str, str]) -> Plot:
    if a.objective.metric != b.objective.metric:
        return Plot(None, "The objectives differ, so their values cannot be drawn on a common axis.")
    return plots.plot_progress([a, b], names)


# ------------------------------------------------------------------------------------- tried in both


def shared_trials(a: ReportData, b: ReportData) -> list[tuple[Trial, Trial]]:
    """Pairs of trials with a result and the same configuration; keys that only one of the sweeps varied are ignored."""
    keys = [key for key in a.keys if key in b.space]
    if not keys or str(a.objective) != str(b.objective):
        return []
    of_b = {_point(trial.params, keys): trial for trial in reversed(_with_results(b))}
    of_a = {_point(trial.params, keys): trial for trial in reversed(_with_results(a))}
    return [(trial, of_b[point]) for point, trial in of_a.items() if point in of_b]


def _with_results(sweep: ReportData) -> list[Trial]:
    """The trials with a result, best first, so that of several trials with the same point the best one is used."""
    return [trial for trial in sweep.ranked if trial.objective is not None and trial.status != "FAILED"]


def _point(params: Params, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(panels.format_param(params.get(key))) for key in keys)


def _describe_shared(a: ReportData, shared: Sequence[tuple[Trial, Trial]], names: tuple[str, str]) -> str:
    if not shared:
        return ""
    gains = [y.objective - x.objective for x, y in shared if x.objective is not None and y.objective is not None]
    sign = 1 if a.objective.mode == "max" else -1
    better = sum(sign * gain > 0 for gain in gains)
    metric = a.objective.metric
    return (
        f"{len(shared)} configurations were tried in both; {names[1]} is better in {better} of them."
        f" Median difference in {metric}: {statistics.median(gains):+.4g}."
        " For trials that were stopped early, the value that they had reached is used."
    )


def _scatter(a: ReportData, b: ReportData, shared: Sequence[tuple[Trial, Trial]], names: tuple[str, str]) -> Plot:
    if not shared:
        return Plot(None, "No configuration with a result was tried in both sweeps, so there is nothing to compare.")
    x, y = ([trial.objective for trial in side] for side in zip(*shared, strict=True))
    values = [value for value in [*x, *y] if value is not None]
    ends = [min(values), max(values)]
    points: Mapping[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "text": [plots.escape(trial.label) for trial, _ in shared],
        "hovertemplate": "%{text}<br>%{x:.4g} and %{y:.4g}<extra></extra>",
        "marker": {"size": 8, "color": "var:complete", "line": {"color": "var:paper", "width": 1}},
    }
    equal = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip"}
    line = {"line": {"color": "var:muted", "dash": "dot", "width": 1}}
    metric = a.objective.metric
    axes = {
        "xaxis": {"title": {"text": f"{metric}, {plots.escape(names[0])}"}},
        "yaxis": {"title": {"text": f"{metric}, {plots.escape(names[1])}"}},
    }
    return Plot({"data": [{**equal, **line}, dict(points)], "layout": {**axes, "showlegend": False}})
