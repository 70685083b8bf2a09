"""What the driver costs per result, and how that grows with the sweep: everything but training.

    python benchmarks/driver_scale.py [--trials 10000] [--concurrent 64] [--baseline-trials 200]

- A, package: a whole sweep (`run_sweep`) whose groups reply at once: searcher, study in sqlite, MLflow in sqlite,
  checkpoint files, leaderboard; three results per trial.
- B, Ray Tune alone: a function trainable that reports three results, random search, no loggers; one actor per trial.
- C, Ray Tune alone with reused actors (`reuse_actors=True`): the same with a class.
- D, Ray Tune with the usual tools for the same records: as C, with OptunaSearch and MLflowLoggerCallback in sqlite.
- E, Optuna alone: ask, three reports, tell, in sqlite, in one process.

Each line covers the trials since the line before it. The start of the actors of A, C and D (`--concurrent` of them, one
process each) is not counted: no trial begins before all actors run, since Ray Tune starts further actors until then. B
starts one actor per trial, as its users do, and that is counted.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import optuna
import psutil
import typer
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console
from rich.table import Table

from jepa_ray import cli
from jepa_ray.config import METRICS, EarlyStopping, Resources, SearchConfig, SweepConfig, load_train_config
from jepa_ray.machine import Machine
from jepa_ray.sweep import run
from jepa_ray.sweep.trial import SweepTrial
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
RATE = "training.learning_rate"
EPOCHS = 3


def main(
    trials: Annotated[int, typer.Option(min=2, help="Trials of the package's sweep.")] = 10_000,
    concurrent: Annotated[int, typer.Option(min=1, help="Groups at once.")] = 64,
    baseline_trials: Annotated[int, typer.Option(min=2, help="Trials of all other sides.")] = 200,
    algorithm: Annotated[str, typer.Option(help="Sampler of the package and of Optuna alone.")] = "random",
) -> None:
    """Measure all sides and print milliseconds per result, results per second and the driver's memory."""
    console = cli.console()
    table = Table(title=f"driver alone, {concurrent} groups at once, {algorithm} search", title_justify="left")
    for name in ("", "trials", "ms per result", "results/s", "driver's MB", "end after the last result, s"):
        table.add_column(name, justify="right")

    def add(name: str, measured: tuple[Clock, float], *, skip: int) -> None:
        clock, ended = measured
        for line in clock.lines(skip, ended):
            table.add_row(name, *line)
        console.print(f"{name} done")

    actors = concurrent * EPOCHS  # the first results, before the pace is steady
    add("A package", package(trials, concurrent, algorithm), skip=actors)
    with tempfile.TemporaryDirectory() as name, ray_session(None, concurrent, 0, Path(name) / "ray.log"):
        folder = Path(name)
        add("B Tune, function", plain_tune(three_results, baseline_trials, concurrent, folder / "B"), skip=0)
        add("C Tune, reused actors", plain_tune(ThreeResults, baseline_trials, concurrent, folder / "C"), skip=actors)
        logged = plain_tune(ThreeResults, baseline_trials, concurrent, folder / "D", **recorded(folder))
        add("D as C, Optuna, MLflow", logged, skip=actors)
    add("E Optuna", optuna_alone(baseline_trials, algorithm), skip=0)
    console.print(table)


@dataclass(frozen=True)
class Tick:
    """The arrival of a result."""

    at: float
    memory: float  # resident, of this process, in MB


class Clock(tune.Callback):
    """When results arrived at the driver."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self._process = psutil.Process()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.tick()

    def tick(self) -> None:
        self.ticks.append(Tick(time.perf_counter(), self._process.memory_info().rss / 1e6))

    def lines(self, skip: int, ended: float) -> Iterator[list[str]]:
        """Cells of the table for every power of ten trials and for the end, without the first `skip` results."""
        marks = [EPOCHS * 10**power for power in range(2, 9)]
        begin = skip
        for end in [mark for mark in marks if skip < mark < len(self.ticks)] + [len(self.ticks)]:
            seconds = (self.ticks[end - 1].at - self.ticks[begin].at) / (end - 1 - begin)
            pace = [f"{1000 * seconds:.1f}", f"{1 / seconds:.0f}"]
            last = f"{ended - self.ticks[-1].at:.1f}" if end == len(self.ticks) else ""
            yield [f"to {end // EPOCHS:,}", *pace, f"{self.ticks[end - 1].memory:,.0f}", last]
            begin = end - 1


# ---------------------------------------------------------------------------------------- package


def wait_for_all(folder: Path, concurrent: int) -> None:
    """Wait until that many actors have called this."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(os.getpid())).touch()
    while sum(1 for _ in folder.iterdir()) < concurrent:
        time.sleep(0.5)


