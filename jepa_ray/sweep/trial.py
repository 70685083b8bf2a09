"""One trial, as Ray Tune sees it: a class Trainable that owns a warm worker group.

With `reuse_actors`, Ray Tune hands the same Trainable, and so the same group, from trial to trial. A step is one epoch,
so a stopping rule stops a trial exactly at its rung. Checkpoints are written here, under the trial's number: after a
crash of the group or the driver, the process that continues the trial finds them there. Ray Tune's own checkpoints are
not used.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray.tune import PlacementGroupFactory, Trainable

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError, GroupDiedError, TrialError
from jepa_ray.storage import Storage
from jepa_ray.sweep import CHECKPOINTS, checkpoint_name, epochs_folder
from jepa_ray.sweep.tune_result import TrainedBy, failure_to_tune, to_tune
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial
from jepa_ray.train.periodic import PeriodicCheckpoints

# A sweep that has trained before waits this long for a group: the resources it lacks were lost, and may come back.
RESUME_TIMEOUT_S = 24 * 3600.0


class Group(Protocol):
    """The interface of a worker group that a trial uses; benchmarks and tests have implementations of their own."""

    hosts: tuple[str, ...]

    def call(self, command: Any) -> Any:
        """As `WorkerGroup.call`."""
        ...

    def checkpoint(self, result: EpochResult) -> bytes:
        """As `WorkerGroup.checkpoint`."""
        ...

    def shutdown(self) -> None:
        """As `WorkerGroup.shutdown`."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where Ray puts the driver processes of a worker group (trial actor, mailbox, Ray Train's controller)."""

    node_labels: Mapping[str, str] = field(default_factory=dict)  # Ray's label selector; empty: any node
    reserved_memory_bytes: float = 1024.0  # must be above 0: Ray Tune refuses a request without any resource
    wait_for_nodes: bool = False  # whether a group may wait for nodes that have not joined yet


class SweepTrial(Trainable):
    """Trains the config `{"number", "overrides"}` on the group it owns. `make_trainable` binds it to a sweep."""

    spec: SweepConfig
    store: Storage  # the sweep's, which all nodes can reach
    groups_folder: str  # for Ray Train's own files
    placement: Placement

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """The resources of the group's driver processes; the group itself reserves those for training."""
        labels = [dict(cls.placement.node_labels)] if cls.placement.node_labels else None
        return PlacementGroupFactory([{"memory": cls.placement.reserved_memory_bytes}], bundle_label_selector=labels)

    def start_group(self) -> Group:
        """Start a worker group with this sweep's resources. Raises `GroupStartError`.

        A sweep that has trained before waits for resources for a long time: after the loss of a node, a trial must not
        fail, but wait until another group is done or a node joins.
        """
        from jepa_ray.train.worker_group import START_TIMEOUT_S, WorkerGroup  # imports torch, which only a group needs

        resources = self.spec.resources
        trained_before = bool(self.store.names(CHECKPOINTS))
        may_wait = trained_before or self.placement.wait_for_nodes
        group = WorkerGroup(
            workers=resources.workers_per_trial,
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            storage=self.groups_folder,
            name=self._name,
            start_timeout=RESUME_TIMEOUT_S if may_wait else START_TIMEOUT_S,
        )
        group.start()
        return group

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Ray Tune when the actor starts."""
        self._group: Group | None = None
        self._name = f"{self.spec.name}-group-{uuid.uuid4().hex[:6]}"  # unique: this process ends when its group dies
        self._begin(config)

    def __repr__(self) -> str:
        """The actor's name in the Ray dashboard."""
        return self._name

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Ray Tune when the actor gets another trial."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        """Remember a trial; the group starts it in the first step."""
        self._overrides: dict[str, Any] = config["overrides"]
        self._number: int = config["number"]
        self._started = False

    def step(self) -> dict[str, Any]:
        """Train one epoch, and return it as `to_tune` does.

        A failure of the trial itself ends the trial here. `GroupDiedError` is raised, so that Ray Tune retries the
        trial, and `StorageError`, which ends the sweep.

        The first step of a trial that has a checkpoint trains nothing. It returns the result that was saved with the
        checkpoint, since the driver may have died before it recorded that result.
        """
        objective = self.spec.objective.metric
        try:
            result, trained_by = self._next_epoch()
        except GroupDiedError:
            raise
        except (TrialError, ConfigError) as error:
            return failure_to_tune(str(error), objective)
        return to_tune(result, trained_by, objective)

    def _next_epoch(self) -> tuple[EpochResult, TrainedBy]:
        """The result of the next epoch, and where and when it was trained; a checkpoint's result has no such record."""
        group = self._group = self._group or self.start_group()
        checkpoint = checkpoint_name(self._number)
        if not self._started:
            config, data = self.spec.trial_config(self._overrides), self.store.read(checkpoint)
            self._periodic = PeriodicCheckpoints(self.store.below(epochs_folder(self._number)), config.experiment)
            last: EpochResult | None = group.call(StartTrial(config, data, self._number))
            self._started = True
            if last:
                return last, TrainedBy()
        result: EpochResult = group.call(RunEpoch())
        trained_by = TrainedBy(self._name, time.time(), " ".join(sorted(set(group.hosts))))
        data = group.checkpoint(result)
        self._periodic.save(result.epoch, data)
        self.store.write(checkpoint, data)
        return result, trained_by

    def cleanup(self) -> None:
        """Called by Ray Tune before the actor ends."""
        if self._group:
            self._group.shutdown()


def make_trainable(
    spec: SweepConfig,
    store: Storage,
    groups_folder: str,
    placement: Placement,
    trial_class: type[SweepTrial] = SweepTrial,
) -> type[SweepTrial]:
    """The Trainable class of one sweep: `trial_class` with the sweep's settings, under the same name.

    Ray Tune creates the instances itself and only from a config, so the settings are attributes of a class.
    """

    class Bound(trial_class):  # type: ignore[valid-type, misc]
        pass

    Bound.spec, Bound.store, Bound.groups_folder, Bound.placement = spec, store, groups_folder, placement
    Bound.__name__ = Bound.__qualname__ = trial_class.__name__  # Ray names the actor's process by it
    return Bound
