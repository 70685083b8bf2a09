"""The warm worker group: one Ray Train run that trains one trial after another.

Starting a `TorchTrainer` takes 20 s, so a group is started once and kept. The processes, torch's process group and the
memory-mapped dataset stay; only the trial changes. The driver uses `WorkerGroup`, the workers run `run_worker`. A
mailbox actor connects them: rank 0 takes each command from it and broadcasts the command to the other ranks.

Every wait ends with a reply or with the death of the group. So a group that crashes at startup, runs out of memory or
is killed causes a `TrialError`, and the driver never waits forever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device

from jepa_ray.config import DataConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import GroupDiedError, GroupStartError, JepaRayError, TrialError
from jepa_ray.train.checkpoint import from_bytes, to_bytes
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer
from jepa_ray.train.mailbox import (
    MAILBOX_SUFFIX,
    Command,
    EpochResult,
    Failure,
    GroupDied,
    Mailbox,
    Ping,
    Progress,
    RunEpoch,
    Shutdown,
    StartTrial,
)
from jepa_ray.train.network import NodeNetworkConfig

# Environment variables that Ray Train reads in the process that calls fit(), and passes on to its controller.
TRAIN_ENV = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # a death is noticed within this time (default 2)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # without the watcher, a group has one process less
}
START_TIMEOUT_S = 45.0
IDLE_TIMEOUT_S = 7 * 24 * 3600  # gloo's timeout, longer than any pause between commands: Ray notices deaths itself
SHUTDOWN_TIMEOUT_S = 8.0  # below the 10 s that Ray Tune gives a Trainable for its cleanup


# ------------------------------------------------------------------------------------ driver side


class WorkerGroup:
    """A running worker group, from the point of view of the process that gives it trials.

    Args:
        workers, cpus, gpus: the number of DDP workers, and the CPUs and GPUs that each of them reserves.
        storage: a folder for Ray Train's own few files; each node may have its own.
        name: of the group in Ray's dashboard.
        start_timeout: seconds to wait for resources that are in use.
        work: the function that the workers run; tests pass one that fails.
    """

    def __init__(
        self,
        *,
        workers: int,
        cpus: int,
        gpus: float,
        storage: str,
        name: str,
        start_timeout: float = START_TIMEOUT_S,
        work: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).options(name=f"{name}{MAILBOX_SUFFIX}").remote()
        resources = {"CPU": float(cpus)} | ({"GPU": gpus} if gpus else {})
        self._trainer = _Trainer(
            work or run_worker,
            train_loop_config={"mailbox": self._mailbox},
            torch_config=NodeNetworkConfig(timeout_s=IDLE_TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources),
            run_config=RunConfig(
                name=name,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        )
        self.hosts: tuple[str, ...] = ()  # of each worker; empty until they have started
        self._start_timeout = start_timeout
        self._thread = threading.Thread(target=self._fit, name=name, daemon=True)

    def start(self) -> None:
        """Start the workers and wait until they answer. Raises `GroupStartError`."""
        os.environ.update({key: value for key, value in TRAIN_ENV.items() if key not in os.environ})
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(self._start_timeout)
        self._thread.start()
        try:
            self.hosts = self.call(Ping())
        except GroupDiedError as error:
            raise GroupStartError(f"the worker group did not start: {error}") from None

    def _fit(self) -> None:
        try:
            self._trainer.fit()
            reason = "the workers ended"
        except BaseException as error:  # any end of the run must end the wait of the caller
            reason = _root_cause(error)
        with contextlib.suppress(ray.exceptions.RayError):  # if the mailbox died first, the call has failed already
            ray.get(self._mailbox.close.remote(reason))

    def call(self, command: Command) -> Any:
        """Run one command on all ranks and return rank 0's reply.

        Raises `GroupDiedError`, or another `TrialError` if only the trial failed.
        """
        try:
            reply = ray.get(self._mailbox.call.remote(command))
        except ray.exceptions.RayError as error:
            raise GroupDiedError(f"the worker group's mailbox died: {error}") from None
        if isinstance(reply, GroupDied):
            raise GroupDiedError(reply.reason)
        if isinstance(reply, Failure):
            raise TrialError(reply.message)
        return reply

    @property
    def mailbox(self) -> Any:
        """The handle of the mailbox actor, for `ProgressPolling`."""
        return self._mailbox

    def checkpoint(self, result: EpochResult) -> bytes:
        """The training checkpoint after an epoch. Raises `GroupDiedError`."""
        try:
            return ray.get(result.checkpoint[0])
        except ray.exceptions.RayError as error:
            raise GroupDiedError(f"the checkpoint was lost with its worker: {error}") from None

    def shutdown(self, timeout: float = SHUTDOWN_TIMEOUT_S) -> None:
        """End the workers, wait for that for at most `timeout` seconds, and end the mailbox."""
        self._mailbox.call.remote(Shutdown())
        self._thread.join(timeout)
        ray.kill(self._mailbox)


class _Trainer(TorchTrainer):
    """Ray Train's trainer without the actor for Ray Datasets, which are not used: it takes 120 MB per group."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "DatasetsCallback"]


