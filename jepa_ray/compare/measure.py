"""One run in a process of its own: it is trained for a given time, measured, and written to disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from jepa_ray.compare.result import Measured, Memory, Parameters, Planning, Side, save
from jepa_ray.config import PlanningConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.diagnosis import diagnose
from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.files import write_atomically
from jepa_ray.model.learner import Learner
from jepa_ray.planning.success import plan_success
from jepa_ray.train.checkpoint import best_model, to_bytes
from jepa_ray.train.loop import Trainer

Row = dict[str, float]
Report = Callable[[Row], None]

TOUCHED_ROWS = 256  # transitions that are read at once
MB = 1e6


def run_apart(config: TrainConfig, seconds: float, plan_episodes: int, stem: Path, connection: Connection) -> None:
    """The process's main function: sends each epoch's row, writes `stem`.pt and `stem`.json, or sends the error."""
    try:
        measured, model = measure(config, seconds, plan_episodes, connection.send)
        write_atomically(stem.with_suffix(".pt"), model)
        save(measured, stem.with_suffix(".json"))
    except JepaRayError as error:
        connection.send(error)


def measure(config: TrainConfig, seconds: float, plan_episodes: int, report: Report) -> tuple[Measured, bytes]:
    """Train for at least `seconds`, in whole epochs. Returns the measurements and the checkpoint of the best model.

    Patience, num_epochs and collapse do not end the run, so that both sides get the same time. Raises `TrialError` if
    the loss is not finite.
    """
    torch.set_num_threads(config.training.cpus_per_worker)
    device = torch.device("cuda" if config.training.gpus_per_worker else "cpu")
    dataset = TrajectoryDataset.from_config(config.data, device)
    idle = idle_memory(dataset)
    trainer = Trainer(config, dataset)
    curve = train_for(trainer, seconds, report)
    memory = None if idle is None else Memory(idle, peak_memory(device))
    checkpoint = best_model(trainer.checkpoint())
    trainer.state.model.load_state_dict(checkpoint["model"])
    planning, skipped = measure_planning(trainer, plan_episodes)
    diagnosis = diagnose(curve[-1])
    side: Side = config.training.objective
    measured = Measured(
        side=side,
        seed=config.experiment.seed,
        curve=curve,
        predicted_numbers=predicted_numbers(config, dataset),
        parameters=count_parameters(trainer.state.learner),
        memory=memory,
        diagnosis=str(diagnosis),
        collapsed=diagnosis.collapsed,
        planning=planning,
        planning_skipped=skipped,
    )
    return measured, to_bytes(checkpoint)


def train_for(trainer: Trainer, seconds: float, report: Report) -> list[Row]:
    """Train whole epochs until `seconds` of training are over; the time for validation does not count."""
    curve: list[Row] = []
    trained, started = 0.0, time.perf_counter()
    samples = trainer.steps_per_epoch * trainer.config.training.batch_size
    while trained < seconds:
        metrics = trainer.run_epoch()
        trained += samples / metrics["samples_per_s"]
        elapsed = time.perf_counter() - started
        curve.append({"epoch": trainer.state.epoch, "seconds": trained, "elapsed_seconds": elapsed, **metrics})
        report(curve[-1])
    return curve


def measure_planning(trainer: Trainer, episodes: int) -> tuple[Planning | None, str | None]:
    """Planning success, or the reason why it was not measured. Both sides get the same tasks for a seed."""
    if not episodes:
        return None, "--plan-episodes is 0"
    config = trainer.config
    tasks = PlanningConfig(episodes=episodes, seed=config.experiment.seed)
    try:
        result = plan_success(trainer.state.model, config, tasks, device=trainer.dataset.device)
    except ConfigError as error:
        return None, str(error)
    return Planning(result.success, result.random), None


def predicted_numbers(config: TrainConfig, dataset: TrajectoryDataset) -> int:
    """How many numbers the objective predicts at each step."""
    if config.training.objective == "generative":
        return math.prod(dataset.spec.observation_shape)
    return config.model.latent_dim_state


def count_parameters(learner: Learner) -> Parameters:
    """The number of a learner's parameters, by their purpose."""
    model = learner.model
    target = model.target_encoder
    return Parameters(
        world_model=sum(_count(part) for part in (model.state_encoder, model.action_encoder, model.transition)),
        training_only=_count(learner.terms),
        target=0 if target is model.state_encoder else _count(target),
    )


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --------------------------------------------------------------------------------------- memory


def idle_memory(dataset: TrajectoryDataset) -> float | None:
    """Memory in use in MB; the peak is reset to it. On a CPU all data is read first. None if /proc cannot be used.

    Without the reset, the peak would include copies from opening the data, and even the size of the parent process,
    since `ru_maxrss` survives exec.
    """
    if dataset.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(dataset.device)
        return torch.cuda.memory_allocated(dataset.device) / MB
    _touch(dataset)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_mb("VmRSS")
    except OSError:
        return None


def peak_memory(device: torch.device) -> float:
    """Peak memory in MB since the call of `idle_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return _status_mb("VmHWM")


def _touch(dataset: TrajectoryDataset) -> None:
    """Read all transitions once, so that pages of the memory map are not counted as memory for training."""
    for rows in torch.cat([dataset.train_index, dataset.val_index]).split(TOUCHED_ROWS):
        dataset.batch(rows)


def _status_mb(key: str) -> float:
    """A size from /proc/self/status, which is in KiB there, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024 / MB
