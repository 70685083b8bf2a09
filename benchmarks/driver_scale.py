"""What the driver costs per result, from a hundred trials to thousands: no training, everything else.

    python benchmarks/driver_scale.py [--trials 100 --trials 1000] [--concurrent 64] [--baseline-trials 100]

- A, package: a whole sweep (`run_sweep`) whose groups answer at once: searcher, study in sqlite, MLflow in sqlite,
  checkpoint files, leaderboard; three results a trial.
- B, Ray Tune alone: a function trainable that reports three results, random search, no loggers; one actor a trial.
- C, Ray Tune alone, its actors reused (`reuse_actors=True`): the same with a class.
- D, Ray Tune with what others use for the same records: as C, with OptunaSearch and MLflowLoggerCallback in sqlite.
- E, Optuna alone: ask, three reports, tell, in sqlite, in one process.

Starting the actors of A, C and D (`--concurrent` of them, a process each) is not counted: none begins before all are up,
since Ray Tune keeps asking for further actors until then. B pays for one a trial, as its users do.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import optuna
import psutil
import typer
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search import ConcurrencyLimiter
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
    trials: Annotated[list[int] | None, typer.Option(help="Sizes of the sweep; repeat the option.")] = None,
    concurrent: Annotated[int, typer.Option(min=1, help="Groups at once.")] = 64,
    baseline_trials: Annotated[int, typer.Option(min=2, help="Trials of Ray Tune's sides.")] = 100,
    algorithm: Annotated[str, typer.Option(help="Sampler of the package.")] = "random",
) -> None:
    """Measure all sides and print seconds per result, results per second and the driver's memory."""
    console = cli.console()
    sizes = trials or [100, 1000]
    table = Table(title=f"driver alone, {concurrent} groups at once, {algorithm} search", title_justify="left")
    for name in ("", "trials", "ms per result", "results/s", "end after the last result, s", "driver's peak MB"):
        table.add_column(name, justify="right")
    for size in sizes:
        console.print(f"package, {size} trials ...")
        table.add_row("A package", f"{size:,}", *cells(size, *package(size, concurrent, algorithm)))
    with tempfile.TemporaryDirectory() as folder, ray_session(None, 64, 0, Path(folder) / "ray.log"):
        for name, size, extra in (
            ("B Tune, function", baseline_trials, None),
            ("C Tune, reused actors", baseline_trials, {}),
            ("D C, Optuna, MLflow", baseline_trials, recorded(concurrent, Path(folder))),
        ):
            console.print(f"{name}, {size} trials ...")
            table.add_row(name, f"{size:,}", *cells(size, *plain_tune(size, concurrent, extra, Path(folder) / name[0])))
    for size in sizes:
        table.add_row("E Optuna", f"{size:,}", *cells(size, *optuna_alone(size, algorithm)))
    console.print(table)


def cells(size: int, seconds: float, after: float, memory: float) -> list[str]:
    results = size * EPOCHS
    return [f"{1000 * seconds / results:.1f}", f"{results / seconds:.0f}", f"{after:.1f}", f"{memory:,.0f}"]


