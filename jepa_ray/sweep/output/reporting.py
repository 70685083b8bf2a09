"""The books of a sweep as the facts that its report is drawn from, at its end or while it runs."""

from __future__ import annotations

import math
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from jepa_ray import __version__, secrets
from jepa_ray.config import METRICS, SweepConfig, dimensions, dump_yaml, load_sweep_config
from jepa_ray.diagnosis import Diagnosis, diagnose, remedies
from jepa_ray.errors import ConfigError
from jepa_ray.files import write_atomically
from jepa_ray.machine import Machine
from jepa_ray.report import panels
from jepa_ray.report.page import render
from jepa_ray.report.report_data import Budget, Epoch, Interval, Planned, ReportData, Session, SweepState, Trial
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.output import results
from jepa_ray.sweep.output.view import describe
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.budget import plan
from jepa_ray.sweep.search.warm_start import copied
from jepa_ray.sweep.storage.study import Status, Study, StudyView, TrialRecord

REPORT, PICTURE = "report.html", "planned.png"
PACKAGES = ("torch", "ray", "optuna", "mlflow-skinny", "numpy", "h5py", "pydantic", "plotly", "scikit-learn")
ANY_MACHINE = Machine(1e9, 1e9)  # of the plan, only the budget is asked for


def write_report(study: Study, folder: Path, state: SweepState) -> Path:
    """`report.html` in the sweep's folder."""
    path = folder / REPORT
    write_atomically(path, render(collect_report_data(study, folder, state)).encode())
    return path


def read_report_data(folder: Path) -> ReportData:
    """The facts of a sweep that another process may be running: nothing of it is touched. Raises `ConfigError`."""
    if not (folder / "spec.yaml").exists() or not (folder / "optuna.db").exists():
        raise ConfigError(f"{folder}: is no folder of a sweep (spec.yaml and optuna.db): name OUTPUT_DIR/sweeps/NAME")
    spec = load_sweep_config(folder / "spec.yaml")
    state = SweepState.FINISHED if (folder / "finished.json").exists() else SweepState.UNFINISHED
    with copied(folder / "optuna.db") as database:
        return collect_report_data(StudyView.open(spec, database), folder, state)


def collect_report_data(study: Study, folder: Path, state: SweepState) -> ReportData:
    """All that the report of a sweep shows."""
    spec = study.spec
    trials = _trials(study)
    budget = plan(spec, ANY_MACHINE)
    return ReportData(
        name=spec.name,
        state=state,
        written=time.time(),
        objectives=spec.objectives,
        space=space.distributions(spec.space),
        conditional=frozenset(key for key, d in spec.space.items() if dimensions.conditions(d)),
        trials=trials,
        budget=Budget(budget.runs, budget.max_epochs, budget.rungs, budget.points),
        sessions=[Session(s["began"], s["command"], s["versions"]) for s in study.sessions],
        spec=spec.to_dict(),
        spec_text=dump_yaml(spec.to_dict()),
        remedies=_remedies(spec, trials),
        picture=_picture(folder / PICTURE),
        versions=versions(),
    )


def _picture(path: Path) -> bytes | None:
    """A PNG and nothing else: the page goes to others, and a link could be to any file."""
    data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def begin_session(study: Study) -> None:
    """Note in the books when a session began, by which command, and on what."""
    study.begin_session({"began": time.time(), "command": _command(), "versions": versions()})


def _command() -> str:
    """This process's command as one would type it again."""
    program = Path(sys.argv[0])
    words = ["python", "-m", f"jepa_ray.{program.parent.name}"] if program.name == "__main__.py" else [program.name]
    return secrets.mask(shlex.join([*words, *sys.argv[1:]]))


