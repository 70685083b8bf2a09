"""The tables of a report: leaderboard, what each metric would have picked, diagnoses. Plain values, no HTML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jepa_ray.config import METRICS, SMALLER_IS_BETTER
from jepa_ray.diagnosis import Condition
from jepa_ray.report.report_data import Interval, Params, ReportData, Trial, short

Cell = str | float | int | None

# What people judge models by; each is asked which configuration it would have picked.
JUDGES = (
    "val_rollout_mrr",
    "val_mrr_within",
    "rollout_probe_r2",
    "action_gap",
    "persistence_ratio",
    "val_skill",
    "effective_rank",
    "embedding_std",
    "temporal_share",
    "val_cosine",
    "val_loss",
    "train_loss",
)
MAIN_METRICS = ("val_loss", "val_cosine")  # shown at once; the others on demand


@dataclass(frozen=True)
class LeaderboardColumn:
    """Of a table that the reader can sort and filter."""

    label: str
    numeric: bool = True
    main: bool = True  # shown from the start
    title: str = ""  # in full, where the label is short


@dataclass(frozen=True)
class LeaderboardTable:
    """Columns and rows, in the order in which they are shown first."""

    columns: list[LeaderboardColumn]
    rows: list[list[Cell]]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"columns": [asdict(column) for column in self.columns], "rows": self.rows}


# ------------------------------------------------------------------------------------- leaderboard


def leaderboard(sweep: ReportData) -> LeaderboardTable:
    """All trials: ranked ones, then those in training, then the repeats of finalists."""
    running = [trial for trial in sweep.own if trial.rank is None]
    repeats = [trial for trial in sweep.trials if trial.repeat_of is not None]
    objectives = {objective.metric for objective in sweep.objectives}  # they have columns of their own
    measured = set().union(*(trial.at_best for trial in sweep.trials)) - objectives
    metrics = [name for name in METRICS if name in measured]
    makers = [*_first_columns(sweep), *_key_columns(sweep.keys), *_metric_columns(metrics), *_last_columns(sweep)]
    trials = [*sweep.ranked, *running, *repeats]
    return LeaderboardTable(
        [column for column, _ in makers], [[value(trial) for _, value in makers] for trial in trials]
    )


def _first_columns(sweep: ReportData) -> list[Any]:
    several = sweep.objectives[1:]
    planned = any(trial.planned for trial in sweep.trials)
    repeated = any(trial.intervals for trial in sweep.trials)
    metric = sweep.objective.metric
    return [
        (LeaderboardColumn("rank"), lambda t: t.rank),
        (LeaderboardColumn("trial", numeric=False), lambda t: t.name),
        (LeaderboardColumn("status", numeric=False), lambda t: t.status),
        (LeaderboardColumn("epochs"), lambda t: len(t.epochs)),
        (LeaderboardColumn(metric, title=f"the objective, {sweep.objective.mode}"), lambda t: number(t.objective)),
        *(
            [(LeaderboardColumn("mean over seeds", numeric=False), lambda t: interval(t.intervals.get(metric)))]
            if repeated
            else []
        ),
        *[
            (LeaderboardColumn(o.metric, title=f"{o.mode}"), lambda t, o=o: number(t.at_best.get(o.metric)))
            for o in several
        ],
        *(
            [(LeaderboardColumn("pareto", numeric=False), lambda t: {True: "yes", False: "no"}.get(t.pareto))]
            if several
            else []
        ),
        *([(LeaderboardColumn("plan_success", numeric=False), lambda t: planned_cell(t))] if planned else []),
    ]


def labels(keys: Sequence[str]) -> dict[str, str]:
    """Short names of keys, full ones where two would be the same."""
    counts = Counter(short(key) for key in keys)
    return {key: short(key) if counts[short(key)] == 1 else key for key in keys}


def _key_columns(keys: Sequence[str]) -> list[Any]:
    names = labels(keys)
    return [
        (LeaderboardColumn(names[key], title=key, numeric=True), lambda t, key=key: param(t.params.get(key)))
        for key in keys
    ]


def _metric_columns(metrics: Iterable[str]) -> list[Any]:
    return [
        (LeaderboardColumn(name, main=name in MAIN_METRICS), lambda t, name=name: number(t.at_best.get(name)))
        for name in metrics
    ]


def _last_columns(sweep: ReportData) -> list[Any]:
    return [
        (LeaderboardColumn("seconds"), lambda t: round(t.seconds, 1)),
        (LeaderboardColumn("diagnosis", numeric=False), lambda t: t.diagnosis and str(t.diagnosis.condition)),
        (LeaderboardColumn("note", numeric=False), _note),
    ]


def _note(trial: Trial) -> str | None:
    repeat = f"repeat of {trial.repeat_of}, seed {trial.seed}" if trial.repeat_of else None
    return "; ".join(part for part in (repeat, trial.why) if part) or None


# ------------------------------------------------------------------------------------------- cells


def number(value: float | None) -> float | None:
    """Five digits are enough for eyes; what is not finite is an empty cell."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def param(value: Any) -> Cell:
    """A hyperparameter as a cell."""
    if value is None or isinstance(value, (bool, list, dict)):
        return None if value is None else str(value)
    return value if isinstance(value, (int, str)) else float(f"{value:.6g}")


