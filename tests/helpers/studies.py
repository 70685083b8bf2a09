"""Studies for tests, made without Ray or training; their learning curves look like those of real sweeps."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrainedBy

BEGAN = 1_800_000_000.0  # Unix time of the first session
GROUPS = 2
SPEC: dict[str, Any] = {
    "name": "unit",
    "base": {"data": {"builtin": "two_rooms"}},
    "space": {
        "training.ema_decay": [0.99, 0.995, 0.999],
        "training.learning_rate": [1e-5, 1e-4, 1e-3],
        "model.transition_depth": [2, 4, 6],
    },
    "search": {"algorithm": "random", "num_trials": 12},
    "early_stopping": {"grace_epochs": 1, "max_epochs": 4, "reduction_factor": 2},
}


def make_spec(**sections: Any) -> SweepConfig:
    """`SPEC` with whole sections replaced or added."""
    return SweepConfig.model_validate({**SPEC, **sections})


def make_study(spec: SweepConfig | None = None, database: Path | None = None) -> Study:
    """A study in a SQLite file, which is opened if it exists; without `database`, a new one in memory."""
    spec = spec or make_spec()
    return Study.open(spec, database) if database else Study(spec, optuna.storages.InMemoryStorage())


def make_metrics(value: float, seconds: float = 2.0) -> dict[str, float]:
    """The metrics of an epoch. A model at chance level (0.06) has the best loss and the best cosine."""
    skill = max(0.0, (value - 0.06) / 0.94)
    return {
        "train_loss": 0.001 + 0.02 * skill,
        "val_loss": 0.001 + 0.01 * skill,
        "val_cosine": 0.9995 - 0.004 * skill,
        "val_skill": skill,
        "persistence_ratio": 1.5 - skill,
        "action_gap": 1.0 + skill,
        "val_rollout_mrr": value,
        "val_mrr_chance": 0.056,
        "val_mrr_z": 60 * skill,
        "val_mrr_within": value + 0.02,
        "val_mrr_within_chance": 0.09,
        "val_mrr_within_z": 50 * skill,
        "val_mrr_copy": 0.12,
        "val_mrr_ceiling": 1.0,
        "rollout_probe_r2": skill - 0.2,
        "embedding_std": 0.05 + skill,
        "effective_rank": 2.0 + 10 * skill,
        "temporal_share": 0.5,
        "ema_gap": 0.1,
        "ema_param_gap": 0.01,
        "samples_per_s": 3000.0,
        "epoch_s": seconds,
    }


def record_trial(study: Study, number: int, *values: float, last: bool = True, seconds: float = 2.0) -> None:
    """Record one epoch per objective value, and close the trial: as complete, or as pruned if not `last`."""
    for epoch, value in enumerate(values, start=1):
        metrics = {"val_rollout_mrr": value, "val_loss": 0.1, "epoch_s": seconds}
        study.report(number, epoch, metrics, last=last and epoch == len(values))
    study.finish(number)


def train_study(study: Study, max_trials: int | None = None, fail_every: int = 0) -> None:
    """Simulate the trials that the search suggests, on two groups; trials below 0.2 stop at the first rung.

    Args:
        study: where the trials are recorded.
        max_trials: end after this many; None: when the search is exhausted.
        fail_every: every n-th trial fails; 0: none.
    """
    search, rng = Search(study), random.Random(0)
    clocks = [BEGAN + 3.0 + i for i in range(GROUPS)]
    begun = 0
    while (max_trials is None or begun < max_trials) and (suggestion := search.ask()):
        number, group = suggestion.number, clocks.index(min(clocks))
        if fail_every and begun % fail_every == fail_every - 1:
            study.note(number, error="train_loss is nan at step 3 of epoch 1")
            study.finish(number, failed=True)
        else:
            clocks[group] = train_trial(study, number, rng, f"unit-group-{group}", clocks[group] + 0.2)
        begun += 1


def train_trial(study: Study, number: int, rng: random.Random, group: str, clock: float) -> float:
    """Simulate one trial from time `clock` to its end, and return the time of its end."""
    stopping = study.spec.early_stopping
    for epoch in range(1, stopping.max_epochs + 1):
        clock += (seconds := rng.uniform(1, 3))
        value = _draw_objective(study.record(number).params, epoch, rng)
        last = epoch == stopping.max_epochs
        stopped = epoch == stopping.grace_epochs and value < 0.2
        if stopped:
            study.note(number, stop=f"stopped at epoch {epoch}: {value:.4g} is worse than 0.2", stop_epoch=epoch)
        study.report(number, epoch, make_metrics(value, seconds), last=last, trained_by=TrainedBy(group, clock))
        if stopped:
            break
    study.finish(number)
    return clock


def _draw_objective(params: dict[str, Any], epoch: int, rng: random.Random) -> float:
    """The learning rate matters most, then the EMA decay; the curve rises with the epochs."""
    rate = params.get("training.learning_rate", 1e-3)
    decay = params.get("training.ema_decay", 0.99)
    limit = 0.75 - 0.2 * abs(math.log10(rate) + 3) - 30 * abs(decay - 0.992)
    return max(0.05, limit * (1 - math.exp(-epoch / 2)) + rng.gauss(0, 0.01))
