"""What a sweep leaves: the leaderboard, the best config and the best model, each written whole or not at all."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from jepa_ray.config import METRICS, SweepConfig, dimensions, dump_yaml
from jepa_ray.files import RunFolder, write_atomically
from jepa_ray.sweep.output.view import clock
from jepa_ray.sweep.search import space
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord
from jepa_ray.train.checkpoint import best_model, from_bytes, to_bytes

SortKey = tuple[int, float]
RANKED = (Status.COMPLETE, Status.PRUNED)


@dataclass(frozen=True)
class MeanInterval:
    """The mean objective of a configuration's runs, each with a seed of its own, and its 95 % interval."""

    runs: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> MeanInterval:
        """Of at least two runs, by Student's t."""
        runs, mean = len(values), statistics.mean(values)
        half = float(stats.t.ppf(0.975, runs - 1)) * statistics.stdev(values) / math.sqrt(runs)
        return cls(runs, mean, mean - half, mean + half)


def repeat_means(study: Study) -> dict[int, MeanInterval]:
    """Of every finalist that was repeated, by the number of its first run; failed repeats don't count."""
    values: dict[int, list[float]] = {}
    records = study.records()
    for record in records:
        if record.repeat_of is not None and record.status in RANKED:
            value = study.best_value(record)
            assert value is not None, ("a repeat that did not fail has epochs", record)
            values.setdefault(record.repeat_of, []).append(value)
    own = {record.number: study.best_value(record) for record in records if record.number in values}
    return {
        number: MeanInterval.of([value for value in [own[number], *more] if value is not None])
        for number, more in values.items()
    }


def rank_trials(study: Study, *, by_planning: bool = True, by_repeats: bool = True) -> list[TrialRecord]:
    """Complete trials by objective, then pruned ones (judged on fewer epochs), then failed ones; repeats left out.

    Before them those that were repeated, by their mean; before them all those that were planned with, by success.
    """
    repeated = repeat_means(study) if by_repeats else {}

    def overall(record: TrialRecord) -> tuple[float, bool, SortKey, int]:
        mean = repeated.get(record.number)
        success = record.planning_score.plan_success if by_planning and record.planning_score else -1.0
        return -success, mean is None, sort_key(study, record, mean.mean if mean else None), record.number

    over = [r for r in study.records() if r.status is not Status.RUNNING and r.repeat_of is None]
    return sorted(over, key=overall)


def sort_key(study: Study, record: TrialRecord, value: float | None = None) -> SortKey:
    """What an ended trial is ranked by, smallest first: its status, and its best value, or the one given instead."""
    value = study.best_value(record) if value is None else value
    sign = -1 if study.spec.objective.mode == "max" else 1
    order = [*RANKED, Status.FAILED]
    return order.index(record.status), math.inf if value is None else sign * value


