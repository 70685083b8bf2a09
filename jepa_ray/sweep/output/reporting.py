"""Turns the study of a finished or running sweep into the data of its report, and writes the report."""

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
from jepa_ray.config import DIAGNOSED, METRICS, SweepConfig, dump_yaml, load_sweep_config
from jepa_ray.diagnosis import Diagnosis, diagnose, remedies
from jepa_ray.errors import ConfigError
from jepa_ray.files import write_atomically
from jepa_ray.formatting import format_params
from jepa_ray.machine import Machine
from jepa_ray.report import panels
from jepa_ray.report.page import render
from jepa_ray.report.report_data import Epoch, Interval, PlanningSuccess, ReportData, Session, SweepState, Trial
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.ranking import RANKED, MeanInterval, find_pareto_front, rank_trials
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.snapshot import copied
from jepa_ray.sweep.storage.study import Study, StudyView

REPORT, PICTURE = "report.html", "planned.png"
# Packages whose versions the report shows.
PACKAGES = ("torch", "ray", "optuna", "mlflow-skinny", "numpy", "h5py", "pydantic", "plotly", "scikit-learn")


def write_report(study: StudyView, folder: Path, state: SweepState) -> Path:
    """Write `report.html` to the sweep's folder."""
    path = folder / REPORT
    write_atomically(path, render(collect_report_data(study, folder, state)).encode())
    return path


def read_report_data(folder: Path) -> ReportData:
    """Read the report data of a sweep from its folder. Only reads, since another process may run the sweep.

    Raises `ConfigError` if the folder is not the folder of a sweep.
    """
    if missing := [name for name in ("spec.yaml", "optuna.db") if not (folder / name).exists()]:
        raise ConfigError(
            f"{folder} is not the folder of a sweep: {' and '.join(missing)} not found; give OUTPUT_DIR/sweeps/NAME"
        )
    spec = load_sweep_config(folder / "spec.yaml")
    state = SweepState.FINISHED if (folder / "finished.json").exists() else SweepState.UNFINISHED
    with copied(folder / "optuna.db") as database:
        return collect_report_data(StudyView.open(spec, database), folder, state)


def collect_report_data(study: StudyView, folder: Path, state: SweepState) -> ReportData:
    """Everything that the report of a sweep shows.

    Args:
        study: the sweep's study.
        folder: the sweep's folder, which may have a picture of planned episodes.
        state: the state to show.
    """
    spec = study.spec
    trials = _collect_trials(study)
    return ReportData(
        name=spec.name,
        state=state,
        written=time.time(),
        objectives=spec.objectives,
        space=space.distributions(spec.space),
        trials=trials,
        budget=plan_budget(spec),
        sessions=[Session(s["began"], s["command"], s["versions"]) for s in study.sessions],
        spec=spec.to_dict(),
        spec_text=dump_yaml(spec.to_dict()),
        remedies=_find_remedies(spec, trials),
        picture=_read_picture(folder / PICTURE),
        versions=collect_versions(),
    )


def _read_picture(path: Path) -> bytes | None:
    """A PNG file. Links and other files are ignored: reports are passed on, and must not contain a private file."""
    data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return data if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def record_session(study: Study) -> None:
    """Record in the study that a session starts: the time, the command and the versions."""
    study.begin_session({"began": time.time(), "command": _format_command(), "versions": collect_versions()})


def _format_command() -> str:
    """The command of this process, with its secrets masked."""
    program = Path(sys.argv[0])
    words = ["python", "-m", f"jepa_ray.{program.parent.name}"] if program.name == "__main__.py" else [program.name]
    return secrets.mask(shlex.join([*words, *sys.argv[1:]]))


def collect_versions() -> dict[str, str]:
    """The versions and the machine that results depend on, besides the spec."""
    versions = {"jepa-ray": __version__, "Python": platform.python_version(), "system": platform.platform()}
    machine = Machine.local()
    versions["machine"] = f"{platform.machine()}, {machine.cpus:g} CPUs, {machine.gpus:g} GPUs"
    for package in PACKAGES:
        try:
            versions[package.removesuffix("-skinny")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


# ------------------------------------------------------------------------------------------ trials


def _collect_trials(study: StudyView) -> list[Trial]:
    ranks = {record.number: rank for rank, record in enumerate(rank_trials(study), start=1)}
    front = find_pareto_front(study) if len(study.spec.objectives) > 1 else None
    runs = _group_runs(study)
    trials = [_convert_trial(study, record, ranks.get(record.number)) for record in study.records()]
    return [
        replace(
            trial,
            pareto=trial.number in front if front is not None and trial.status == Status.COMPLETE else None,
            intervals=_compute_intervals(study, runs.get(trial.number, [])),
            runs=max(1, len(runs.get(trial.number, []))),
        )
        for trial in trials
    ]


def _convert_trial(study: StudyView, record: TrialRecord, rank: int | None) -> Trial:
    spec, objective = study.spec, study.best_value(record)
    best_epoch = record.best_epoch(spec.objective)
    return Trial(
        number=record.number,
        name=record.trial_id,
        label=format_params(record.params),
        status=str(record.status),
        params={key: record.params[key] for key in spec.space if key in record.params},
        epochs=[Epoch(row, by.group, by.ended) for row, by in zip(record.history, record.trained_by, strict=True)],
        rank=rank,
        objective=objective if objective is not None and math.isfinite(objective) else None,
        best_epoch=best_epoch,
        stop=record.stop,
        error=record.error,
        collapse=record.collapse,
        diagnosis=_find_diagnosis(record.history[best_epoch - 1]) if best_epoch else None,
        planned=_convert_planning_score(record),
        repeat_of=None if record.repeat_of is None else trial_name(record.repeat_of),
        seed=record.seed,
    )


def _find_diagnosis(metrics: Mapping[str, float]) -> Diagnosis | None:
    """The diagnosis of an epoch; None if its metrics are incomplete, as in a sweep that trains no world models."""
    return diagnose(metrics) if metrics.keys() >= DIAGNOSED or "val_mrr_z" not in metrics else None


def _convert_planning_score(record: TrialRecord) -> PlanningSuccess | None:
    score = record.planning_score
    return PlanningSuccess(Interval(score.plan_success, score.low, score.high), score.random) if score else None


def _find_remedies(spec: SweepConfig, trials: list[Trial]) -> Any:
    worst = panels.most_common_condition(trial for trial in trials if trial.repeat_of is None)
    return remedies(worst, spec.trial_config({})) if worst else ()


# --------------------------------------------------------------------------------------- repeats


def _group_runs(study: StudyView) -> dict[int, list[TrialRecord]]:
    """The runs of every repeated finalist that have a model, the first trial included, by its number."""
    runs: dict[int, list[TrialRecord]] = {}
    for record in study.records():
        if record.repeat_of is not None and record.status in RANKED:
            runs.setdefault(record.repeat_of, [study.record(record.repeat_of)]).append(record)
    return runs


def _compute_intervals(study: StudyView, runs: list[TrialRecord]) -> dict[str, Interval]:
    """The mean and its interval over the runs, for every metric of the best epochs; empty for a single run."""
    if len(runs) < 2:
        return {}
    rows = [run.best_metrics(study.spec.objective) for run in runs]
    intervals = {}
    for name in METRICS:
        values = [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]
        if len(values) == len(rows):
            mean = MeanInterval.of(values)
            intervals[name] = Interval(mean.mean, mean.low, mean.high)
    return intervals
