"""The finals: what the best trials are put to when all are done. For now, planning."""

from __future__ import annotations

from rich.console import Console

from jepa_ray.planning.success import PlanningResult, plan_success
from jepa_ray.storage import Storage
from jepa_ray.sweep import checkpoint_name
from jepa_ray.sweep.output import results
from jepa_ray.sweep.storage.study import PlanningScore, Study, TrialRecord
from jepa_ray.tracking import Tracker
from jepa_ray.train.checkpoint import best_model, from_bytes, rebuild

CHECK = "plan_success"


def plan_with_best(study: Study, store: Storage, runs: dict[int, str], tracker: Tracker, console: Console) -> None:
    """Plan with the best `evaluation.plan_top_k` trials that have not been planned with yet, and record the outcome.

    Args:
        study: the books of the sweep.
        store: the sweep's, where the checkpoints lie.
        runs: MLflow run of each trial, by number.
        tracker: what writes to them.
        console: what is told of each.
    """
    for record in results.rank_trials(study, by_planning=False)[: study.spec.evaluation.plan_top_k]:
        if record.planning_score is None and record.status in results.RANKED:
            with console.status(f"planning with {record.trial_id}"):
                found = _plan(study, store, checkpoint_name(record.number))
            _record(study, record, found, console)
            if run := runs.get(record.number):
                values = {CHECK: found.success.value, f"{CHECK}_random": found.random.value}
                tracker.log_epoch(run, len(record.history), values)


def _plan(study: Study, store: Storage, name: str) -> PlanningResult:
    data = store.read(name)
    assert data is not None, ("the retention keeps the checkpoints of all finalists", name)
    model, config = rebuild(best_model(from_bytes(data)), f"{store}/{name}")
    return plan_success(model, config, study.spec.evaluation.planning)


def _record(study: Study, record: TrialRecord, found: PlanningResult, console: Console) -> None:
    low, high = found.success.interval
    study.record_planning_score(record.number, PlanningScore(found.success.value, low, high, found.random.value))
    console.print(
        f"{record.trial_id}  plans with success {found.success}; a random policy: {found.random}",
        highlight=False,
        soft_wrap=True,
    )