def leaderboard(study: Study, runs: Mapping[int, str]) -> pd.DataFrame:
    """One row a trial, best first; metrics are those of the trial's best epoch. `runs`: MLflow run by trial number.

    With several objectives, `pareto` says of a complete trial whether no other one beats it.
    """
    spec, front, rows, repeated = study.spec, pareto_front(study), [], repeat_means(study)
    several = len(spec.objectives) > 1
    for rank, record in enumerate(rank_trials(study), start=1):
        best = study.best_value(record)
        at_best = next((row for row in record.history if row[study.spec.objective.metric] == best), {})
        rows.append(
            {
                "rank": rank,
                "trial_id": record.trial_id,
                "status": str(record.status),
                "epochs": len(record.history),
                "objective": best,
                **({"pareto": record.number in front if record.status is Status.COMPLETE else None} if several else {}),
                **{key: record.params.get(key) for key in study.spec.space},
                **{name: at_best.get(name) for name in METRICS},
                "seconds": round(record.seconds, 3),
                "mlflow_run_id": runs.get(record.number),
                "collapse": record.collapse,
                "stop": record.stop,
                "plan_success": record.planning_score.plan_success if record.planning_score else None,
                **{f"objective_{k}": v for k, v in _fields(repeated.get(record.number)).items()},
            }
        )
    columns = [
        "rank",
        "trial_id",
        "status",
        "epochs",
        "objective",
        *(["pareto"] if several else []),
        *spec.space,
        *METRICS,
        "seconds",
        "mlflow_run_id",
        "collapse",
        "stop",
        "plan_success",
        *([f"objective_{field.name}" for field in fields(MeanInterval)] if study.spec.search.repeats > 1 else []),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    for key in [key for key, dimension in spec.space.items() if dimensions.conditions(dimension)]:
        frame[key] = pd.Series([row[key] for row in rows], dtype=object)  # as floats, 4 beside an empty cell were 4.0
    return frame


def pareto_front(study: Study) -> set[int]:
    """Numbers of the complete trials that no other one beats: none is as good in every objective and better in one."""
    signs = [1 if objective.mode == "max" else -1 for objective in study.spec.objectives]
    gains = {
        record.number: [sign * value for sign, value in zip(signs, study.values(record), strict=True)]
        for record in study.records()
        if record.status is Status.COMPLETE and record.repeat_of is None
    }
    return {number for number, gain in gains.items() if not any(_dominates(other, gain) for other in gains.values())}


def _dominates(a: list[float], b: list[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))


def _fields(mean: MeanInterval | None) -> dict[str, float]:
    return asdict(mean) if mean else {}


def write_leaderboard(study: Study, runs: Mapping[int, str], folder: Path) -> Path:
    """`leaderboard.csv`, so far."""
    path = folder / "leaderboard.csv"
    columns = leaderboard(study, runs).items()
    frame = pd.DataFrame({name: pd.Series([*map(_no_formula, cells)], dtype=cells.dtype) for name, cells in columns})
    write_atomically(path, frame.to_csv(index=False).encode())
    return path


def _no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with the sign that makes it a text there."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def write_best(study: Study, best: TrialRecord, checkpoint: bytes, folder: Path) -> list[Path]:
    """`best_config.yaml`, which reproduces the best trial when trained alone, and `best_jepa_model.pt`."""
    spec: SweepConfig = study.spec
    config = spec.trial_config({**space.decode(spec.space, best.params), "experiment.name": f"{spec.name}-best"})
    config_path, model_path = folder / "best_config.yaml", folder / "best_jepa_model.pt"
    header = f"# {best.trial_id} of sweep {spec.name}: {spec.objective.metric} {study.best_value(best)}\n"
    write_atomically(config_path, (header + dump_yaml(config.to_dict())).encode())
    write_atomically(model_path, to_bytes(best_model(from_bytes(checkpoint))))
    return [config_path, model_path]


def table(frame: pd.DataFrame, spec: SweepConfig, top: int = 10) -> Table:
    """The head of the leaderboard, for a terminal."""
    shown = Table(title=f"{spec.name}: best {min(top, len(frame))} of {len(frame)} trials by {spec.objective.metric}")
    keys, planned = list(spec.space), bool(spec.evaluation.plan_top_k)
    extra = [*[objective.metric for objective in spec.objectives[1:]], "pareto"] if len(spec.objectives) > 1 else []
    for name in [
        "rank",
        "trial",
        "status",
        "epochs",
        "objective",
        *extra,
        *[key.rpartition(".")[2] for key in keys],
        "val_loss",
        "val_cosine",
        *(["plan_success"] if planned else []),
        "seconds",
    ]:
        shown.add_column(name, justify="left" if name in ("trial", "status") else "right")
    for row in frame.head(top).to_dict("records"):
        shown_last = ["val_loss", "val_cosine", *(["plan_success"] if planned else []), "seconds"]
        numbers = [row[name] for name in ("objective", *extra, *keys, *shown_last)]
        shown.add_row(
            str(row["rank"]), row["trial_id"], row["status"], str(row["epochs"]), *[_short(v) for v in numbers]
        )
    return shown


def show(spec: SweepConfig, folder: RunFolder, console: Console, where: str | None = None) -> pd.DataFrame:
    """The leaderboard table, and where everything lies: `where`, if the folder is only a copy."""
    frame = pd.read_csv(folder.path / "leaderboard.csv")
    console.print(table(frame, spec))
    console.print(f"done in {clock(folder.seconds)}; everything is in {where or folder.path}", soft_wrap=True)
    for name, what in (
        ("report.html", "everything to look at: open it in a browser"),
        ("leaderboard.csv", "all trials"),
        ("best_config.yaml", "python -m jepa_ray.train --config on it reproduces the best trial"),
        ("best_jepa_model.pt", "the best trial's best epoch"),
        ("ray.log", "what Ray had to say"),
    ):
        if (folder.path / name).exists():
            console.print(f"  {name:<20} {what}", highlight=False, soft_wrap=True)
    return frame


def _short(value: object) -> str:
    if value is None or value != value:  # NaN: an empty cell
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
