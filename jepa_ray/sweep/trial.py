"""One trial, as Ray Tune sees it: a class Trainable that owns a warm worker group.

`reuse_actors` hands the same Trainable, and so the same group, from trial to trial; a step is one epoch, so ASHA stops
a trial exactly at its rung.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Protocol

from ray.tune import PlacementGroupFactory, Trainable

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError, TrialError
from jepa_ray.files import write_atomically
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial
from jepa_ray.train.worker_group import GroupDiedError, WorkerGroup

CHECKPOINT_FILE = "checkpoint.pt"


class Group(Protocol):
    """What a trial needs of its worker group; benchmarks and tests put others in its place."""

    def call(self, command: Any) -> Any: ...
    def checkpoint(self, result: EpochResult) -> bytes: ...
    def shutdown(self) -> None: ...


class SweepTrial(Trainable):
    """Trains the config `{"number", "overrides"}` on the group it owns. Subclassed per sweep by `trainable`."""

    spec: SweepConfig
    storage: Path

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A token share of memory: the group reserves what training takes, and Tune insists on something."""
        return PlacementGroupFactory([{"memory": 1024}])

    def start_group(self) -> Group:
        """A running worker group for this sweep's resources. Raises `GroupStartError`."""
        resources = self.spec.resources
        group = WorkerGroup(
            workers=resources.workers_per_trial,
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            storage=self.storage,
            name=f"{self.spec.name}-group-{uuid.uuid4().hex[:6]}",
        )
        group.start()
        return group

    def setup(self, config: dict[str, Any]) -> None:
        self._group: Group | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        """Remember a trial; the group starts it at the first step, once it is known whether it is a restored one."""
        self._overrides: dict[str, Any] = config["overrides"]
        self._checkpoint: bytes | None = None
        self._started = False
        self._last: EpochResult | None = None

    def _training_group(self) -> Group:
        """The group, started if this is the Trainable's first trial, with the current trial on it."""
        if self._group is None:
            self._group = self.start_group()
        if not self._started:
            self._group.call(StartTrial(self.spec.trial_config(self._overrides), self._checkpoint))
            self._checkpoint, self._started = None, True
        return self._group

    def step(self) -> dict[str, Any]:
        """Train one epoch. What fails on its own terms ends here; a dead group is raised, so that Tune retries."""
        try:
            result: EpochResult = self._training_group().call(RunEpoch())
            self._last = result
        except GroupDiedError:
            raise
        except (TrialError, ConfigError) as error:
            return {"failure": str(error), "done": True, self.spec.objective.metric: float("nan")}
        ended = {"finished": result.finished, "collapse": result.collapse, "done": result.finished}
        return {**result.metrics, "epoch": result.epoch, **ended}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._group and self._last:
            write_atomically(Path(checkpoint_dir) / CHECKPOINT_FILE, self._group.checkpoint(self._last))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._checkpoint = (Path(checkpoint) / CHECKPOINT_FILE).read_bytes()

    def cleanup(self) -> None:
        if self._group:
            self._group.shutdown()


def trainable(spec: SweepConfig, storage: Path) -> type[SweepTrial]:
    """The Trainable class of one sweep."""
    return type("SweepTrial", (SweepTrial,), {"spec": spec, "storage": storage})
