"""The scheduler: which trials are stopped early, and when."""

from __future__ import annotations

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from jepa_ray.config import SweepConfig


def scheduler(spec: SweepConfig) -> TrialScheduler:
    """ASHA (Li et al. 2020) on the objective, with one bracket; or none, where early stopping is off."""
    stopping = spec.early_stopping
    if not stopping.enabled:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=spec.objective.metric,
        mode=spec.objective.mode,
        grace_period=stopping.grace_epochs,
        max_t=stopping.max_epochs,
        reduction_factor=stopping.reduction_factor,
    )
