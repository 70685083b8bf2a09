"""The border to Ray Tune: what a trial returns from a step, and what the scheduler and the recorder read from it.

Ray Tune needs a flat dictionary with the objective and `done`. Everything else travels as one typed object in it.
Imports neither Ray nor Optuna: the process of a trial needs no Optuna, and the records of the study need no Ray.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepa_ray.train.mailbox import EpochResult, Failure

UPDATE = "update"  # the key of the typed object; Ray Tune adds keys of its own


@dataclass(frozen=True)
class TrainedBy:
    """Where and when an epoch was trained; None where this is not known."""

    group: str | None = None
    ended: float | None = None  # Unix time, by the clock of the group's node
    hosts: str | None = None  # names of the machines, separated by spaces


@dataclass(frozen=True)
class TrialUpdate:
    """One epoch of a trial, as it arrives in the driver."""

    result: EpochResult  # without the checkpoint
    trained_by: TrainedBy

    @property
    def completed(self) -> bool:
        """Whether this was the trial's last epoch and the trial was not stopped because the model collapsed."""
        return self.result.finished and not self.result.collapse


def to_tune(result: EpochResult, trained_by: TrainedBy, objective: str) -> dict[str, Any]:
    """The dictionary for an epoch. It does not refer to the checkpoint, which Ray can then remove from memory.

    Args:
        result: what the worker group replied.
        trained_by: the group and the machines that trained the epoch, and its end.
        objective: the metric that the sweep optimizes.
    """
    update = TrialUpdate(dataclasses.replace(result, checkpoint=[]), trained_by)
    return {objective: result.metrics.get(objective, float("nan")), "done": result.finished, UPDATE: update}


def failure_to_tune(message: str, objective: str) -> dict[str, Any]:
    """The dictionary for a trial that failed and must not be retried."""
    return {objective: float("nan"), "done": True, UPDATE: Failure(message)}


def from_tune(result: Mapping[str, Any]) -> TrialUpdate | Failure:
    """The typed object that `to_tune` or `failure_to_tune` put into the dictionary."""
    update = result[UPDATE]
    assert isinstance(update, (TrialUpdate, Failure)), ("every step returns a dictionary made by to_tune", result)
    return update
