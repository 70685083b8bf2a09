"""A comparison: the order of its runs, their processes, and its files.

outputs/compare/<experiment.name>/: comparison.yaml (config and budget), comparison.md, comparison.csv (a row per run),
curves.csv (a row per epoch), comparison.png, best_jepa.pt, best_generative.pt, runs/ (the files of each run)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

from jepa_ray.cli import sigterm_as_interrupt
from jepa_ray.compare.measure import run_apart
from jepa_ray.compare.picture import save_picture
from jepa_ray.compare.result import SIDES, ComparisonRun, Measured, load
from jepa_ray.compare.table import Comparison, compare
from jepa_ray.config import TrainConfig, dump_yaml
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, Interrupted, JepaRayError, TrialError
from jepa_ray.files import RunFolder, write_atomically
from jepa_ray.machine import Machine
from jepa_ray.model.learner import build_learner
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import windows

GRACE_S = 5.0  # time for a process to end after SIGTERM, before it is killed


@dataclass(frozen=True)
class Settings:
    """The settings of a comparison. Raises `ConfigError` for invalid values."""

    seeds: int  # runs per side
    minutes: float  # of training per run
    target_mrr: float  # a val_rollout_mrr, in (0, 1]
    plan_episodes: int  # planning tasks per run; 0: no planning

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise ConfigError(f"--minutes is {self.minutes:g}, but must be above 0, and finite")
        if not 0 < self.target_mrr <= 1:
            raise ConfigError(f"--target-mrr is {self.target_mrr:g}, but must be above 0, and at most 1")

    def document(self, config: TrainConfig) -> str:
        """Everything that a run's result depends on, as YAML. Runs are used again with more seeds or another target."""
        budget = {"minutes": self.minutes, "plan_episodes": self.plan_episodes}
        return dump_yaml({"compare": budget, "config": config.to_dict()})


def run_comparison(
    config: TrainConfig, settings: Settings, output: Path, console: Console, *, fresh: bool = False
) -> list[Measured]:
    """Measure both sides and write the comparison. Finished runs are used again.

    Raises `ConfigError` or `DataError` before anything is written, `TrialError`, or `Interrupted`.
    """
    folder = RunFolder(output.resolve() / "compare" / config.experiment.name, "comparison.yaml", _add_defaults)
    check_comparable(config, console)
    with folder.begin(settings.document(config), fresh=fresh) as aside, _interruptible():
        if aside:
            console.print(f"the old comparison is kept in {aside}", soft_wrap=True)
        started, runs = time.monotonic(), []
        for run in order_runs(config.experiment.seed, settings.seeds):
            runs.append(_RunProcess(run, config, settings, folder.path, console).result())
            _write_csv(runs, settings.target_mrr, folder.path)
        comparison = compare(runs, settings.target_mrr)
        _write(comparison, runs, settings.target_mrr, folder.path)
        folder.mark_finished(time.monotonic() - started)
    _show(comparison, folder.path, console)
    return runs


def _add_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """A stored comparison, completed with the config keys that an earlier version did not have."""
    config = document.get("config")
    return {**document, "config": TrainConfig.add_defaults(config) if isinstance(config, dict) else config}


def order_runs(first_seed: int, seeds: int) -> list[ComparisonRun]:
    """Alternate the sides and which of them is first, so that a slowdown of the machine affects both equally."""
    turns = [SIDES if i % 2 == 0 else SIDES[::-1] for i in range(seeds)]
    return [ComparisonRun(side, first_seed + i) for i, sides in enumerate(turns) for side in sides]


def make_run_config(run: ComparisonRun, config: TrainConfig) -> TrainConfig:
    """The config of one run. On both sides, the best epoch is the one with the largest val_rollout_mrr."""
    overrides = {
        "training.objective": run.side,
        "experiment.seed": run.seed,
        "experiment.objective.metric": "val_rollout_mrr",
        "experiment.objective.mode": "max",
    }
    return config.with_overrides(overrides, str(run))


def check_comparable(config: TrainConfig, console: Console) -> None:
    """Open or generate the dataset and build both learners once, so that errors are reported before any training.

    Raises `DataError` or `ConfigError`.
    """
    _check_training(config)
    with console.status("reading the data"):
        dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    windows(config.training, dataset)
    for side in SIDES:
        side_config = make_run_config(ComparisonRun(side, config.experiment.seed), config)
        build_learner(side_config.model, side_config.training, dataset.spec, Communicator().average)


