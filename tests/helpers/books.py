"""Studies made in a moment, without Ray or training, whose curves look like those of real sweeps."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.study import Ran, Study

BEGAN = 1_800_000_000.0
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
GROUPS = 2


def spec(**changes: Any) -> SweepConfig:
    return SweepConfig.model_validate({**SPEC, **changes})


def study(spec: SweepConfig, database: Path | None = None) -> Study:
    return Study.open(spec, database) if database else Study(spec, optuna.storages.InMemoryStorage())


def metrics(value: float, seconds: float = 2.0) -> dict[str, float]:
    """What a validation leaves; models at chance (0.06) have the best loss and the best cosine."""
    knows = max(0.0, (value - 0.06) / 0.94)
    return {
        "train_loss": 0.001 + 0.02 * knows,
        "val_loss": 0.001 + 0.01 * knows,
        "val_cosine": 0.9995 - 0.004 * knows,
        "val_skill": knows,
        "persistence_ratio": 1.5 - knows,
        "action_gap": 1.0 + knows,
        "val_rollout_mrr": value,
        "val_mrr_chance": 0.056,
        "val_mrr_z": 60 * knows,
        "val_mrr_within": value + 0.02,
        "val_mrr_within_chance": 0.09,
        "val_mrr_within_z": 50 * knows,
        "val_mrr_copy": 0.12,
        "val_mrr_ceiling": 1.0,
        "rollout_probe_r2": knows - 0.2,
        "embedding_std": 0.05 + knows,
        "effective_rank": 2.0 + 10 * knows,
        "temporal_share": 0.5,
        "ema_gap": 0.1,
        "ema_param_gap": 0.01,
        "samples_per_s": 3000.0,
        "epoch_s": seconds,
    }


def value_of(params: dict[str, Any], epoch: int, rng: random.Random) -> float:
    """Learning rate matters most, then the decay; the curve rises with the epochs."""
    rate = params.get("training.learning_rate", 1e-3)
    decay = params.get("training.ema_decay", 0.99)
    good = 0.75 - 0.2 * abs(math.log10(rate) + 3) - 30 * abs(decay - 0.992)
    return max(0.05, good * (1 - math.exp(-epoch / 2)) + rng.gauss(0, 0.01))


def train_all(books: Study, most: int | None = None, fail_every: int = 0) -> None:
    """Train what the search suggests, two groups in turn; the worse half stops at the first rung."""
    search, rng = Search(books), random.Random(0)
    clocks = [BEGAN + 3.0 + i for i in range(GROUPS)]
    begun = 0
    while (most is None or begun < most) and (asked := search.ask()):
        group = clocks.index(min(clocks))
        if fail_every and begun % fail_every == fail_every - 1:
            books.note(asked.number, error="train_loss is nan at step 3 of epoch 1")
            books.finish(asked.number, failed=True)
        else:
            clocks[group] = train(books, asked.number, rng, f"unit-group-{group}", clocks[group] + 0.2)
        begun += 1


def train(books: Study, number: int, rng: random.Random, group: str, clock: float) -> float:
    """One trial to its end; the time at which it ends."""
    stopping = books.spec.early_stopping
    for epoch in range(1, stopping.max_epochs + 1):
        clock += (seconds := rng.uniform(1, 3))
        value = value_of(books.record(number).params, epoch, rng)
        last = epoch == stopping.max_epochs
        stopped = epoch == stopping.grace_epochs and value < 0.2
        if stopped:
            books.note(number, stop=f"stopped at epoch {epoch}: {value:.4g} is worse than 0.2", stop_epoch=epoch)
        books.report(number, epoch, metrics(value, seconds), last=last, ran=Ran(group, clock))
        if stopped:
            break
    books.finish(number)
    return clock
