"""Planning with the best trials of a sweep, after all trials have ended."""

from __future__ import annotations

from rich.console import Console

from jepa_ray.planning.success import PlanningResult, plan_success
from jepa_ray.storage import Storage
from jepa_ray.sweep import checkpoint_name
from jepa_ray.sweep.ranking import RANKED, rank_trials
from jepa_ray.sweep.storage.records import PlanningScore, TrialRecord
from jepa_ray.sweep.storage.study import Study
from jepa_ray.tracking import Tracker
from jepa_ray.train.checkpoint import best_model, from_bytes, rebuild

SUCCESS_METRIC = "plan_success"  # its name in MLflow


def plan_with_best(study: Study, store: Storage, runs: dict[int, str], tracker: Tracker, console: Console) -> None:
    """Plan with the best `evaluation.plan_top_k` trials that have no planning score yet, and record the scores.

    Args:
        study: where the scores are written.
        store: where the sweep's checkpoints are stored.
        runs: the ID of each trial's MLflow run, by trial number.
        tracker: writes the scores to these runs.
        console: prints a line per trial.
    """
    for record in rank_trials(study, by_planning=False)[: study.spec.evaluation.plan_top_k]:
        if record.planning_score is None and record.status in RANKED:
            with console.status(f"planning with {record.trial_id}"):
                result = _plan(study, store, checkpoint_name(record.number))
            _record(study, record, result, console)
            if run := runs.get(record.number):
                values = {SUCCESS_METRIC: result.success.value, f"{SUCCESS_METRIC}_random": result.random.value}
                tracker.log_epoch(run, len(record.history), values)


def _plan(study: Study, store: Storage, name: str) -> PlanningResult:
    data = store.read(name)
    assert data is not None, ("the retention keeps the checkpoints of the best trials", name)
    model, config = rebuild(best_model(from_bytes(data)), f"{store}/{name}")
    return plan_success(model, config, study.spec.evaluation.planning)


def _record(study: Study, record: TrialRecord, result: PlanningResult, console: Console) -> None:
    low, high = result.success.interval
    study.record_planning_score(record.number, PlanningScore(result.success.value, low, high, result.random.value))
    console.print(
        f"{record.trial_id}  plans with success {result.success}; a random policy: {result.random}",
        highlight=False,
        soft_wrap=True,
    )