def versions() -> dict[str, str]:
    """What results depend on beside the spec."""
    found = {"jepa-ray": __version__, "Python": platform.python_version(), "system": platform.platform()}
    machine = Machine.local()
    found["machine"] = f"{platform.machine()}, {machine.cpus:g} CPUs, {machine.gpus:g} GPUs"
    for package in PACKAGES:
        try:
            found[package.removesuffix("-skinny")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# ------------------------------------------------------------------------------------------ trials


def _trials(study: Study) -> list[Trial]:
    ranks = {record.number: rank for rank, record in enumerate(results.rank_trials(study), start=1)}
    front = results.pareto_front(study) if len(study.spec.objectives) > 1 else None
    seeds = _seeds(study)
    trials = [_trial(study, record, ranks.get(record.number)) for record in study.records()]
    return [
        replace(
            trial,
            pareto=trial.number in front if front is not None and trial.status == Status.COMPLETE else None,
            intervals=_intervals(study, seeds.get(trial.number, [])),
            runs=max(1, len(seeds.get(trial.number, []))),
        )
        for trial in trials
    ]


def _trial(study: Study, record: TrialRecord, rank: int | None) -> Trial:
    spec, objective = study.spec, study.best_value(record)
    best_epoch = _best_epoch(study, record)
    return Trial(
        number=record.number,
        name=record.trial_id,
        label=describe(record.params),
        status=str(record.status),
        params={key: record.params[key] for key in spec.space if key in record.params},
        epochs=[Epoch(row, ran.group, ran.ended) for row, ran in zip(record.history, record.ran, strict=True)],
        rank=rank,
        objective=objective if objective is not None and math.isfinite(objective) else None,
        best_epoch=best_epoch,
        stop=record.stop,
        error=record.error,
        collapse=record.collapse,
        diagnosis=_diagnosis(record.history[best_epoch - 1]) if best_epoch else None,
        planned=_planned(record),
        repeat_of=None if record.repeat_of is None else trial_name(record.repeat_of),
        seed=record.seed,
    )


def _best_epoch(study: Study, record: TrialRecord) -> int | None:
    """The first epoch with the best objective, 1, 2, ...; None where there is none."""
    metric, best = study.spec.objective.metric, study.best_value(record)
    return next((i for i, row in enumerate(record.history, start=1) if row[metric] == best), None)


def _diagnosis(metrics: Mapping[str, float]) -> Diagnosis | None:
    """None where the metrics are not those of a validation (a sweep of other things than models)."""
    return diagnose(metrics) if set(_DIAGNOSED) <= metrics.keys() or "val_mrr_z" not in metrics else None


_DIAGNOSED = (
    "val_rollout_mrr",
    "val_mrr_chance",
    "val_mrr_copy",
    "val_mrr_ceiling",
    "val_mrr_z",
    "val_mrr_within",
    "val_mrr_within_z",
    "val_mrr_within_chance",
    "embedding_std",
    "effective_rank",
    "temporal_share",
    "persistence_ratio",
    "action_gap",
)


def _planned(record: TrialRecord) -> Planned | None:
    found = record.planning_score
    return Planned(Interval(found.plan_success, found.low, found.high), found.random) if found else None


def _remedies(spec: SweepConfig, trials: list[Trial]) -> Any:
    worst = panels.commonest(trial for trial in trials if trial.repeat_of is None)
    return remedies(worst, spec.trial_config({})) if worst else ()


# ----------------------------------------------------------------------------------- over the seeds


def _seeds(study: Study) -> dict[int, list[TrialRecord]]:
    """Each repeated configuration's runs that have a model, the first one included, by the first one's number."""
    runs: dict[int, list[TrialRecord]] = {}
    for record in study.records():
        if record.repeat_of is not None and record.status in results.RANKED:
            runs.setdefault(record.repeat_of, [study.record(record.repeat_of)]).append(record)
    return runs


def _intervals(study: Study, runs: list[TrialRecord]) -> dict[str, Interval]:
    """Of every metric of the best epochs."""
    if len(runs) < 2:
        return {}
    rows = [run.history[(_best_epoch(study, run) or 1) - 1] for run in runs]
    found = {}
    for name in METRICS:
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if len(values) == len(rows):
            mean = results.MeanInterval.of(values)
            found[name] = Interval(mean.mean, mean.low, mean.high)
    return found
