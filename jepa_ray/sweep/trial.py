"""One trial, as Ray Tune sees it: a class Trainable that owns a warm worker group.

`reuse_actors` hands the same Trainable, and so the same group, from trial to trial; a step is one epoch, so ASHA stops
a trial exactly at its rung. Checkpoints are written here, under the trial's number: whoever is handed an unfinished
trial, after a crash of group or driver, finds them there. Ray Tune's own checkpoints are not used.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, ClassVar, Protocol

from ray.tune import PlacementGroupFactory, Trainable

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError, GroupDiedError, TrialError
from jepa_ray.storage import Storage
from jepa_ray.sweep import CHECKPOINTS, checkpoint_name
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial

Ran = tuple[str, float, str]  # the group that trained an epoch, the Unix time of its end, the machines it was on

RESUME_TIMEOUT_S = 24 * 3600.0  # of a sweep that has trained before: what it lacks now was lost, and may come again


class Group(Protocol):
    """What a trial needs of its worker group; benchmarks and tests put others in its place."""

    hosts: tuple[str, ...]

    def call(self, command: Any) -> Any: ...
    def checkpoint(self, result: EpochResult) -> bytes: ...
    def shutdown(self) -> None: ...


class SweepTrial(Trainable):
    """Trains the config `{"number", "overrides"}` on the group it owns. Subclassed per sweep by `trainable`."""

    spec: SweepConfig
    store: Storage  # the sweep's, which all nodes see
    groups: str  # a folder for Ray Train's own files
    nodes: ClassVar[dict[str, str]] = {}  # labels of the nodes that it may be on; none: of all
    reserves: ClassVar[float] = 1024.0  # bytes of memory; Tune insists on something
    waits = False  # as long as it takes, for nodes that are still to come

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """What drives a group; the group itself reserves what training takes."""
        labels = [cls.nodes] if cls.nodes else None
        return PlacementGroupFactory([{"memory": cls.reserves}], bundle_label_selector=labels)

    def start_group(self) -> Group:
        """A running worker group for this sweep's resources. Raises `GroupStartError`.

        If a node is lost, its trial waits until another group is done or a node joins: it must not fail for that.
        """
        from jepa_ray.train.worker_group import START_TIMEOUT_S, WorkerGroup  # with torch, which only a group needs

        resources = self.spec.resources
        trained_before = bool(self.store.names(CHECKPOINTS))
        group = WorkerGroup(
            workers=resources.workers_per_trial,
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            storage=self.groups,
            name=self._name,
            start_timeout=RESUME_TIMEOUT_S if trained_before or self.waits else START_TIMEOUT_S,
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
        self._checkpoint = checkpoint_name(config["number"])
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
            data = self.store.read(self._checkpoint)
            last: EpochResult | None = group.call(StartTrial(self.spec.trial_config(self._overrides), data))
            self._started = True
            if last:
                return last, None
        result: EpochResult = group.call(RunEpoch())
        ran = self._name, time.time(), " ".join(sorted(set(group.hosts)))
        self.store.write(self._checkpoint, group.checkpoint(result))
        return result, ran

    def cleanup(self) -> None:
        if self._group:
            self._group.shutdown()


def trainable(spec: SweepConfig, store: Storage, groups: str) -> type[SweepTrial]:
    """The Trainable class of one sweep."""
    return type("SweepTrial", (SweepTrial,), {"spec": spec, "store": store, "groups": groups})
