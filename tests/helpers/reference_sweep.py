"""The sweep that several tests of Ray run or compare with: two trials that learn, two that stay at chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.running import read_leaderboard
from jepa_ray.config import TrainConfig

UNTRAINED = 1e-12  # a learning rate that leaves a model as it was initialised: at chance
FAST_PLANNING = {"samples": 4, "elites": 2, "iterations": 1, "episodes": 4, "budget": 4}
# Columns of the leaderboard that differ from run to run.
MEASURED = ["seconds", "samples_per_s", "epoch_s", "mlflow_run_id"]


@dataclass(frozen=True)
class Swept:
    """A finished sweep."""

    spec: dict[str, Any]
    path: Path  # of its spec
    output: Path
    printed: str

    def board(self) -> pd.DataFrame:
        """Its leaderboard, without what differs from run to run."""
        return read_leaderboard(self.output).drop(columns=MEASURED)


def reference_spec(train_config: TrainConfig) -> dict[str, Any]:
    """Four trials, of which two learn and two are stopped at chance after two epochs; the best two plan.

    Epochs of about a second are long enough for a signal to arrive in the middle of one.
    """
    changes = {
        "data.two_rooms.trajectories": 200,
        "training.collapse_epochs": 2,
        "experiment.checkpoint_every": 1,
        "experiment.keep_checkpoints": 1,
    }
    base = train_config.with_overrides(changes)
    return {
        "name": "unit",
        "base": base.to_dict(),
        "space": {"training.learning_rate": [4e-3, UNTRAINED], "model.latent_dim_state": [16, 32]},
        "search": {"algorithm": "tpe", "num_trials": 4, "seed": 1},
        "early_stopping": {"enabled": False, "max_epochs": 3},
        "evaluation": {"plan_top_k": 2, "planning": FAST_PLANNING},
        "resources": {"max_concurrent": 1},
    }
