"""Training throughput of configs/two_rooms.yaml on one thread: the package's loop, a minimal loop and a common one.

    python benchmarks/loop_throughput.py [--rounds 3] [--trajectories 400]

Three sides train the same model on the same data with the same batch size. Each trains one pass over the training
transitions at a time, in rounds A B C A B C ..., so that a ratio compares passes of the same minute. The first round is
a warm-up. Validation is not counted.

- A, package: a warm worker group, as in a sweep; the `samples_per_s` that its epochs report. Ray runs workers at nice
  15, so measure on an idle machine: on a busy machine, A is slowed down and B is not.
- B, bare: the minimum in plain PyTorch. One process, frames preloaded as one contiguous tensor, batches by index,
  clipping, fused AdamW, EMA by `torch._foreach_lerp_`.
- C, usual: an HDF5 file, a Dataset that opens it once per process and returns float tensors one sample at a time, a
  DataLoader with 2 worker processes, default AdamW, EMA in a loop over parameters, `loss.item()` every step.
  The workers use the cores that the training thread leaves free. `--layout` selects how the file stores its frames:
  `chunked` (gzip, one chunk per episode, as the package writes them) or `contiguous` (uncompressed, faster to sample).

At the end, A's step runs under `torch.profiler` in this process, to show where its time is spent.
"""

from __future__ import annotations

import enum
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import h5py
import torch
import typer
from rich.console import Console
from rich.table import Table
from spread import Spread, paired_ratios, show
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset, Subset

from jepa_ray import cli
from jepa_ray.config import TrainConfig, load_train_config
from jepa_ray.data.commands.convert import write_canonical
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.data.two_rooms import as_recording
from jepa_ray.model.jepa import JEPA, build_jepa
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.loop import Trainer, step_settings, train_step
from jepa_ray.train.mailbox import RunEpoch, StartTrial
from jepa_ray.train.worker_group import WorkerGroup

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
PROFILED_STEPS = 60

Pass = Callable[[], float]  # trains once over the data; returns samples/s


class Layout(enum.StrEnum):
    CHUNKED = "chunked"
    CONTIGUOUS = "contiguous"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Counted passes of each side.")] = 3,
    trajectories: Annotated[int, typer.Option(min=20, help="Size of the data; 400 in the config.")] = 400,
    layout: Annotated[Layout, typer.Option(help="How C's file stores its frames.")] = Layout.CHUNKED,
) -> None:
    """Measure the three sides and print samples/s, their ratios and A's profile."""
    torch.set_num_threads(1)
    console = cli.console()
    with tempfile.TemporaryDirectory(prefix="loop_throughput-") as name:
        folder = Path(name)
        config = data_config(folder, trajectories, layout)
        dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
        with ray_session(None, 1, 0, folder / "ray.log"):
            group = warm_group(config, folder)
            sides = {
                "A package": package_side(group),
                "B bare": bare_side(config, dataset),
                "C usual": usual_side(config, dataset),
            }
            speed = in_rounds(sides, rounds, console)
            group.shutdown()
        report(console, speed)
        profile_step(console, config, dataset)


def data_config(folder: Path, trajectories: int, layout: Layout) -> TrainConfig:
    """The config of this repository, with its data written to a file that all sides read."""
    config = load_train_config(CONFIG)
    file = folder / "two_rooms.h5"
    write_canonical(file, as_recording(config.data.two_rooms.model_copy(update={"trajectories": trajectories})))
    if layout is Layout.CONTIGUOUS:
        with h5py.File(file, "r+") as data:
            pixels = data["pixels"][()]
            del data["pixels"]
            data["pixels"] = pixels
    return config.with_overrides(
        {
            "data.builtin": None,
            "data.path": file,
            "data.cache_dir": folder / "cache",
            "training.num_epochs": 1_000_000,
            "training.patience": None,
        }
    )


def in_rounds(sides: dict[str, Pass], rounds: int, console: Console) -> dict[str, list[float]]:
    """Samples/s of every side and round, without the warm-up in round 0."""
    speed: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            speed[name].append(run())
        seen = "  ".join(f"{name} {values[-1]:,.0f}" for name, values in speed.items())
        console.print(f"round {number}{'' if number else ' (warm-up)'}: {seen} samples/s", highlight=False)
    return {name: values[1:] for name, values in speed.items()}


def report(console: Console, speed: dict[str, list[float]]) -> None:
    show(console, "training throughput, samples/s", {k: Spread.of(v) for k, v in speed.items()}, digits=0)
    package, bare, usual = speed.values()
    ratios = {"A / B": paired_ratios(package, bare), "A / C": paired_ratios(package, usual)}
    show(console, "ratio per round", ratios, digits=2)


# ------------------------------------------------------------------------------------- A: package


def warm_group(config: TrainConfig, folder: Path) -> WorkerGroup:
    group = WorkerGroup(workers=1, cpus=1, gpus=0, storage=str(folder / "groups"), name="loop-throughput")
    group.start()
    group.call(StartTrial(config))
    return group


def package_side(group: WorkerGroup) -> Pass:
    return lambda: group.call(RunEpoch()).metrics["samples_per_s"]


# ---------------------------------------------------------------------------------------- B: bare


def one_step_loss(model: JEPA, observation: Tensor, action: Tensor, following: Tensor) -> Tensor:
    with torch.no_grad():
        target = model.target_encoder(following)
    return functional.mse_loss(model.predict(model.encode(observation), action), target)