def _check_training(config: TrainConfig) -> None:
    training, machine = config.training, Machine.local()
    if training.num_workers > 1:
        raise ConfigError(
            f"training.num_workers is {training.num_workers}, but a comparison trains in one process: use 1"
        )
    for schedule, value, constant in (
        ("lr_schedule", training.lr_schedule, "constant"),
        ("ema_decay_final", training.ema_decay_final, None),
    ):
        if value != constant:
            raise ConfigError(
                f"training.{schedule} is {value}, but compared runs have a time limit, and a schedule needs a number of"
                f" epochs: use {'null' if constant is None else constant}"
            )
    if training.cpus_per_worker > machine.cpus:
        raise ConfigError(
            f"training.cpus_per_worker is {training.cpus_per_worker}, but this machine has only {machine.cpus:g} CPUs:"
            f" use at most {machine.cpus:g}"
        )
    if training.gpus_per_worker and not torch.cuda.is_available():
        raise ConfigError(f"training.gpus_per_worker is {training.gpus_per_worker:g}, but there is no usable GPU")


# ----------------------------------------------------------------------------------------- one run


@dataclass(frozen=True)
class _RunProcess:
    """One run of the comparison, which is trained in a process of its own unless it is finished."""

    run: ComparisonRun
    config: TrainConfig
    settings: Settings
    folder: Path
    console: Console

    @property
    def stem(self) -> Path:
        return self.folder / "runs" / str(self.run)

    def result(self) -> Measured:
        """The measurements. Raises `TrialError` if the run failed."""
        path = self.stem.with_suffix(".json")
        if path.exists():
            self.console.print(f"{self.run}: already measured, not repeated", highlight=False)
            return load(path)
        self._train()
        measured = load(path)
        planning = f"  planning success {measured.planning.success}" if measured.planning else ""
        self.console.print(f"{self.run}: {measured.diagnosis}{planning}", highlight=False, soft_wrap=True)
        return measured

    def _train(self) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        config = make_run_config(self.run, self.config)
        args = (config, 60 * self.settings.minutes, self.settings.plan_episodes, self.stem)
        process = context.Process(target=run_apart, args=(*args, sender), name=str(self.run), daemon=True)
        try:
            with _sigint_ignored():  # the new process inherits this: it is ended from here
                process.start()
            sender.close()
            for message in _messages(receiver):
                self._report(message)
            process.join()
        finally:
            _end(process)
        if not self.stem.with_suffix(".json").exists():
            raise TrialError(f"{self.run}: its process died (exit code {process.exitcode})")

    def _report(self, message: dict[str, float] | JepaRayError) -> None:
        if isinstance(message, JepaRayError):
            raise type(message)(f"{self.run}: {message}")
        budget = 60 * self.settings.minutes
        probe = f"  rollout_probe_r2 {message['rollout_probe_r2']:.3f}" if "rollout_probe_r2" in message else ""
        self.console.print(
            f"{self.run}: epoch {message['epoch']:.0f}  {message['seconds']:.1f} of {budget:g} s"
            f"  val_rollout_mrr {message['val_rollout_mrr']:.3f}{probe}  samples_per_s {message['samples_per_s']:,.0f}",
            highlight=False,
            soft_wrap=True,
        )
        if self.settings.plan_episodes and message["seconds"] >= budget:
            self.console.print(f"{self.run}: planning {self.settings.plan_episodes} tasks", highlight=False)


def _messages(receiver: Connection) -> Iterator[Any]:
    """The messages of the process, until it ends."""
    with contextlib.suppress(EOFError):
        while True:
            yield receiver.recv()


def _end(process: BaseProcess) -> None:
    """End the process, by force if necessary."""
    if process.pid is None:
        return
    process.terminate()
    process.join(GRACE_S)
    if process.is_alive():
        process.kill()
        process.join()


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the comparison; its finished runs stay."""
    with sigterm_as_interrupt():
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted("interrupted; the same command continues after the last finished run") from None


# ------------------------------------------------------------------------------------- what is written


def _write_csv(runs: list[Measured], target: float, folder: Path) -> None:
    rows = [run.row(target) for run in runs]
    curves = [{"objective": run.side, "seed": run.seed, **row} for run in runs for row in run.curve]
    write_atomically(folder / "comparison.csv", pd.DataFrame(rows).to_csv(index=False).encode())
    write_atomically(folder / "curves.csv", pd.DataFrame(curves).to_csv(index=False).encode())


def _write(comparison: Comparison, runs: list[Measured], target: float, folder: Path) -> None:
    title = f"JEPA against the generative baseline: {folder.name}"
    write_atomically(folder / "comparison.md", comparison.markdown(title).encode())
    save_picture(runs, target, title, folder / "comparison.png")
    for side in SIDES:
        best = max((run for run in runs if run.side == side), key=lambda run: run.best_mrr)
        model = (folder / "runs" / f"{best.run}.pt").read_bytes()
        write_atomically(folder / f"best_{side}.pt", model)


def _show(comparison: Comparison, folder: Path, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("", "measured", "JEPA", "generative"):
        table.add_column(name)
    for row in comparison.rows:
        table.add_row(row.aspect, row.label, row.jepa, row.generative)
    console.print(table, highlight=False)
    for text in (*comparison.sentences, *comparison.notes):
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    console.print(f"written: {folder}", soft_wrap=True)