class Peak:
    """The largest resident memory of this process while it lasts, in MB."""

    def __enter__(self) -> Peak:
        self.megabytes, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.5):
            self.megabytes = max(self.megabytes, process.memory_info().rss / 1e6)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Clock(tune.Callback):
    """When results came in at the driver: the time of each, after the first `skip`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.times.append(time.perf_counter())


# ---------------------------------------------------------------------------------------- package


def wait_for_all(folder: Path, concurrent: int) -> None:
    """Until so many actors have come here."""
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    while sum(1 for _ in folder.iterdir()) < concurrent:
        time.sleep(0.5)


class Idle:
    """A group that has nothing to do."""

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
    """What the package runs, with an idle group."""

    def start_group(self) -> Idle:
        return Idle(self.spec.resources.max_concurrent, self.folder)


def package(size: int, concurrent: int, algorithm: str) -> tuple[float, float, float]:
    spec = SweepConfig(
        name="scale",
        base=load_train_config(CONFIG),
        space={RATE: {"low": 1e-6, "high": 1e-2, "log": True}},
        search=SearchConfig(algorithm=algorithm, num_trials=size),
        early_stopping=EarlyStopping(enabled=False, max_epochs=EPOCHS),
        resources=Resources(max_concurrent=concurrent),
    )
    machine = mock.patch.object(Machine, "local", return_value=Machine(concurrent, 0))
    no_model = mock.patch.object(run.results, "write_best", return_value=[])  # there is none
    clock = Clock()
    own = run.Recorder.on_trial_result

    def timed(recorder: Any, *args: Any, **info: Any) -> None:
        own(recorder, *args, **info)
        clock.on_trial_result(*args, **info)

    with tempfile.TemporaryDirectory() as folder, machine, no_model, Peak() as peak:
        bound = type("BoundTrial", (IdleTrial,), {"spec": spec, "folder": Path(folder) / "sweeps/scale"})
        with mock.patch.object(run.Recorder, "on_trial_result", timed):
            run.run_sweep(spec, Path(folder), Console(quiet=True), trial_class=bound)
        ended = time.perf_counter()
    return steady(clock.times, concurrent), ended - clock.times[-1], peak.megabytes


def steady(times: list[float], concurrent: int) -> float:
    """Seconds for all results at the pace they had after the first trial of each actor, as far as there are more."""
    first = min(concurrent * EPOCHS, len(times) // 2)
    return (times[-1] - times[first]) * len(times) / (len(times) - 1 - first)


# --------------------------------------------------------------------------------------- baselines


def three_results(config: dict[str, Any]) -> None:
    for epoch in range(EPOCHS):
        tune.report({"epoch": epoch, **dict.fromkeys(METRICS, 0.5)})


class ThreeResults(tune.Trainable):
    """The same as a class, which can be reused."""

    def setup(self, config: dict[str, Any]) -> None:
        Path(config["up"]).parent.mkdir(parents=True, exist_ok=True)
        wait_for_all(Path(config["up"]), config["concurrent"])
        self._epoch = 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._epoch = 0
        return True

    def step(self) -> dict[str, Any]:
        self._epoch += 1
        return {"epoch": self._epoch, **dict.fromkeys(METRICS, 0.5), "done": self._epoch == EPOCHS}


def recorded(concurrent: int, folder: Path) -> dict[str, Any]:
    """Options of `tune.run`: search by Optuna, every result to MLflow."""
    logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="scale")
    search = OptunaSearch(sampler=optuna.samplers.RandomSampler(seed=0), metric=METRICS[0], mode="min")
    return {"search_alg": ConcurrencyLimiter(search, concurrent), "callbacks": [logger]}


def plain_tune(size: int, concurrent: int, extra: dict[str, Any] | None, folder: Path) -> tuple[float, float, float]:
    """The function trainable, or with further options of `tune.run` the class, reused."""
    clock, reuse = Clock(), extra is not None
    options = {"max_concurrent_trials": concurrent, **(extra or {})}
    if "search_alg" in options:
        del options["max_concurrent_trials"]  # its searcher has it
    with Peak() as peak:
        tune.run(
            ThreeResults if reuse else three_results,
            config={RATE: tune.loguniform(1e-6, 1e-2), "up": str(folder / "up"), "concurrent": concurrent},
            num_samples=size,
            reuse_actors=reuse,
            resources_per_trial={"cpu": 1},
            storage_path=str(folder),
            verbose=0,
            **{**options, "callbacks": [*options.get("callbacks", []), clock]},
        )
        ended = time.perf_counter()
    seconds = steady(clock.times, concurrent) if reuse else clock.times[-1] - clock.times[0]
    return seconds, ended - clock.times[-1], peak.megabytes


def optuna_alone(size: int, algorithm: str) -> tuple[float, float, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0) if algorithm == "tpe" else optuna.samplers.RandomSampler(seed=0)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float(RATE, 1e-6, 1e-2, log=True)
        for epoch in range(EPOCHS):
            trial.report(0.5, epoch)
        return 0.5

    with tempfile.TemporaryDirectory() as folder, Peak() as peak:
        study = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", sampler=sampler)
        started = time.perf_counter()
        study.optimize(objective, n_trials=size)
        seconds = time.perf_counter() - started
    return seconds, 0.0, peak.megabytes


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    typer.run(main)
