"""Two sweeps side by side: what was asked of each, what it found, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jepa_ray.files import differences
from jepa_ray.report import panels, plots, space_plots, summary
from jepa_ray.report.importance import importance
from jepa_ray.report.page import page
from jepa_ray.report.plots import Plot
from jepa_ray.report.report_data import Params, ReportData, Trial
from jepa_ray.report.timeline import timeline

SECTIONS = (
    ("found", "Found"),
    ("progress", "Progress"),
    ("differences", "Differences"),
    ("both", "Tried in both"),
    ("importance", "What matters"),
    ("leaderboards", "Best ten"),
)
TOP = 10
SAID_BY_HEADLINE = ("name",)  # no difference worth a line


def render_both(a: ReportData, b: ReportData) -> str:
    """The comparison as a page."""
    names = _names(a, b)
    found = {f"importance-{i}": space_plots.importance_bars(s, importance(s)) for i, s in enumerate((a, b))}
    shared = shared_trials(a, b)
    drawn = {"progress": _progress(a, b, names), "both": _scatter(a, b, shared, names), **found}
    changed = differences(a.spec, b.spec)
    return page(
        "versus.html.j2",
        f"{names[0]} and {names[1]}",
        SECTIONS,
        summary.stamp(max(a, b, key=lambda sweep: sweep.written)),
        {},
        drawn,
        state="",
        subtitle="Two sweeps side by side.",
        names=names,
        sides=[_side(sweep) for sweep in (a, b)],
        caution=_caution(a, b),
        changed=[(key, *map(_cell, pair)) for key, pair in changed.items() if key not in SAID_BY_HEADLINE],
        shared=_sentence(a, shared, names),
    )


def _names(a: ReportData, b: ReportData) -> tuple[str, str]:
    return (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")


def _side(sweep: ReportData) -> dict[str, Any]:
    top = [
        (trial.rank, trial.name, trial.status, len(trial.epochs), panels.number(trial.objective), trial.label)
        for trial in sweep.ranked[:TOP]
    ]
    return {
        "state": str(sweep.state),
        "status": summary.status_line(sweep),
        "best": sweep.best.name if sweep.best else None,
        "objective": str(sweep.objective),
        "parameters": summary.best_parameters(sweep),
        "metrics": summary.best_metrics(sweep),
        "spent": summary.spent(sweep, timeline(sweep)),
        "top": top,
    }


def _caution(a: ReportData, b: ReportData) -> str | None:
    """Why values of the two cannot be compared, if they cannot."""
    if str(a.objective) != str(b.objective):
        return f"The objectives differ ({a.objective}; {b.objective}): values of the one say nothing about the other."
    data = [sweep.spec.get("base", {}).get("data") for sweep in (a, b)]
    if data[0] != data[1]:
        return "The data differ: values were measured on other trajectories."
    return None


def _cell(value: Any) -> str:
    return "not set" if value is None else str(value)


def _progress(a: ReportData, b: ReportData, names: tuple[str, str]) -> Plot:
    if a.objective.metric != b.objective.metric:
        return Plot(None, "The objectives differ, so their best values have no common axis.")
    return plots.progress([a, b], names)


# ------------------------------------------------------------------------------------- tried in both


def shared_trials(a: ReportData, b: ReportData) -> list[tuple[Trial, Trial]]:
    """Pairs of trials with a result that have the same configuration; keys that only one sweep varied don't count."""
    keys = [key for key in a.keys if key in b.space]
    if not keys or str(a.objective) != str(b.objective):
        return []
    theirs = {_point(trial.params, keys): trial for trial in reversed(_with_results(b))}
    ours = {_point(trial.params, keys): trial for trial in reversed(_with_results(a))}
    return [(trial, theirs[point]) for point, trial in ours.items() if point in theirs]


def _with_results(sweep: ReportData) -> list[Trial]:
    """Best first, so that of several with the same point the best one counts."""
    return [trial for trial in sweep.ranked if trial.objective is not None and trial.status != "FAILED"]


def _point(params: Params, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(panels.param(params.get(key))) for key in keys)


def _sentence(a: ReportData, shared: Sequence[tuple[Trial, Trial]], names: tuple[str, str]) -> str:
    if not shared:
        return ""
    gains = [y.objective - x.objective for x, y in shared if x.objective is not None and y.objective is not None]
    sign = 1 if a.objective.mode == "max" else -1
    better = sum(sign * gain > 0 for gain in gains)
    metric = a.objective.metric
    return (
        f"{len(shared)} configurations were tried in both; {names[1]} is better in {better} of them."
        f" Median difference in {metric}: {statistics.median(gains):+.4g}."
        " Trials stopped early count with what they reached."
    )


def _scatter(a: ReportData, b: ReportData, shared: Sequence[tuple[Trial, Trial]], names: tuple[str, str]) -> Plot:
    if not shared:
        return Plot(
            None, "No configuration with a result was tried in both, so there is nothing to set against each other."
        )
    x, y = ([trial.objective for trial in side] for side in zip(*shared, strict=True))
    values = [value for value in [*x, *y] if value is not None]
    ends = [min(values), max(values)]
    points: Mapping[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "text": [plots.safe(trial.label) for trial, _ in shared],
        "hovertemplate": "%{text}<br>%{x:.4g} and %{y:.4g}<extra></extra>",
        "marker": {"size": 8, "color": "var:complete", "line": {"color": "var:paper", "width": 1}},
    }
    equal = {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip"}
    line = {"line": {"color": "var:muted", "dash": "dot", "width": 1}}
    metric = a.objective.metric
    axes = {
        "xaxis": {"title": {"text": f"{metric}, {plots.safe(names[0])}"}},
        "yaxis": {"title": {"text": f"{metric}, {plots.safe(names[1])}"}},
    }
    return Plot({"data": [{**equal, **line}, dict(points)], "layout": {**axes, "showlegend": False}})