def interval(found: Interval | None, *, percent: bool = False) -> str | None:
    """`0.69 [0.66, 0.72]`."""
    if found is None:
        return None
    shown = [f"{v:.0%}" if percent else f"{v:.3g}" for v in (found.value, found.low, found.high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def planned_cell(trial: Trial) -> str | None:
    """The rate at which planning reaches its goals."""
    return interval(trial.planned.success, percent=True) if trial.planned else None


# ----------------------------------------------------------------------- what a metric would pick


@dataclass(frozen=True)
class Pick:
    """What a metric would have chosen, of all epochs of all trials."""

    metric: str
    value: float
    trial: Trial
    epoch: int
    objective: float  # of that epoch: what one would have got
    share: float  # of the way from the worst trial's objective to the best one's


def picks(sweep: ReportData) -> list[Pick]:
    """Of each metric, the best pick first; none where no epoch has any."""
    names = dict.fromkeys([*(objective.metric for objective in sweep.objectives), *JUDGES])
    worst, best = _ends(sweep)
    found = [pick for name in names if (pick := _pick(sweep, name))]
    scaled = [replace(pick, share=_share(pick.objective, worst, best)) for pick in found]
    return sorted(scaled, key=lambda pick: -pick.share)


def alike(found: Sequence[Pick]) -> list[list[Pick]]:
    """The picks of the same epoch of the same trial together."""
    together: dict[tuple[int, int], list[Pick]] = {}
    for pick in found:
        together.setdefault((pick.trial.number, pick.epoch), []).append(pick)
    return list(together.values())


def _pick(sweep: ReportData, metric: str) -> Pick | None:
    modes: dict[str, str] = {objective.metric: objective.mode for objective in sweep.objectives}
    sign = -1 if modes.get(metric, "min" if metric in SMALLER_IS_BETTER else "max") == "min" else 1
    ours = sweep.objective.metric
    best: tuple[float, Trial, int] | None = None
    for trial in sweep.own:
        if trial.status == "FAILED":
            continue
        for i, epoch in enumerate(trial.epochs, start=1):
            value, got = sign * epoch.metrics.get(metric, math.nan), epoch.metrics.get(ours, math.nan)
            if math.isfinite(value) and math.isfinite(got) and (best is None or value > best[0]):
                best = value, trial, i
    if best is None:
        return None
    value, trial, number = best
    return Pick(metric, sign * value, trial, number, trial.epochs[number - 1].metrics[ours], 0.0)


def _ends(sweep: ReportData) -> tuple[float, float]:
    """The objective of the worst and the best trial."""
    values = [trial.objective for trial in sweep.own if trial.objective is not None and trial.status != "FAILED"]
    ends = (min(values, default=0.0), max(values, default=0.0))
    return ends if sweep.objective.mode == "max" else ends[::-1]


def _share(value: float, worst: float, best: float) -> float:
    return min(1.0, max(0.0, (value - worst) / (best - worst))) if best != worst else 1.0


# --------------------------------------------------------------------------------------- diagnoses


@dataclass(frozen=True)
class Diagnoses:
    """How many trials each condition has, and all that ail."""

    counts: list[tuple[str, int]]
    ailing: LeaderboardTable
    commonest: Condition | None  # of what ails


def ailing(trials: Iterable[Trial]) -> list[Trial]:
    """Those with a model that was tested and found wanting."""
    fine = (Condition.HEALTHY, Condition.UNTESTED)
    return [trial for trial in trials if trial.diagnosis and trial.diagnosis.condition not in fine]


def diagnoses(sweep: ReportData) -> Diagnoses:
    """Of the best epoch of every trial."""
    ill = ailing(sweep.own)
    counts = Counter(trial.diagnosis.condition for trial in sweep.own if trial.diagnosis)
    columns = [LeaderboardColumn(name, numeric=False) for name in ("trial", "condition", "configuration", "evidence")]
    rows: list[list[Cell]] = [
        [t.name, str(t.diagnosis.condition), t.label, t.diagnosis.evidence] for t in ill if t.diagnosis
    ]
    return Diagnoses(
        [(str(name), count) for name, count in counts.most_common()], LeaderboardTable(columns, rows), commonest(ill)
    )


def commonest(trials: Iterable[Trial]) -> Condition | None:
    """What ails most of them."""
    counts = Counter(trial.diagnosis.condition for trial in ailing(trials) if trial.diagnosis)
    return counts.most_common(1)[0][0] if counts else None


def configuration(params: Params) -> str:
    """`ema_decay=0.99, learning_rate=0.001`."""
    names = labels(list(params))
    return ", ".join(f"{names[key]}={param(value)}" for key, value in params.items())
