"""One trial, as Ray Tune sees it: a class Trainable that owns a warm worker group.

`reuse_actors` hands the same Trainable, and so the same group, from trial to trial; a step is one epoch, so ASHA stops
a trial exactly at its rung. Checkpoints are written here, under the trial's number: whoever is handed an unfinished
trial, after a crash of group or driver, finds them there. Ray Tune's own checkpoints are not used.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from ray.tune import PlacementGroupFactory, Trainable

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError, GroupDiedError, StorageError, TrialError
from jepa_ray.files import write_atomically
from jepa_ray.sweep import checkpoint_path
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial

Ran = tuple[str, float]  # the group that trained an epoch, and the Unix time of its end

LONG_PATIENCE_S = 24 * 3600.0  # of a sweep that has trained before: what it lacks now was lost, and may come again


class Group(Protocol):
    """What a trial needs of its worker group; benchmarks and tests put others in its place."""

    def call(self, command: Any) -> Any: ...
    def checkpoint(self, result: EpochResult) -> bytes: ...
    def shutdown(self) -> None: ...


class SweepTrial(Trainable):
    """Trains the config `{"number", "overrides"}` on the group it owns. Subclassed per sweep by `trainable`."""

    spec: SweepConfig
    folder: Path  # the sweep's, which all nodes see

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A token share of memory: the group reserves what training takes, and Tune insists on something."""
        return PlacementGroupFactory([{"memory": 1024}])

    def start_group(self) -> Group:
        """A running worker group for this sweep's resources. Raises `GroupStartError`.

        If a node is lost, its trial waits until another group is done or a node joins: it must not fail for that.
        """
        from jepa_ray.train.worker_group import PATIENCE_S, WorkerGroup  # with torch, which only a group needs

        resources = self.spec.resources
        trained_before = any(self._checkpoint.parent.glob("*.pt"))
        group = WorkerGroup(
            workers=resources.workers_per_trial,
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            storage=self.folder / "groups",
            name=self._name,
            patience=LONG_PATIENCE_S if trained_before else PATIENCE_S,
        )
        group.start()
        return group

    def setup(self, config: dict[str, Any]) -> None:
        self._group: Group | None = None
        self._name = f"{self.spec.name}-group-{uuid.uuid4().hex[:6]}"  # a group that dies takes this process along
        self._begin(config)

    def __repr__(self) -> str:
        """What the Ray dashboard calls the actor."""
        return self._name

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        """Remember a trial; the group starts it at the first step."""
        self._overrides: dict[str, Any] = config["overrides"]
        self._checkpoint = checkpoint_path(self.folder, config["number"])
        self._started = False

    def step(self) -> dict[str, Any]:
        """Train one epoch. What fails on its own terms ends here; a dead group is raised, so that Tune retries.

        The first step of a trial that has a checkpoint trains nothing: it tells the result that the checkpoint was
        written with, since whoever was to record it may have died before.
        """
        try:
            result, ran = self._next_epoch()
        except GroupDiedError:
            raise
        except (TrialError, ConfigError) as error:
            return {"failure": str(error), "done": True, self.spec.objective.metric: float("nan")}
        ended = {"finished": result.finished, "collapse": result.collapse, "done": result.finished}
        return {**result.metrics, "epoch": result.epoch, "ran": ran, **ended}

    def _next_epoch(self) -> tuple[EpochResult, Ran | None]:
        """What an epoch left, and who trained it when: nobody knows of one that is told from its checkpoint."""
        group = self._group = self._group or self.start_group()
        if not self._started:
            data = self._checkpoint.read_bytes() if self._checkpoint.exists() else None
            last: EpochResult | None = group.call(StartTrial(self.spec.trial_config(self._overrides), data))
            self._started = True
            if last:
                return last, None
        result: EpochResult = group.call(RunEpoch())
        ran = self._name, time.time()
        self._write(group.checkpoint(result))
        return result, ran

    def _write(self, checkpoint: bytes) -> None:
        try:
            write_atomically(self._checkpoint, checkpoint)
        except OSError as error:
            raise StorageError(f"{self._checkpoint}: cannot be written ({error.strerror or error})") from None

    def cleanup(self) -> None:
        if self._group:
            self._group.shutdown()


def trainable(spec: SweepConfig, folder: Path) -> type[SweepTrial]:
    """The Trainable class of one sweep, in its output folder."""
    return type("SweepTrial", (SweepTrial,), {"spec": spec, "folder": folder})
