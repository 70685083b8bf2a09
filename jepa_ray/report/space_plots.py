"""Plots of a sweep's space: parallel coordinates, importance, and what pairs of hyperparameters reach together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution

from jepa_ray.report.importance import Importance
from jepa_ray.report.panels import labels, param
from jepa_ray.report.plots import Plot, finite, safe, said, thinned
from jepa_ray.report.report_data import ReportData, Trial

MAX_LINES, BEST_LINES = 800, 200
MAX_CELLS = 12  # of a heat map's side: a dimension with more values is put in bins
MAX_PAIRS = 6
MIN_TRIALS_FOR_PAIRS = 3  # trials
SCALE = "Cividis"  # told apart by all kinds of colour vision, and in grey


@dataclass(frozen=True)
class Axis:
    """A dimension as places on a line: choices and small ranges by their values, others in bins."""

    key: str
    names: list[str]  # of the places
    centres: list[float] | None  # of bins; None of values
    log: bool
    _values: tuple[Any, ...]  # of the places, or the edges of the bins

    def place(self, params: Mapping[str, Any]) -> int | None:
        """Where a trial lies; None if it does not have the dimension."""
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


def axis(key: str, distribution: Any) -> Axis:
    """The places of a dimension."""
    values = values_of(distribution)
    if values is not None:
        return Axis(key, [safe(str(param(v))) for v in values], None, False, tuple(values))
    low, high, log = distribution.low, distribution.high, bool(distribution.log)
    edges = _edges(low, high, log=log)
    middles = [math.sqrt(a * b) if log else (a + b) / 2 for a, b in itertools.pairwise(edges)]
    return Axis(key, [f"{middle:.3g}" for middle in middles], middles, log, tuple(edges))


def values_of(distribution: Any) -> list[Any] | None:
    """All values of choices and of short stepped ranges, numbers in order; None of what wants bins."""
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


def parallel(sweep: ReportData) -> Plot:
    """A line a trial through its hyperparameters to its objective."""
    trials = [trial for trial in sweep.ranked if finite(trial.objective) is not None]
    if len(trials) < 2:
        return Plot(None, f"Parallel coordinates need two trials with a result; there {_are(len(trials))}.")
    shown = thinned(trials, MAX_LINES, BEST_LINES)[::-1]  # the best are drawn last, above the others
    names, metric = labels(sweep.keys), sweep.objective.metric
    dimensions = [_coordinate(key, safe(names[key]), sweep.space[key], shown) for key in sweep.keys]
    values = [finite(trial.objective) for trial in shown]
    line = {
        "color": values,
        "colorscale": SCALE,
        "showscale": True,
        "reversescale": sweep.objective.mode == "min",
        "colorbar": {"thickness": 12, "title": {"text": metric, "side": "right"}},
    }
    data = [{"type": "parcoords", "dimensions": [*dimensions, {"label": metric, "values": values}], "line": line}]
    return Plot({"data": data, "layout": {"height": 420}}, said(len(shown), len(trials), BEST_LINES))


def _are(count: int) -> str:
    return "is one" if count == 1 else f"are {count or 'none'}"


def _coordinate(key: str, label: str, distribution: Any, trials: Sequence[Trial]) -> dict[str, Any]:
    absent = any(key not in trial.params for trial in trials)
    if isinstance(distribution, CategoricalDistribution):
        line = axis(key, distribution)
        places = [-1 if (place := line.place(trial.params)) is None else place for trial in trials]
        ticks = list(range(len(line.names)))
        names = [*(["absent"] if absent else []), *line.names]
        return {
            "label": label,
            "values": places,
            "tickvals": [*([-1] if absent else []), *ticks],
            "ticktext": names,
            "range": [-1 if absent else min(0, len(ticks) - 2), max(1, len(ticks) - 1)],
        }
    return _numeric_coordinate(key, label, distribution, trials, absent=absent)


def _numeric_coordinate(
    key: str, label: str, distribution: Any, trials: Sequence[Trial], *, absent: bool
) -> dict[str, Any]:
    """A range; logarithms of it where it is uniform in them. What is absent lies below it."""

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


def importance_bars(sweep: ReportData, found: Importance) -> Plot:
    """Two bars a hyperparameter."""
    if not found.ped_anova and not found.fanova:
        return Plot(None, " ".join(found.notes))
    names, keys = labels(sweep.keys), found.ordered(sweep.keys)[::-1]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [safe(names[key]) for key in keys],
            "x": [finite(shares.get(key)) for key in keys],
            "hovertemplate": "%{y}: %{x:.1%}<extra>" + name + "</extra>",
            "marker": {"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay"}},
        }
        for name, shares, colour, pattern in (
            ("fANOVA", found.fanova, "var:complete", ""),
            ("PED-ANOVA", found.ped_anova, "var:pruned", "/"),
        )
    ]
    axes = {"xaxis": {"tickformat": ".0%", "rangemode": "tozero"}, "yaxis": {}}
    layout = {**axes, "barmode": "group", "height": 130 + 52 * len(keys), "legend": {"traceorder": "reversed"}}
    return Plot({"data": data, "layout": layout}, " ".join(found.notes))


# ------------------------------------------------------------------------------------------- pairs


def pairs(sweep: ReportData, found: Importance) -> list[Plot]:
    """For the most important hyperparameters two by two, the best objective that each combination reached."""
    trials = [trial for trial in sweep.own if finite(trial.objective) is not None and trial.status != "FAILED"]
    if len(trials) < MIN_TRIALS_FOR_PAIRS or len(sweep.keys) < 2:
        return []
    axes = {key: axis(key, sweep.space[key]) for key in found.ordered(sweep.keys)[:4]}
    ends = [value for trial in trials if (value := finite(trial.objective)) is not None]
    chosen = list(itertools.combinations(axes.values(), 2))[:MAX_PAIRS]
    return [_pair(sweep, a, b, trials, (min(ends), max(ends))) for a, b in chosen]


def _pair(sweep: ReportData, x: Axis, y: Axis, trials: Sequence[Trial], ends: tuple[float, float]) -> Plot:
    cells = _cells(sweep, x, y, trials)
    names, metric = labels(sweep.keys), sweep.objective.metric
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
    layout = {"height": 320, "xaxis": _place_axis(x, names[x.key]), "yaxis": _place_axis(y, names[y.key])}
    data = [trace, _points(x, y, trials)] if smooth else [trace]
    return Plot({"data": data, "layout": {**layout, "showlegend": False}})


def _levels(low: float, high: float) -> dict[str, Any]:
    """The lines of a contour plot; cells without a trial are filled in from their neighbours."""
    levels = {"start": low, "end": high, "size": (high - low) / 10 or 1.0, "coloring": "heatmap"}
    return {"connectgaps": True, "contours": levels}


def _cells(sweep: ReportData, x: Axis, y: Axis, trials: Sequence[Trial]) -> dict[tuple[int, int], list[float]]:
    """The objectives of each cell, best first."""
    cells: dict[tuple[int, int], list[float]] = {}
    for trial in trials:
        places, value = (x.place(trial.params), y.place(trial.params)), finite(trial.objective)
        if places[0] is not None and places[1] is not None and value is not None:
            cells.setdefault((places[0], places[1]), []).append(value)
    return {cell: sorted(values, reverse=sweep.objective.mode == "max") for cell, values in cells.items()}


def _place_axis(line: Axis, name: str) -> dict[str, Any]:
    title = {"title": {"text": safe(name)}}
    if line.centres is None:
        return {**title, "type": "category"}
    return {**title, "type": "log", "dtick": 1} if line.log else {**title, "type": "linear"}


def _points(x: Axis, y: Axis, trials: Sequence[Trial]) -> dict[str, Any]:
    both = [trial for trial in trials if x.key in trial.params and y.key in trial.params]
    shown = thinned(both, 300, 0)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.params[x.key] for trial in shown],
        "y": [trial.params[y.key] for trial in shown],
        "hoverinfo": "skip",
        "marker": {"size": 4, "color": "var:ink", "line": {"color": "var:paper", "width": 0.8}},
    }
