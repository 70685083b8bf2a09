"""The columns of the leaderboard, defined once, and the table and CSV file that follow from them.

How the table is laid out in a terminal is in `terminal_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from jepa_ray.config import METRICS, Place, SweepConfig, dimensions, metrics_shown
from jepa_ray.config.dimensions import Range
from jepa_ray.files import write_atomically
from jepa_ray.formatting import format_cell, format_number, label_keys
from jepa_ray.sweep.ranking import MeanInterval, compute_repeat_means, find_pareto_front, rank_trials
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import StudyView

LEADERBOARD = "leaderboard.csv"


@dataclass(frozen=True)
class Entry:
    """A trial that has ended, with everything that its row of the leaderboard is computed from."""

    rank: int  # 1, 2, ...
    record: TrialRecord
    objective: float | None  # in the best epoch
    at_best: Mapping[str, float]  # all metrics of the best epoch
    pareto: bool | None  # whether the trial is on the Pareto front; None if it is not complete
    mean: MeanInterval | None  # over the seeds of a repeated finalist
    mlflow_run_id: str | None


@dataclass(frozen=True)
class LeaderboardColumn:
    """One column: its name in `leaderboard.csv`, its value, and whether and how a terminal shows it."""

    name: str
    value: Callable[[Entry], Any]
    heading: str | None = None  # in a terminal; None: only in the file
    drop: int = 0  # in a narrow terminal, the columns with the highest number are dropped first; 0: never dropped
    text: Callable[[Any], str] = format_cell  # formats a value of the column for a terminal


def list_columns(spec: SweepConfig) -> list[LeaderboardColumn]:
    """All columns of a sweep's leaderboard, in order. To add a column, add it here: file and terminal follow."""
    return [
        LeaderboardColumn("rank", lambda e: e.rank, "rank"),
        LeaderboardColumn("trial_id", lambda e: e.record.trial_id, "trial", text=_format_trial_number),
        LeaderboardColumn("status", lambda e: str(e.record.status), "status"),
        LeaderboardColumn("epochs", lambda e: len(e.record.history), "epochs", drop=4),
        LeaderboardColumn("objective", lambda e: e.objective, "objective"),
        *_list_pareto_columns(spec),
        *_list_key_columns(spec),
        *_list_metric_columns(spec),
        LeaderboardColumn("seconds", lambda e: round(e.record.seconds, 3), "seconds", drop=5),
        LeaderboardColumn("mlflow_run_id", lambda e: e.mlflow_run_id),
        LeaderboardColumn("collapse", lambda e: e.record.collapse),
        LeaderboardColumn("stop", lambda e: e.record.stop),
        _make_planning_column(spec),
        *_list_repeat_columns(spec),
    ]


def _list_pareto_columns(spec: SweepConfig) -> list[LeaderboardColumn]:
    if len(spec.objectives) == 1:
        return []
    return [LeaderboardColumn("pareto", lambda e: e.pareto, "pareto", drop=3, text=_format_yes_no)]


def _list_key_columns(spec: SweepConfig) -> list[LeaderboardColumn]:
    """The swept keys. A choice is shown with more digits than a value from a range, which has many."""
    headings = label_keys(list(spec.space))
    return [
        LeaderboardColumn(
            key,
            lambda e, key=key: e.record.params.get(key),  # type: ignore[misc]
            headings[key],
            text=partial(_format_value, digits=4 if isinstance(dimension, Range) else 6),
        )
        for key, dimension in spec.space.items()
    ]


def _list_metric_columns(spec: SweepConfig) -> list[LeaderboardColumn]:
    """All metrics of the best epoch. A terminal shows the further objectives and a few others."""
    first, *further = (objective.metric for objective in spec.objectives)
    shown = dict.fromkeys(metrics_shown(Place.TERMINAL_TABLE), 6) | dict.fromkeys(further, 2)
    shown.pop(first, None)  # it is the column `objective`
    return [
        LeaderboardColumn(
            name,
            lambda e, name=name: e.at_best.get(name),  # type: ignore[misc]
            name if name in shown else None,
            drop=shown.get(name, 0),
        )
        for name in METRICS
    ]


def _make_planning_column(spec: SweepConfig) -> LeaderboardColumn:
    def success(entry: Entry) -> float | None:
        return entry.record.planning_score.plan_success if entry.record.planning_score else None

    return LeaderboardColumn("plan_success", success, "plan_success" if spec.evaluation.plan_top_k else None, drop=1)


def _list_repeat_columns(spec: SweepConfig) -> list[LeaderboardColumn]:
    """The number of runs of a repeated finalist, their mean objective and its interval."""
    names = [field.name for field in fields(MeanInterval)] if spec.search.repeats > 1 else []
    return [
        LeaderboardColumn(f"objective_{name}", lambda e, name=name: getattr(e.mean, name, None))  # type: ignore[misc]
        for name in names
    ]


def _format_trial_number(trial_id: str) -> str:
    """`trial_00012` as `12`."""
    return str(int(trial_id.rpartition("_")[2]))


def _format_value(value: Any, digits: int) -> str:
    """A swept value. A whole number is shown with all digits: it is a float if other trials do not have the key."""
    if isinstance(value, float) and math.isfinite(value):
        return format_number(value) if value.is_integer() else f"{value:.{digits}g}"
    return format_cell(value)


def _format_yes_no(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, "")


# --------------------------------------------------------------------------------------- table and file


def build_leaderboard(study: StudyView, runs: Mapping[int, str]) -> pd.DataFrame:
    """One row per trial, best first, with the metrics of the trial's best epoch.

    Args:
        study: the sweep's study.
        runs: the MLflow run ID of each trial, by trial number.
    """
    columns, entries = list_columns(study.spec), list_entries(study, runs)
    rows = [{column.name: column.value(entry) for column in columns} for entry in entries]
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    for key, dimension in study.spec.space.items():
        if dimensions.conditions(dimension):  # in a float column, an integer beside an empty cell would become 4.0
            frame[key] = pd.Series([row[key] for row in rows], dtype=object)
    return frame


def list_entries(study: StudyView, runs: Mapping[int, str]) -> list[Entry]:
    """All trials that have ended, best first. `runs`: the MLflow run ID of each trial, by trial number."""
    front, means = find_pareto_front(study), compute_repeat_means(study)
    return [
        Entry(
            rank=rank,
            record=record,
            objective=study.best_value(record),
            at_best=record.best_metrics(study.spec.objective),
            pareto=record.number in front if record.status is Status.COMPLETE else None,
            mean=means.get(record.number),
            mlflow_run_id=runs.get(record.number),
        )
        for rank, record in enumerate(rank_trials(study), start=1)
    ]


def write_leaderboard(study: StudyView, runs: Mapping[int, str], folder: Path) -> Path:
    """Write `leaderboard.csv` with all trials that have ended so far."""
    path = folder / LEADERBOARD
    frame = build_leaderboard(study, runs)
    escaped = {name: pd.Series([*map(_escape_formula, cells)], dtype=cells.dtype) for name, cells in frame.items()}
    write_atomically(path, pd.DataFrame(escaped).to_csv(index=False).encode())
    return path


def _escape_formula(cell: Any) -> Any:
    """Prefix a text that a spreadsheet would run as a formula with a quote, which keeps it a text."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
