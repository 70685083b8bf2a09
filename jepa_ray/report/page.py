"""The page itself: facts, worked out and put into `templates/`. Nothing in it is loaded from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from jepa_ray.report import panels, plots, space_plots, summary
from jepa_ray.report.importance import importance
from jepa_ray.report.plots import Plot
from jepa_ray.report.report_data import ReportData
from jepa_ray.report.timeline import Timeline, timeline

SECTIONS = (
    ("headline", "Best"),
    ("leaderboard", "Leaderboard"),
    ("curves", "Learning curves"),
    ("parallel", "Configurations"),
    ("importance", "What matters"),
    ("picks", "Metrics as judges"),
    ("diagnosis", "Diagnosis"),
    ("timeline", "Time line"),
    ("planning", "Planning"),
    ("environment", "Reproduce"),
)
MAX_FAILURES = 50
STATUSES = ("COMPLETE", "PRUNED", "FAILED", "RUNNING")


def render(sweep: ReportData) -> str:
    """The report of a sweep."""
    line, found = timeline(sweep), importance(sweep)
    drawn = {
        "curves": plots.curves(sweep),
        "progress": plots.progress([sweep]),
        "parallel": space_plots.parallel(sweep),
        "importance": space_plots.importance_bars(sweep, found),
        "timeline": plots.groups_over_time(line),
    }
    pairs = {f"pair-{i}": plot for i, plot in enumerate(space_plots.pairs(sweep, found))}
    diagnosed = panels.diagnoses(sweep)
    tables = {"board": panels.leaderboard(sweep), "ailing": diagnosed.ailing}
    return page(
        "report.html.j2",
        f"ReportData {sweep.name}",
        SECTIONS,
        summary.stamp(sweep),
        tables,
        drawn | pairs,
        state=str(sweep.state),
        subtitle=summary.status_line(sweep),
        pairs=list(pairs),
        **_first_sections(sweep, line),
        **_judged(sweep, diagnosed),
        **_last_sections(sweep, line),
    )


def _first_sections(sweep: ReportData, line: Timeline) -> dict[str, Any]:
    present = {trial.status for trial in sweep.trials}
    return {
        "best": sweep.best,
        "no_best": _no_best(sweep),
        "objective": sweep.objective,
        "parameters": summary.best_parameters(sweep),
        "metrics": summary.best_metrics(sweep),
        "spent": summary.spent(sweep, line),
        "warning": sweep.objective.warning,
        "statuses": [status for status in STATUSES if status in present],
    }


def _no_best(sweep: ReportData) -> str:
    if failed := [trial for trial in sweep.trials if trial.status == "FAILED"]:
        return (
            f"All {len(failed)} trials that ended have failed. The first one: {failed[0].error or 'no reason is known'}"
        )
    return "No trial has ended yet."


def _judged(sweep: ReportData, diagnosed: panels.Diagnoses) -> dict[str, Any]:
    failed = [trial for trial in sweep.trials if trial.status == "FAILED"]
    return {
        "picks": [_picked(sweep, together) for together in panels.alike(panels.picks(sweep))],
        "any_planned": any(trial.planned for trial in sweep.trials),
        "conditions": diagnosed.counts,
        "commonest": diagnosed.commonest,
        "remedies": [(remedy.key, remedy.value, remedy.why) for remedy in sweep.remedies],
        "failures": [(t.name, t.label, t.error or "no reason is known") for t in failed[:MAX_FAILURES]],
        "more_failures": max(0, len(failed) - MAX_FAILURES),
    }


def _picked(sweep: ReportData, together: Sequence[panels.Pick]) -> dict[str, Any]:
    pick = together[0]
    return {
        "metrics": [(each.metric, f"{each.value:.4g}") for each in together],
        "ours": any(each.metric == sweep.objective.metric for each in together),
        "trial": pick.trial.name,
        "epoch": pick.epoch,
        "objective": f"{pick.objective:.4g}",
        "percent": round(100 * pick.share, 1),
        "planned": panels.planned_cell(pick.trial),
        "configuration": panels.configuration(pick.trial.params),
    }


def _last_sections(sweep: ReportData, line: Timeline) -> dict[str, Any]:
    planned = [trial for trial in sweep.ranked if trial.planned]
    versions = sweep.sessions[-1].versions if sweep.sessions else sweep.versions
    return {
        "groups": [
            (
                f"{i}: {g.group}",
                g.trials,
                g.epochs,
                f"{g.startup:.1f} s",
                f"{g.busy:.1f} s",
                f"{g.idle:.1f} s",
                f"{g.share:.0%}",
            )
            for i, g in enumerate(line.groups[: plots.MAX_GROUPS], start=1)
        ],
        "planned": [(t.name, panels.planned_cell(t), f"{t.planned.random:.0%}", t.label) for t in planned if t.planned],
        "plans": bool(sweep.spec.get("evaluation", {}).get("plan_top_k")),
        "picture": base64.b64encode(sweep.picture).decode() if sweep.picture else None,
        "command": "python -m jepa_ray.sweep spec.yaml --output again",
        "sessions": [(summary.moment(session.began), session.command) for session in sweep.sessions],
        "versions": list(versions.items()),
        "versions_of_sweep": bool(sweep.sessions),
        "spec": sweep.spec_text,
    }


# ------------------------------------------------------------------------------------- any page


def page(
    template: str,
    title: str,
    sections: Sequence[tuple[str, str]],
    stamp: str,
    tables: Mapping[str, panels.LeaderboardTable],
    drawn: Mapping[str, Plot],
    **context: Any,
) -> str:
    """A whole page: a template, what its tables and plots show, and all that they need to be seen."""
    data = {
        "tables": {name: table.plain() for name, table in tables.items()},
        "plots": {name: plot.figure for name, plot in drawn.items() if plot.figure},
    }
    return (
        _templates()
        .get_template(template)
        .render(
            title=title,
            sections=sections,
            notes={name: {"drawn": plot.figure is not None, "note": plot.note} for name, plot in drawn.items()},
            data=embedded(data),
            style=Markup(_source("style.css")),
            script=Markup(_source("report.js")),
            plotly=Markup(plotly.offline.get_plotlyjs()),
            stamp=stamp,
            **context,
        )
    )


def embedded(values: Any) -> Markup:
    """JSON that may stand in a script element: nothing in it ends the element, or begins another."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("jepa_ray.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    environment = _templates()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
