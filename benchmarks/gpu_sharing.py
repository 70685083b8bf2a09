"""How many small trials should share one GPU: n processes train on it at the same time, for n = 1, 2, 4, 8.

    python benchmarks/gpu_sharing.py [--config configs/two_rooms.yaml] [--batch-size 32] [--rounds 3]

Each process trains the config's model with the package's own loop (`Trainer`, without Ray), as a trial of a sweep does
with `resources.gpus_per_worker: 1/n`. The n processes warm up, wait for each other and then train for `--seconds`. They
share the device nearly all of the time; the last epoch of each may overlap with fewer others, so `--seconds` should
cover at least ten epochs. Each round measures every n once, and a ratio compares values of the same round.

Without CUDA, the exit code is 2. `--device cpu` is a dry run that tests the benchmark itself and measures no GPU.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from rich.console import Console
from spread import Spread, paired_ratios, show

from jepa_ray import cli
from jepa_ray.config import TrainConfig, load_train_config
from jepa_ray.data.cache import ensure_cache
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.train.loop import Trainer

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
WITHIN = 0.05  # the smallest n whose throughput is within this share of the best one is recommended
TIMEOUT_S = 300.0  # limit for the warm-up of a process
MB = 1e6


def main(
    config: Annotated[Path, typer.Option(help="Train config of the trials.")] = CONFIG,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    processes: Annotated[str, typer.Option(help="Trials at once; ratios are to the first number.")] = "1,2,4,8",
    seconds: Annotated[float, typer.Option(min=0.1, help="Counted training time per round.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    device: Annotated[str, typer.Option(help="cuda, or cpu for a dry run.")] = "cuda",
) -> None:
    """Measure all numbers of processes and print a recommendation."""
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure (--device cpu is a dry run)", file=sys.stderr)
        raise typer.Exit(2)
    console = cli.console()
    numbers = [int(number) for number in processes.split(",")]
    with tempfile.TemporaryDirectory(prefix="gpu-sharing-") as name:
        settings = trial(load_train_config(config), batch_size, Path(name))
        ensure_cache(settings.data)
        seen: dict[int, list[Together]] = {number: [] for number in numbers}
        for turn in range(rounds):
            for number in numbers:
                seen[number].append(train_together(settings, number, seconds, device))
                console.print(f"round {turn}, {number} at once: {seen[number][-1]}", highlight=False)
    report(console, seen, device)


def trial(config: TrainConfig, batch_size: int, folder: Path) -> TrainConfig:
    """The config of a run that does not end by itself."""
    return config.with_overrides(
        {
            "data.cache_dir": folder / "cache",
            "training.batch_size": batch_size,
            "training.num_epochs": 1_000_000,
            "training.patience": None,
        }
    )


# -------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Together:
    """The measurements of processes that trained at the same time."""

    samples_per_s: float  # of all
    on_device: float  # MB that torch reserved on the GPU, per process; its CUDA context comes on top
    on_host: float  # PSS in MB, per process

    def __str__(self) -> str:
        memory = f"{self.on_device:,.0f} MB on the device, {self.on_host:,.0f} on the host"
        return f"{self.samples_per_s:,.0f} samples/s, per process {memory}"


def train_together(config: TrainConfig, number: int, seconds: float, device: str) -> Together:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(number), context.Queue()
    ranks = [context.Process(target=train, args=(config, seconds, device, barrier, results)) for _ in range(number)]
    for rank in ranks:
        rank.start()
    done = [results.get(timeout=2 * TIMEOUT_S + seconds) for _ in ranks]
    for rank in ranks:
        rank.join()
    if None in done:
        raise SystemExit(f"{number} processes could not train at once (see above): leave {number} out of --processes")
    speed, there, here = (list(column) for column in zip(*done, strict=True))
    return Together(sum(speed), sum(there) / number, sum(here) / number)


def train(config: TrainConfig, seconds: float, device: str, barrier: Any, results: Any) -> None:
    """The main function of a process. If one fails, for example for lack of memory, all end."""
    try:
        results.put(measure_training(config, seconds, device, barrier))
    except Exception:
        barrier.abort()
        results.put(None)
        raise


def measure_training(config: TrainConfig, seconds: float, device: str, barrier: Any) -> tuple[float, float, float]:
    """Train one epoch to warm up, then whole epochs for `seconds`, while the other processes do the same.

    Returns samples/s (validation is part of the time, as in a sweep), and MB on the device and on the host.
    """
    torch.set_num_threads(1)
    trainer = Trainer(config, TrajectoryDataset.from_config(config.data, torch.device(device)))
    trainer.run_epoch()
    barrier.wait(TIMEOUT_S)
    epochs, passed, began = 0, 0.0, time.perf_counter()
    while passed < seconds:
        trainer.run_epoch()
        epochs, passed = epochs + 1, time.perf_counter() - began
    there = torch.cuda.max_memory_reserved() / MB if device == "cuda" else 0.0
    here = psutil.Process().memory_full_info().pss / MB
    barrier.wait(TIMEOUT_S)  # no process ends, and frees memory, while others still train
    return epochs * trainer.steps_per_epoch * config.training.batch_size / passed, there, here


# --------------------------------------------------------------------------------------- reporting


def report(console: Console, seen: dict[int, list[Together]], device: str) -> None:
    speed = {number: [each.samples_per_s for each in rounds] for number, rounds in seen.items()}
    first = next(iter(speed))
    show(console, f"samples/s of all processes on {device}", {str(n): Spread.of(v) for n, v in speed.items()}, digits=0)
    ratios = {number: paired_ratios(values, speed[first]) for number, values in speed.items()}
    show(console, f"ratio to {first}, per round", {str(number): ratio for number, ratio in ratios.items()})
    for where in ("on_device", "on_host"):
        rows = {str(n): Spread.of(getattr(each, where) for each in rounds) for n, rounds in seen.items()}
        show(console, f"memory {where.replace('_', ' ')}, MB per process", rows, digits=0)
    best = max(ratio.median for ratio in ratios.values())
    recommended = min(number for number, ratio in ratios.items() if ratio.median >= (1 - WITHIN) * best)
    share = f"resources.gpus_per_worker: {1 / recommended:.4g}"
    console.print(
        f"{share}  ({recommended} trials per device: {ratios[recommended].median:.2f}x the samples/s of {first})"
    )
    if device != "cuda":
        console.print("this was a dry run, which does not measure a GPU")


if __name__ == "__main__":
    typer.run(main)
