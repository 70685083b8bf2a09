"""A single training run. It uses the same kind of worker group as a sweep.

outputs/<experiment.name>/: config.yaml, checkpoint.pt (last epoch), best_jepa_model.pt, metrics.csv, ray.log; if
experiment.checkpoint_every is set, also checkpoints/epoch_00010.pt, checkpoints/epoch_00020.pt, ...
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from jepa_ray.cli import StartupStatus
from jepa_ray.config import METRIC_INFO, METRICS, Place, TrainConfig, dump_yaml, metrics_shown
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, Interrupted
from jepa_ray.files import RunFolder, flat, write_atomically
from jepa_ray.machine import Machine
from jepa_ray.model.learner import build_learner
from jepa_ray.storage import Storage
from jepa_ray.tracking import Tracker
from jepa_ray.train.checkpoint import best_model, from_bytes, read_checkpoint, to_bytes
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import windows
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial
from jepa_ray.train.periodic import FOLDER, PeriodicCheckpoints
from jepa_ray.train.progress import ProgressLine, ProgressPolling
from jepa_ray.train.worker_group import WorkerGroup

# Longer than a trial may wait, which Ray Tune gives ten seconds. Ray ends a process, with exit code 1, in which a
# thread still uses it after `ray.shutdown`; an interrupted run must exit with 130.
GROUP_SHUTDOWN_TIMEOUT_S = 30.0


def run_training(
    config: TrainConfig,
    output: Path,
    console: Console,
    *,
    fresh: bool = False,
    startup: StartupStatus | None = None,
) -> pd.DataFrame:
    """Train, resume or show a run. Returns its metrics, one row per epoch.

    `startup` shows what is being started, until the first epoch begins.

    Raises `ConfigError` or `DataError` before an epoch is trained; `TrialError` if training fails; `StorageError` if
    results cannot be written; `Interrupted`.
    """
    folder = RunFolder(output.resolve() / config.experiment.name, "config.yaml", TrainConfig.add_defaults)
    document = dump_yaml(config.to_dict())
    _check_fits(config, Machine.local())
    with startup or StartupStatus(console) as status:
        status.show("preparing the dataset")
        check_trainable(config, console)
        with folder.begin(document, fresh=fresh) as aside:
            if aside:
                console.print(f"the old run is kept in {aside}", soft_wrap=True)
            if folder.finished:
                status.close()
                console.print(f"run {config.experiment.name} is finished (--fresh starts over)")
            else:
                _Run(config, output.resolve(), folder, console, status).train()
            return _show(config, folder, console)


def check_trainable(
    config: TrainConfig, console: Console, further: Iterable[str] = (), key: str = "experiment.objective"
) -> None:
    """Open or generate the dataset and build the model once, so that errors in either are reported before Ray starts.

    `further` are metrics that are optimized besides the config's objective, and `key` is the objective's key in the
    user's file, for messages. Raises `DataError` or `ConfigError`.
    """
    objective = config.experiment.objective
    if objective.warning:
        console.print(f"warning: {objective.warning}", style="yellow", soft_wrap=True)
    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    labelled = [name for name in (objective.metric, *further) if METRIC_INFO[name].needs_labels]
    if labelled and not dataset.has_states:
        raise ConfigError(
            f"{key}.metric is {labelled[0]}, but the data has no state labels, which this metric needs:"
            " use val_rollout_mrr, or data with state labels"
        )
    windows(config.training, dataset)
    build_learner(config.model, config.training, dataset.spec, Communicator().average)


def _check_fits(config: TrainConfig, machine: Machine) -> None:
    """Raise `ConfigError` if the workers need more CPUs or GPUs than the machine has."""
    training = config.training
    for name, per_worker, offered in (
        ("cpus", training.cpus_per_worker, machine.cpus),
        ("gpus", training.gpus_per_worker, machine.gpus),
    ):
        if training.num_workers * per_worker > offered:
            raise ConfigError(
                f"training.num_workers {training.num_workers} x training.{name}_per_worker {per_worker:g} is more than"
                f" the {offered:g} {name} of this machine: lower one of them"
            )


class _Run:
    """One session of a run: from its last checkpoint to its end, or to an interruption."""

    def __init__(
        self, config: TrainConfig, output: Path, folder: RunFolder, console: Console, startup: StartupStatus
    ) -> None:
        self.config, self.output, self.folder, self.console, self.startup = config, output, folder, console, startup
        self.checkpoint = folder.path / "checkpoint.pt"
        self.periodic = PeriodicCheckpoints(Storage(str(folder.path)).below(FOLDER), config.experiment)
        self.rows: list[dict[Any, Any]] = []

    def train(self) -> None:
        """Start Ray and a worker group, train to the end, and mark the run as finished."""
        training, started = self.config.training, time.monotonic()
        machine = Machine.local()
        self.startup.show("starting Ray and the tracking store")
        tracker = Tracker(self.config.experiment.tracking, self.output, self.config.experiment.name)
        with ray_session(None, machine.cpus, machine.gpus, self.folder.path / "ray.log"):
            group = WorkerGroup(
                workers=training.num_workers,
                cpus=training.cpus_per_worker,
                gpus=training.gpus_per_worker,
                storage=str(self.folder.path / "groups"),
                name=f"{self.config.experiment.name}-group",
            )
            try:
                self.startup.show("starting the worker group")
                group.start()
                self._epochs(group, tracker)
            except KeyboardInterrupt:
                raise Interrupted("interrupted; the same command continues from the last epoch") from None
            finally:
                group.shutdown(GROUP_SHUTDOWN_TIMEOUT_S)
        self.folder.mark_finished(time.monotonic() - started)

    def _epochs(self, group: WorkerGroup, tracker: Tracker) -> None:
        run = tracker.open_run(self.folder.id, self.config.experiment.name, flat(self.config.to_dict()))
        finished = self._start(group)
        self.startup.close()
        line = ProgressLine(self.console, self.config.training.num_epochs)
        with line, ProgressPolling(lambda: [group.mailbox], line.show):
            while not finished:
                result: EpochResult = group.call(RunEpoch())
                finished = result.finished
                self._record(result, group.checkpoint(result))
                tracker.log_epoch(run, result.epoch, result.metrics)
        tracker.attach(run, [self.folder.path / name for name in ("config.yaml", "metrics.csv", "best_jepa_model.pt")])
        tracker.close_run(run)
        tracker.flush()

    def _start(self, group: WorkerGroup) -> bool:
        """Start, or continue from the last checkpoint. Returns whether the run is finished."""
        if not self.checkpoint.exists():
            group.call(StartTrial(self.config))
            return False
        data = self.checkpoint.read_bytes()
        epoch = int(read_checkpoint(self.checkpoint).get("epoch", 0))
        self.rows = [row for row in _read_metrics(self.folder).to_dict("records") if row["epoch"] <= epoch]
        self.console.print(f"continuing after epoch {epoch}")
        last: EpochResult = group.call(StartTrial(self.config, data))
        return last.finished

    def _record(self, result: EpochResult, checkpoint: bytes) -> None:
        """Write an epoch's files. The training checkpoint is written last, so that resuming never skips a result."""
        best = best_model(from_bytes(checkpoint))
        is_best = best["epoch"] == result.epoch
        measured = {name: result.metrics[name] for name in METRICS if name in result.metrics}
        self.rows.append({"epoch": result.epoch, **measured})
        write_atomically(self.folder.path / "metrics.csv", pd.DataFrame(self.rows).to_csv(index=False).encode())
        if is_best:
            write_atomically(self.folder.path / "best_jepa_model.pt", to_bytes(best))
        self.periodic.save(result.epoch, checkpoint)
        write_atomically(self.checkpoint, checkpoint)
        names = [name for name in metrics_shown(Place.EPOCH_LINE) if name in measured]
        shown = "  ".join(f"{name} {measured[name]:.4g}" for name in names)
        total = self.config.training.num_epochs
        self.console.print(
            f"epoch {result.epoch}/{total}  {shown}{'  *' if is_best else ''}", soft_wrap=True, highlight=False
        )
        if result.collapse:
            self.console.print(f"stopped, collapsed: {result.collapse}", style="yellow", soft_wrap=True)


def _read_metrics(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder.path / "metrics.csv")


def _show(config: TrainConfig, folder: RunFolder, console: Console) -> pd.DataFrame:
    """Print the best epoch of a finished run, and return its metrics."""
    frame = _read_metrics(folder)
    objective = config.experiment.objective
    column = frame[objective.metric]
    best = frame.iloc[column.argmax() if objective.mode == "max" else column.argmin()]
    console.print(f"best {objective.metric} {best[objective.metric]:.4f} in epoch {int(best['epoch'])}", style="green")
    console.print(
        f"val_cosine in that epoch is {best['val_cosine']:.3f}; a common rule calls values above 0.7 good, but a"
        " collapsed model reaches 1.0: judge models by val_rollout_mrr",
        soft_wrap=True,
    )
    console.print(f"best model: {folder.path / 'best_jepa_model.pt'}", soft_wrap=True)
    return frame