def _root_cause(error: BaseException) -> str:
    """The last line of the first failed worker's traceback, or of the error if no worker failed."""
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(cause).__name__


# ------------------------------------------------------------------------------------ worker side


def run_worker(config: dict[str, Any]) -> None:
    """The main loop of every worker: run commands until `Shutdown`.

    A `JepaRayError` is raised by all ranks together, and only the trial fails. After any other error the ranks may be
    at different points of the program, so it ends the group.
    """
    comm, mailbox = Communicator.current(), config["mailbox"]
    worker = _Worker(comm, mailbox)
    while True:
        command = _receive(mailbox, comm)
        if isinstance(command, Shutdown):
            return
        try:
            reply = worker.run(command)
        except JepaRayError as error:
            reply = Failure(str(error))
        except Exception:
            if comm.rank == 0:
                ray.get(mailbox.close.remote(traceback.format_exc(limit=-3)))
            raise
        if comm.rank == 0:
            ray.get(mailbox.reply.remote(reply))


def _receive(mailbox: Any, comm: Communicator) -> Command:
    """Wait for the next command; rank 0 takes it from the mailbox and broadcasts it."""
    command = [ray.get(mailbox.take.remote()) if comm.rank == 0 else None]
    if comm.world > 1:
        dist.broadcast_object_list(command)
    assert command[0] is not None, ("a command from rank 0", comm)
    return command[0]


def _hosts(comm: Communicator) -> tuple[str, ...]:
    """The host name of each rank."""
    own = socket.gethostname()
    if comm.world == 1:
        return (own,)
    names: list[str] = [""] * comm.world
    dist.all_gather_object(names, own)
    return tuple(names)


class _Worker:
    """The state of one worker: its dataset, and the trial that it trains."""

    def __init__(self, comm: Communicator, mailbox: Any) -> None:
        self._comm, self._mailbox = comm, mailbox
        self._device = get_device()
        self._dataset: tuple[DataConfig, TrajectoryDataset] | None = None
        self._trainer: Trainer | None = None
        self._number = 0  # of the trial in its sweep

    def run(self, command: Command) -> Any:
        """Run a command, and return this rank's reply; the driver gets that of rank 0."""
        match command:
            case Ping():
                return _hosts(self._comm)
            case StartTrial(config, checkpoint, number):
                self._start(config, checkpoint)
                self._number = number
                return self._result([]) if checkpoint is not None else None
            case RunEpoch():
                self._trial.run_epoch(self._note_progress if self._comm.rank == 0 else None)
                return self._result([ray.put(to_bytes(self._trial.checkpoint()))] if self._comm.rank == 0 else [])
        return None

    def _note_progress(self, step: int, steps: int, samples_per_s: float) -> None:
        """Send the progress to the mailbox without waiting for an answer."""
        progress = Progress(self._number, self._trial.state.epoch + 1, step, steps, samples_per_s)
        self._mailbox.note_progress.remote(progress)

    def _result(self, checkpoint: list[Any]) -> EpochResult:
        """The result of the trial's last epoch."""
        state = self._trial.state
        assert state.metrics is not None, "a result needs an epoch"
        return EpochResult(state.epoch, state.metrics, self._trial.finished, state.collapse, checkpoint)

    @property
    def _trial(self) -> Trainer:
        assert self._trainer is not None, "StartTrial comes before RunEpoch"
        return self._trainer

    def _start(self, config: TrainConfig, checkpoint: bytes | None) -> None:
        torch.set_num_threads(config.training.cpus_per_worker)
        self._trainer = None  # frees its memory before the next trial needs memory
        if self._dataset is None or self._dataset[0] != config.data:
            self._dataset = (config.data, TrajectoryDataset.from_config(config.data, self._device))
        self._trainer = Trainer(config, self._dataset[1], self._comm)
        if checkpoint is not None:
            self._trainer.restore(from_bytes(checkpoint))
