"""How many checkpoints of a sweep are stored at once, worked out from its spec. No torch, no Ray."""

from __future__ import annotations

from jepa_ray.config import Budget, SweepConfig

MIN_RETAINED = 10  # ended trials whose checkpoints are kept, if planning and repeats do not need more


def count_retained_trials(spec: SweepConfig) -> int:
    """How many ended trials keep their checkpoints: the best ones, as many as planning and repeats need."""
    return max(MIN_RETAINED, spec.evaluation.plan_top_k, spec.search.finalists)


def count_stored_trials(spec: SweepConfig, budget: Budget, groups: int) -> int:
    """Trials whose checkpoints are stored at the same time, at most: the best ended ones, `groups` running, repeats."""
    return min(budget.trials, count_retained_trials(spec) + groups) + budget.repeats


def count_periodic_checkpoints(spec: SweepConfig) -> int:
    """How many periodic checkpoints one trial keeps at most."""
    experiment = spec.base.experiment
    if experiment.checkpoint_every is None:
        return 0
    due = spec.early_stopping.max_epochs // experiment.checkpoint_every
    return min(due, experiment.keep_checkpoints or due)
