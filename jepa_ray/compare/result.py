"""The measurements of one run, and their format on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from jepa_ray.errors import DataError
from jepa_ray.files import write_atomically
from jepa_ray.planning.success import Rate

Side = Literal["jepa", "generative"]
SIDES: tuple[Side, ...] = get_args(Side)


@dataclass(frozen=True)
class ComparisonRun:
    """One run of the comparison: its side and its seed."""

    side: Side
    seed: int

    def __str__(self) -> str:
        return f"{self.side}-seed{self.seed}"


@dataclass(frozen=True)
class Parameters:
    """The number of parameters in the parts of a learner."""

    world_model: int  # encoders and transition: trained, and kept after training
    training_only: int  # decoder and heads: trained, but not needed afterwards
    target: int  # the EMA copy of the encoder: not trained

    @property
    def trained(self) -> int:
        return self.world_model + self.training_only


@dataclass(frozen=True)
class Memory:
    """Memory of the process on a CPU, or of the device on a GPU, in MB of 10^6 bytes."""

    idle_mb: float  # after libraries and data are loaded, before the model is built
    peak_mb: float  # from then until the end of the last epoch, with validation

    @property
    def above_idle_mb(self) -> float:
        return self.peak_mb - self.idle_mb


@dataclass(frozen=True)
class Planning:
    """Success rates of planning with the best model, and of random actions on similar tasks."""

    success: Rate
    random: Rate


@dataclass(frozen=True)
class Measured:
    """One run: its curve, and its other measurements."""

    side: Side
    seed: int
    # One row per epoch: epoch, seconds (of training so far), elapsed_seconds (with validation), and every metric.
    curve: list[dict[str, float]]
    predicted_numbers: int  # size of the prediction at each step: an embedding, or an observation
    parameters: Parameters
    memory: Memory | None  # None if the system does not report it
    diagnosis: str  # of the last epoch
    collapsed: bool
    planning: Planning | None
    planning_skipped: str | None  # the reason, if `planning` is None

    @property
    def run(self) -> ComparisonRun:
        return ComparisonRun(self.side, self.seed)

    def final(self, metric: str) -> float | None:
        """A metric of the last epoch; None if it cannot be computed on the data."""
        return self.curve[-1].get(metric)

    @property
    def best_mrr(self) -> float:
        """The maximum of val_rollout_mrr over all epochs."""
        return max(row["val_rollout_mrr"] for row in self.curve)

    @property
    def samples_per_s(self) -> float:
        """Training samples per second, the median over epochs."""
        return statistics.median(row["samples_per_s"] for row in self.curve)

    def reached(self, target: float, what: Literal["epoch", "seconds"]) -> float:
        """Epochs or seconds of training until val_rollout_mrr first reached `target`; infinity if it never did."""
        return next((row[what] for row in self.curve if row["val_rollout_mrr"] >= target), math.inf)

    def row(self, target: float) -> dict[str, Any]:
        """The row of comparison.csv; values that were not measured or not reached are empty."""
        epochs, seconds = self.reached(target, "epoch"), self.reached(target, "seconds")
        return {
            "objective": self.side,
            "seed": self.seed,
            "epochs": len(self.curve),
            "train_seconds": self.curve[-1]["seconds"],
            "elapsed_seconds": self.curve[-1]["elapsed_seconds"],
            "parameters_world_model": self.parameters.world_model,
            "parameters_training_only": self.parameters.training_only,
            "parameters_target": self.parameters.target,
            "samples_per_s": self.samples_per_s,
            "idle_memory_mb": self.memory and self.memory.idle_mb,
            "peak_memory_mb": self.memory and self.memory.peak_mb,
            "target_mrr": target,
            "epochs_to_target": epochs if math.isfinite(epochs) else None,
            "seconds_to_target": seconds if math.isfinite(seconds) else None,
            "final_val_rollout_mrr": self.final("val_rollout_mrr"),
            "best_val_rollout_mrr": self.best_mrr,
            "val_mrr_chance": self.final("val_mrr_chance"),
            "final_rollout_probe_r2": self.final("rollout_probe_r2"),
            "diagnosis": self.diagnosis,
            **self._planning_row(),
        }

    def _planning_row(self) -> dict[str, Any]:
        if self.planning is None:
            return {"planning_skipped": self.planning_skipped}
        success, random = self.planning.success, self.planning.random
        low, high = success.interval
        return {
            "planning_success": success.value,
            "planning_low": low,
            "planning_high": high,
            "planning_episodes": success.episodes,
            "random_success": random.value,
            "random_episodes": random.episodes,
        }


def save(measured: Measured, path: Path) -> None:
    """Write `measured` as JSON, atomically."""
    write_atomically(path, json.dumps(dataclasses.asdict(measured)).encode())


def load(path: Path) -> Measured:
    """The inverse of `save`. Raises `DataError` if the file is damaged, or was written by another version."""
    try:
        return TypeAdapter(Measured).validate_python(json.loads(path.read_bytes()))
    except ValueError:
        raise DataError(f"{path}: is damaged or was written by another version: start over with --fresh") from None