class Idle:
    """A group that does not train."""

    hosts = ("here",)

    def __init__(self, concurrent: int, folder: Path) -> None:
        wait_for_all(folder / "up", concurrent)
        self._epoch = 0

    def call(self, command: Any) -> EpochResult | None:
        if isinstance(command, StartTrial):
            self._epoch = 0
        if not isinstance(command, RunEpoch):
            return None
        self._epoch += 1
        metrics = dict.fromkeys(METRICS, 0.5)
        return EpochResult(self._epoch, metrics, self._epoch == EPOCHS, None, [])

    def checkpoint(self, result: EpochResult) -> bytes:
        return b"nothing"

    def shutdown(self) -> None:
        pass


class IdleTrial(SweepTrial):
    """The package's trial with an idle group."""

    def start_group(self) -> Idle:
        return Idle(self.spec.resources.max_concurrent, Path(self.groups_folder))


def package(size: int, concurrent: int, algorithm: str) -> tuple[Clock, float]:
    spec = SweepConfig(
        name="scale",
        base=load_train_config(CONFIG),
        space={RATE: {"low": 1e-6, "high": 1e-2, "log": True}},
        search=SearchConfig(algorithm=algorithm, num_trials=size),
        early_stopping=EarlyStopping(enabled=False, max_epochs=EPOCHS),
        resources=Resources(max_concurrent=concurrent),
    )
    machine = mock.patch.object(Machine, "local", return_value=Machine(concurrent, 0))
    no_model = mock.patch.object(run.results, "write_best", return_value=[])  # nothing was trained
    clock = Clock()
    own = run.Recorder.on_trial_result

    def timed(recorder: Any, *args: Any, **info: Any) -> None:
        own(recorder, *args, **info)
        clock.tick()

    with tempfile.TemporaryDirectory() as folder, machine, no_model:
        with mock.patch.object(run.Recorder, "on_trial_result", timed):
            run.run_sweep(spec, Path(folder), Console(quiet=True), trial_class=IdleTrial)
        return clock, time.perf_counter()


# --------------------------------------------------------------------------------------- baselines


def three_results(config: dict[str, Any]) -> None:
    for epoch in range(EPOCHS):
        tune.report({"epoch": epoch, **dict.fromkeys(METRICS, 0.5)})


class ThreeResults(tune.Trainable):
    """The same as a class, whose actors can be reused."""

    def setup(self, config: dict[str, Any]) -> None:
        wait_for_all(Path(config["up"]), config["concurrent"])
        self._epoch = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        self._epoch += 1
        return {"epoch": self._epoch, **dict.fromkeys(METRICS, 0.5), "done": self._epoch == EPOCHS}


def recorded(folder: Path) -> dict[str, Any]:
    """Options of `tune.run`: Optuna suggests, and MLflow gets every result."""
    logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="scale")
    search = OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=0), metric=METRICS[0], mode="min")
    return {"search_alg": search, "callbacks": [logger]}


def plain_tune(
    trainable: Any, size: int, concurrent: int, folder: Path, callbacks: Sequence[tune.Callback] = (), **options: Any
) -> tuple[Clock, float]:
    clock = Clock()
    folder.mkdir()
    tune.run(
        trainable,
        config={RATE: tune.loguniform(1e-6, 1e-2), "up": str(folder / "up"), "concurrent": concurrent},
        num_samples=size,
        max_concurrent_trials=concurrent,
        reuse_actors=trainable is ThreeResults,
        resources_per_trial={"cpu": 1},
        storage_path=str(folder),
        verbose=0,
        callbacks=[*callbacks, clock],
        **options,
    )
    return clock, time.perf_counter()


def optuna_alone(size: int, algorithm: str) -> tuple[Clock, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0) if algorithm == "tpe" else optuna.samplers.RandomSampler(seed=0)
    clock = Clock()

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float(RATE, 1e-6, 1e-2, log=True)
        for epoch in range(EPOCHS):
            trial.report(0.5, epoch)
            clock.tick()
        return 0.5

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", sampler=sampler)
        study.optimize(objective, n_trials=size)
    return clock, time.perf_counter()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    typer.run(main)
