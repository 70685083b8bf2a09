"""Rendering of the report page from report data and `templates/`. The page loads nothing from the network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from jepa_ray.formatting import format_params, format_time
from jepa_ray.report import panels, plots, space_plots, summary
from jepa_ray.report.importance import compute_importance
from jepa_ray.report.plots import Plot
from jepa_ray.report.report_data import STATUSES, ReportData
from jepa_ray.report.timeline import Timeline, build_timeline

SECTIONS = (
    ("summary", "Summary"),
    ("leaderboard", "Leaderboard"),
    ("curves", "Learning curves"),
    ("parallel", "Configurations"),
    ("importance", "Importance"),
    ("picks", "Model selection"),
    ("diagnosis", "Diagnosis"),
    ("timeline", "Timeline"),
    ("planning", "Planning"),
    ("environment", "Reproduction"),
)
MAX_FAILURES = 50
UNKNOWN_ERROR = "no error was recorded"


def render(sweep: ReportData) -> str:
    """The report of a sweep as HTML."""
    line, importance = build_timeline(sweep), compute_importance(sweep)
    drawn = {
        "curves": plots.plot_curves(sweep),
        "progress": plots.plot_progress([sweep]),
        "parallel": space_plots.plot_parallel(sweep),
        "importance": space_plots.plot_importance(sweep, importance),
        "timeline": plots.plot_timeline(line),
    }
    pairs = {f"pair-{i}": plot for i, plot in enumerate(space_plots.plot_pairs(sweep, importance))}
    diagnosed = panels.collect_diagnoses(sweep)
    tables = {"board": panels.build_leaderboard(sweep), "unhealthy": diagnosed.unhealthy}
    return render_page(
        "report.html.j2",
        f"Sweep {sweep.name}",
        SECTIONS,
        summary.format_stamp(sweep),
        tables,
        drawn | pairs,
        state=str(sweep.state),
        subtitle=summary.describe_status(sweep),
        pairs=list(pairs),
        **_first_sections(sweep, line),
        **_middle_sections(sweep, diagnosed),
        **_last_sections(sweep, line),
    )


def _first_sections(sweep: ReportData, line: Timeline) -> dict[str, Any]:
    present = {trial.status for trial in sweep.trials}
    return {
        "best": sweep.best,
        "no_best": _no_best(sweep),
        "objective": sweep.objective,
        "parameters": summary.summarize_parameters(sweep),
        "metrics": summary.summarize_metrics(sweep),
        "spent": summary.summarize_spending(sweep, line),
        "warning": sweep.objective.warning,
        "statuses": [status for status in STATUSES if status in present],
    }


def _no_best(sweep: ReportData) -> str:
    if failed := [trial for trial in sweep.trials if trial.status == "FAILED"]:
        return f"All {len(failed)} trials that have ended failed. The first error: {failed[0].error or UNKNOWN_ERROR}"
    return "No trial has ended yet."


def _middle_sections(sweep: ReportData, diagnosed: panels.Diagnoses) -> dict[str, Any]:
    failed = [trial for trial in sweep.trials if trial.status == "FAILED"]
    return {
        "picks": [_pick_row(sweep, group) for group in panels.group_picks(panels.find_picks(sweep))],
        "any_planned": any(trial.planned for trial in sweep.trials),
        "conditions": diagnosed.counts,
        "most_common": diagnosed.most_common,
        "remedies": [(remedy.key, remedy.value, remedy.why) for remedy in sweep.remedies],
        "failures": [(t.name, t.label, t.error or UNKNOWN_ERROR) for t in failed[:MAX_FAILURES]],
        "more_failures": max(0, len(failed) - MAX_FAILURES),
    }


def _pick_row(sweep: ReportData, group: Sequence[panels.Pick]) -> dict[str, Any]:
    pick = group[0]
    return {
        "metrics": [(each.metric, f"{each.value:.4g}") for each in group],
        "by_objective": any(each.metric == sweep.objective.metric for each in group),
        "trial": pick.trial.name,
        "epoch": pick.epoch,
        "objective": f"{pick.objective:.4g}",
        "percent": round(100 * pick.share, 1),
        "planned": panels.format_planned(pick.trial),
        "configuration": format_params(pick.trial.params),
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
        "planned": [
            (t.name, panels.format_planned(t), f"{t.planned.random:.0%}", t.label) for t in planned if t.planned
        ],
        "plans": bool(sweep.spec.get("evaluation", {}).get("plan_top_k")),
        "picture": base64.b64encode(sweep.picture).decode() if sweep.picture else None,
        "command": "python -m jepa_ray.sweep spec.yaml --output reproduction",
        "sessions": [(format_time(session.began), session.command) for session in sweep.sessions],
        "versions": list(versions.items()),
        "versions_of_sweep": bool(sweep.sessions),
        "spec": sweep.spec_text,
    }


# ------------------------------------------------------------------------------------------- pages


def render_page(
    template: str,
    title: str,
    sections: Sequence[tuple[str, str]],
    stamp: str,
    tables: Mapping[str, panels.ReportTable],
    drawn: Mapping[str, Plot],
    **context: Any,
) -> str:
    """A complete HTML page from a template, with the data of its tables and plots, styles and scripts embedded.

    Args:
        template: name of a file in `templates/`.
        title: of the page.
        sections: id and name of each section, for the navigation.
        stamp: time and version, for the footer.
        tables: sortable tables by name.
        drawn: plots by name.
        context: further variables of the template.
    """
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
            data=embed_json(data),
            style=Markup(_source("style.css")),
            script=Markup(_source("report.js")),
            plotly=Markup(plotly.offline.get_plotlyjs()),
            stamp=stamp,
            **context,
        )
    )


def embed_json(values: Any) -> Markup:
    """JSON for a script element, escaped so that no text in it can end the element or start another one."""
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
    """The text of a file in `templates/`."""
    environment = _templates()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
