"""Plots of the search space: parallel coordinates, importance, and the best objective by pairs of hyperparameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from jepa_ray.formatting import label_keys, round_finite
from jepa_ray.report.importance import Importance
from jepa_ray.report.panels import format_param
from jepa_ray.report.plots import Plot, describe_sample, escape, sample_trials
from jepa_ray.report.report_data import ReportData, Trial

MAX_LINES, BEST_LINES = 800, 200  # lines in total, and lines of the best trials
MAX_CELLS = 12  # along a side of a heat map; a dimension with more values is divided into bins
MAX_PAIRS = 6
MIN_TRIALS_FOR_PAIRS = 3
SCALE = "Cividis"  # readable with colour vision deficiency, and in greyscale


@dataclass(frozen=True)
class Axis:
    """A dimension as positions on an axis: one per value of choices and short ranges, otherwise one per bin."""

    key: str
    names: list[str]  # of the positions
    centres: list[float] | None  # of the bins; None if the positions are values
    log: bool
    _values: tuple[Any, ...]  # the values, or the edges of the bins

    def position(self, params: Mapping[str, Any]) -> int | None:
        """The position of a trial on the axis; None if the trial does not have the dimension."""
        value = params.get(self.key, _ABSENT)
        if value is _ABSENT:
            return None
        if self.centres is None:
            return next((i for i, known in enumerate(self._values) if _same(known, value)), None)
        inside = [i for i, edge in enumerate(self._values[1:-1], start=1) if value >= edge]
        return inside[-1] if inside else 0


_ABSENT = object()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def make_axis(key: str, distribution: Any) -> Axis:
    """The axis of a dimension."""
    values = discrete_values(distribution)
    if values is not None:
        return Axis(key, [escape(str(format_param(v))) for v in values], None, False, tuple(values))
    low, high, log = distribution.low, distribution.high, bool(distribution.log)
    edges = _edges(low, high, log=log)
    middles = [math.sqrt(a * b) if log else (a + b) / 2 for a, b in itertools.pairwise(edges)]
    return Axis(key, [f"{middle:.3g}" for middle in middles], middles, log, tuple(edges))


def discrete_values(distribution: Any) -> list[Any] | None:
    """All values of choices and of short stepped ranges, numbers sorted; None for ranges that need bins."""
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        numeric = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in choices)
        return sorted(choices) if numeric else choices
    if distribution.step is None or distribution.log:
        return None
    count = math.floor((distribution.high - distribution.low) / distribution.step + 1e-9) + 1
    return [distribution.low + i * distribution.step for i in range(count)] if count <= MAX_CELLS else None


def _edges(low: float, high: float, *, log: bool) -> list[float]:
    bins = MAX_CELLS - 2
    if log:
        return [math.exp(math.log(low) + i / bins * (math.log(high) - math.log(low))) for i in range(bins + 1)]
    return [low + i / bins * (high - low) for i in range(bins + 1)]


# ---------------------------------------------------------------------------- parallel coordinates


def plot_parallel(sweep: ReportData) -> Plot:
    """Parallel coordinates: one line per trial through its hyperparameters to its objective."""
    trials = [trial for trial in sweep.ranked if round_finite(trial.objective) is not None]
    if len(trials) < 2:
        return Plot(None, f"Parallel coordinates need two trials with a result; this sweep has {len(trials)}.")
    shown = sample_trials(trials, MAX_LINES, BEST_LINES)[::-1]  # the best trials are drawn last, above the others
    names, metric = label_keys(sweep.keys), sweep.objective.metric
    dimensions = [_coordinate(key, escape(names[key]), sweep.space[key], shown) for key in sweep.keys]
    values = [round_finite(trial.objective) for trial in shown]
    line = {
        "color": values,
        "colorscale": SCALE,
        "showscale": True,
        "reversescale": sweep.objective.mode == "min",
        "colorbar": {"thickness": 12, "title": {"text": metric, "side": "right"}},
    }
    data = [{"type": "parcoords", "dimensions": [*dimensions, {"label": metric, "values": values}], "line": line}]
    return Plot({"data": data, "layout": {"height": 420}}, describe_sample(len(shown), len(trials), BEST_LINES))


def _coordinate(key: str, label: str, distribution: Any, trials: Sequence[Trial]) -> dict[str, Any]:
    absent = any(key not in trial.params for trial in trials)
    if isinstance(distribution, CategoricalDistribution):
        line = make_axis(key, distribution)
        positions = [-1 if (position := line.position(trial.params)) is None else position for trial in trials]
        ticks = list(range(len(line.names)))
        names = [*(["absent"] if absent else []), *line.names]
        return {
            "label": label,
            "values": positions,
            "tickvals": [*([-1] if absent else []), *ticks],
            "ticktext": names,
            "range": [-1 if absent else min(0, len(ticks) - 2), max(1, len(ticks) - 1)],
        }
    return _numeric_coordinate(key, label, distribution, trials, absent=absent)


def _numeric_coordinate(
    key: str, label: str, distribution: Any, trials: Sequence[Trial], *, absent: bool
) -> dict[str, Any]:
    """The coordinate of a range, in log10 for log-uniform ranges. Trials without the key are drawn below the range."""

    def scaled(value: float) -> float:
        return math.log10(value) if distribution.log else value

    low, high = scaled(distribution.low), scaled(distribution.high)
    below = low - 0.15 * (high - low)
    ticks = _ticks(low, high, whole=isinstance(distribution, IntDistribution) and not distribution.log)
    shown = [f"{10**tick if distribution.log else tick:.3g}" for tick in ticks]
    return {
        "label": label,
        "values": [scaled(trial.params[key]) if key in trial.params else below for trial in trials],
        "tickvals": [*([below] if absent else []), *ticks],
        "ticktext": [*(["absent"] if absent else []), *shown],
        "range": [below if absent else low, high],
    }


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    step = max(1, math.ceil((high - low) / 6)) if whole else (high - low) / 4
    return [low + i * step for i in range(math.floor((high - low) / step + 1e-9) + 1)]


# -------------------------------------------------------------------------------------- importance


def plot_importance(sweep: ReportData, importance: Importance) -> Plot:
    """The importance of each hyperparameter by two methods, as two bars."""
    if not importance.ped_anova and not importance.fanova:
        return Plot(None, " ".join(importance.notes))
    names, keys = label_keys(sweep.keys), importance.ordered(sweep.keys)[::-1]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [escape(names[key]) for key in keys],
            "x": [round_finite(shares.get(key)) for key in keys],
            "hovertemplate": "%{y}: %{x:.1%}<extra>" + name + "</extra>",
            "marker": {"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay"}},
        }
        for name, shares, colour, pattern in (
            ("fANOVA", importance.fanova, "var:complete", ""),
            ("PED-ANOVA", importance.ped_anova, "var:pruned", "/"),
        )
    ]
    axes = {"xaxis": {"tickformat": ".0%", "rangemode": "tozero"}, "yaxis": {}}
    layout = {**axes, "barmode": "group", "height": 130 + 52 * len(keys), "legend": {"traceorder": "reversed"}}
    return Plot({"data": data, "layout": layout}, " ".join(importance.notes))


# ------------------------------------------------------------------------------------------- pairs


def plot_pairs(sweep: ReportData, importance: Importance) -> list[Plot]:
    """For pairs of the most important hyperparameters, the best objective of each combination of their values."""
    trials = [trial for trial in sweep.own if round_finite(trial.objective) is not None and trial.status != "FAILED"]
    if len(trials) < MIN_TRIALS_FOR_PAIRS or len(sweep.keys) < 2:
        return []
    axes = {key: make_axis(key, sweep.space[key]) for key in importance.ordered(sweep.keys)[:4]}
    ends = [value for trial in trials if (value := round_finite(trial.objective)) is not None]
    chosen = list(itertools.combinations(axes.values(), 2))[:MAX_PAIRS]
    return [_pair(sweep, a, b, trials, (min(ends), max(ends))) for a, b in chosen]


def _pair(sweep: ReportData, x: Axis, y: Axis, trials: Sequence[Trial], ends: tuple[float, float]) -> Plot:
    cells = _cells(sweep, x, y, trials)
    names, metric = label_keys(sweep.keys), sweep.objective.metric
    values = [[cells.get((i, j), [None])[0] for i in range(len(x.names))] for j in range(len(y.names))]
    counts = [[len(cells.get((i, j), [])) for i in range(len(x.names))] for j in range(len(y.names))]
    smooth = x.centres is not None and y.centres is not None
    colours = {"colorscale": SCALE, "zmin": ends[0], "zmax": ends[1], "reversescale": sweep.objective.mode == "min"}
    trace = {
        "type": "contour" if smooth else "heatmap",
        "x": x.centres or x.names,
        "y": y.centres or y.names,
        "z": values,
        "customdata": counts,
        "hovertemplate": f"%{{x}}, %{{y}}<br>best {metric} %{{z:.4g}}, trials %{{customdata}}<extra></extra>",
        **(_levels(*ends) if smooth else {"xgap": 2, "ygap": 2}),
        **colours,
        "colorbar": {"thickness": 10, "title": {"text": f"best {metric}", "side": "right"}},
    }
    layout = {"height": 320, "xaxis": _axis_layout(x, names[x.key]), "yaxis": _axis_layout(y, names[y.key])}
    data = [trace, _points(x, y, trials)] if smooth else [trace]
    return Plot({"data": data, "layout": {**layout, "showlegend": False}})


def _levels(low: float, high: float) -> dict[str, Any]:
    """Settings of a contour plot. Cells without a trial are interpolated from their neighbours."""
    levels = {"start": low, "end": high, "size": (high - low) / 10 or 1.0, "coloring": "heatmap"}
    return {"connectgaps": True, "contours": levels}


def _cells(sweep: ReportData, x: Axis, y: Axis, trials: Sequence[Trial]) -> dict[tuple[int, int], list[float]]:
    """The objectives of the trials in each cell, best first."""
    cells: dict[tuple[int, int], list[float]] = {}
    for trial in trials:
        i, j, value = x.position(trial.params), y.position(trial.params), round_finite(trial.objective)
        if i is not None and j is not None and value is not None:
            cells.setdefault((i, j), []).append(value)
    return {cell: sorted(values, reverse=sweep.objective.mode == "max") for cell, values in cells.items()}


def _axis_layout(line: Axis, name: str) -> dict[str, Any]:
    title = {"title": {"text": escape(name)}}
    if line.centres is None:
        return {**title, "type": "category"}
    return {**title, "type": "log", "dtick": 1} if line.log else {**title, "type": "linear"}


def _points(x: Axis, y: Axis, trials: Sequence[Trial]) -> dict[str, Any]:
    both = [trial for trial in trials if x.key in trial.params and y.key in trial.params]
    shown = sample_trials(both, 300, 0)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.params[x.key] for trial in shown],
        "y": [trial.params[y.key] for trial in shown],
        "hoverinfo": "skip",
        "marker": {"size": 4, "color": "var:ink", "line": {"color": "var:paper", "width": 0.8}},
    }