def bare_side(config: TrainConfig, dataset: TrajectoryDataset) -> Pass:
    training, rows = config.training, dataset.train_index
    everything = torch.arange(int(rows.max()) + 2)
    frames, actions = dataset.observations(everything).contiguous(), dataset.actions(everything).contiguous()
    model = build_jepa(config.model, dataset.spec)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)
    online: list[Tensor] = list(model.state_encoder.parameters())
    target: list[Tensor] = list(model.target_encoder.parameters())

    def run() -> float:
        started = time.perf_counter()
        batches = rows[torch.randperm(len(rows))].split(training.batch_size)
        full = [batch for batch in batches if len(batch) == training.batch_size]
        for batch in full:
            loss = one_step_loss(model, frames[batch], actions[batch], frames[batch + 1])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, training.grad_clip_norm or float("inf"))
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(target, online, 1 - training.ema_decay)
        return len(full) * training.batch_size / (time.perf_counter() - started)

    return run


# --------------------------------------------------------------------------------------- C: usual


class Hdf5Transitions(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """One transition at a time from an HDF5 file, which every process opens itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: h5py.File | None = None

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._file is None:
            self._file = h5py.File(self._path, "r")
        observation, following = torch.from_numpy(self._file["pixels"][row : row + 2]).permute(0, 3, 1, 2).float()
        return observation, torch.from_numpy(self._file["action"][row]), following


def usual_side(config: TrainConfig, dataset: TrajectoryDataset) -> Pass:
    training = config.training
    assert config.data.path is not None, "all sides start from a file"
    loader = DataLoader(
        Subset(Hdf5Transitions(config.data.path), dataset.train_index.tolist()),
        batch_size=training.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,  # a pass must not include the time to start them
        multiprocessing_context="spawn",  # this process has threads of Ray, which do not survive a fork
    )
    model = build_jepa(config.model, dataset.spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)

    def run() -> float:
        started, total = time.perf_counter(), 0.0
        for observation, action, following in loader:
            optimizer.zero_grad()
            loss = one_step_loss(model, observation, action, following)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip_norm or float("inf"))
            optimizer.step()
            move_target(model, training.ema_decay)
            total += loss.item()
        return len(loader) * training.batch_size / (time.perf_counter() - started)

    return run


def move_target(model: JEPA, decay: float) -> None:
    for online, target in zip(model.state_encoder.parameters(), model.target_encoder.parameters(), strict=True):
        target.data = decay * target.data + (1 - decay) * online.data


# ---------------------------------------------------------------------------------- profile of A

# Operators by kind. An operator counts for the first kind that has a part of its name.
KINDS = {
    "convolution and matmul": ("convolution", "addmm", "::mm", "bmm", "scaled_dot_product", "_flash_attention"),
    "GELU": ("aten::gelu",),
    "batch gathering": ("gather", "index_select"),
    "optimiser, clipping, EMA": ("Optimizer", "fused_adam", "_foreach", "linalg_vector_norm", "lerp"),
    "other operators (normalisation, copies, ...)": ("aten::",),
}
REMAINDER = "Python, autograd, dispatch"


def profile_step(console: Console, config: TrainConfig, dataset: TrajectoryDataset) -> None:
    """Run A's step in this process, with and without the profiler, and print the shares of its time."""
    steps = Steps(config, dataset)
    steps.run(20)
    plain = statistics.median(steps.run(PROFILED_STEPS) for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        wall = steps.run(PROFILED_STEPS)
    table = Table(title="profile of A: self time of operators", title_justify="left")
    table.add_column("")
    table.add_column("share", justify="right")
    table.add_column("ms per step", justify="right")
    for kind, seconds in seconds_by_kind(profiler.key_averages(), wall).items():
        table.add_row(kind, f"{seconds / wall:.1%}", f"{1e3 * seconds / PROFILED_STEPS:.2f}")
    console.print(table)
    per_step = f"{1e3 * wall / PROFILED_STEPS:.1f} ms profiled, {1e3 * plain / PROFILED_STEPS:.1f} ms not profiled"
    console.print(f"one step of {config.training.batch_size} samples: {per_step}", highlight=False)


class Steps:
    """Training steps as `Trainer` takes them, in this process."""

    def __init__(self, config: TrainConfig, dataset: TrajectoryDataset) -> None:
        self._training, self._dataset = config.training, dataset
        self._trainer = Trainer(config, dataset)

    def run(self, count: int) -> float:
        """Take `count` steps on random batches. Returns the time in seconds."""
        index, training = self._dataset.train_index, self._training
        settings = step_settings(training, 0, self._trainer.steps_per_epoch)
        rows = index[torch.randint(len(index), (count, training.batch_size))]
        started = time.perf_counter()
        for batch_rows in rows:
            with record_function("gather"):
                batch = self._dataset.batch(batch_rows)
            train_step(self._trainer.state, batch, settings)
        return time.perf_counter() - started


def seconds_by_kind(events: Any, wall: float) -> dict[str, float]:
    """Self time of all operators by kind; the remainder is the time outside operators."""
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in events:
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), None)
        if kind:
            seconds[kind] += event.self_cpu_time_total / 1e6
    return seconds | {REMAINDER: wall - sum(seconds.values())}


if __name__ == "__main__":
    typer.run(main)
