"""The finals: what the best trials are put to when all are done. For now, planning."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from jepa_ray.plan.success import PlanningResult, plan_success
from jepa_ray.sweep import results
from jepa_ray.sweep.search import Finals, Study, TrialRecord
from jepa_ray.tracking import Tracker
from jepa_ray.train.checkpoint import best_model, from_bytes, rebuild

CHECK = "plan_success"


def hold_finals(study: Study, checkpoints: dict[str, Path], tracker: Tracker, console: Console) -> None:
    """Plan with the best `evaluation.plan_top_k` trials that have not been planned with yet, and record the outcome.

    Args:
        checkpoints: training checkpoint of each trial, by Tune's id.
    """
    wanted = study.spec.evaluation.plan_top_k
    ranked = [record for record in results.ranking(study, by_finals=False) if record.tune_id in checkpoints]
    for record in ranked[:wanted]:
        if record.finals is None and record.status in results.RANKED:
            with console.status(f"planning with {record.trial_id}"):
                found = _plan(study, checkpoints[str(record.tune_id)])
            _record(study, record, found, tracker, console)


def _plan(study: Study, path: Path) -> PlanningResult:
    model, config = rebuild(best_model(from_bytes(path.read_bytes())), str(path))
    return plan_success(model, config, study.spec.evaluation.planning)


def _record(study: Study, record: TrialRecord, found: PlanningResult, tracker: Tracker, console: Console) -> None:
    low, high = found.success.interval
    study.record_finals(str(record.tune_id), Finals(found.success.value, low, high, found.random.value))
    if record.mlflow_run_id:
        values = {CHECK: found.success.value, f"{CHECK}_random": found.random.value}
        tracker.log_epoch(record.mlflow_run_id, len(record.history), values)
    console.print(
        f"{record.trial_id}  plans with success {found.success}; a random policy: {found.random}",
        highlight=False,
        soft_wrap=True,
    )
