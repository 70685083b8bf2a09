"""Overhead of a trial beyond training and validation: warm worker groups against Ray's documented pattern.

    python benchmarks/trial_overhead.py [--trials 14] [--textbook-trials 4]

Both sides train the same small Two Rooms config, one trial at a time; the trials differ in the learning rate only. The
overhead of a trial is the time from the previous trial's end to its own, by the driver's clock, minus the sum of its
epochs' `epoch_s`. The first trial of each side is left out, since it includes the start of Ray and of the first group.

- warm groups: `run_sweep` as users run it. The overhead includes a checkpoint per epoch, Optuna and MLflow. The trials'
  ends are read from the study in `optuna.db`.
- textbook: a Tune function that calls `TorchTrainer.fit()` per trial, metrics passed on by `TuneReportCallback`, as
  Ray's guide "Hyperparameter Tuning with Ray Tune" shows. It writes no checkpoints, no study and no MLflow runs, so
  the comparison favours it. A trial ends when Ray Tune calls `on_trial_complete`.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import ray.train
import torch
import typer
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console
from spread import Spread, all_ratios, show

from jepa_ray import cli
from jepa_ray.config import EarlyStopping, Resources, SearchConfig, SweepConfig, TrainConfig, load_train_config
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.machine import Machine
from jepa_ray.sweep.run import run_sweep
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.loop import Trainer

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
SMALL = {
    "data.two_rooms.trajectories": 60,
    "data.two_rooms.steps": 20,
    "model.cnn.channels": [8, 16],
    "model.latent_dim_state": 16,
    "model.latent_dim_action": 16,
    "model.transition_depth": 1,
    "training.patience": None,
}
LEARNING_RATE = "training.learning_rate"


def main(
    trials: Annotated[int, typer.Option(min=2, help="Trials on the warm group.")] = 14,
    textbook_trials: Annotated[int, typer.Option(min=2, help="Trials of the textbook pattern, about 20 s each.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a trial.")] = 3,
) -> None:
    """Measure both sides, and print their overhead per trial."""
    console = cli.console()
    with tempfile.TemporaryDirectory(prefix="trial_overhead-") as folder:
        overrides = SMALL | {"data.cache_dir": folder, "training.num_epochs": epochs}
        config = load_train_config(CONFIG).with_overrides(overrides)
        console.print(f"{trials} trials of {epochs} epochs on a warm group ...")
        warm = measure_warm_group(config, trials, Path(folder))
        console.print(f"{textbook_trials} trials with a TorchTrainer each ...")
        textbook = measure_textbook(config, textbook_trials, Path(folder))
    seconds = {"warm group": Spread.of(warm), "textbook": Spread.of(textbook)}
    show(console, "overhead of a trial, seconds", seconds, digits=3)
    show(console, "ratio, every pair of trials", {"textbook / warm group": all_ratios(textbook, warm)}, digits=0)


def compute_overheads(ends: list[float], trained: list[float]) -> list[float]:
    """Time between the ends of consecutive trials minus the time of the epochs, in seconds, without the first trial."""
    return [end - before - own for (before, end), own in zip(itertools.pairwise(ends), trained[1:], strict=True)]


def learning_rates(count: int) -> list[float]:
    return [float(rate) for rate in np.geomspace(1e-4, 1e-3, count)]


# ------------------------------------------------------------------------------------ warm groups


def measure_warm_group(config: TrainConfig, trials: int, folder: Path) -> list[float]:
    """Run a grid search with this package, and read the trials' ends from its study."""
    spec = SweepConfig(
        name="warm",
        base=config,
        space={LEARNING_RATE: learning_rates(trials)},
        search=SearchConfig(algorithm="grid", num_trials=trials),
        early_stopping=EarlyStopping(enabled=False, grace_epochs=1, max_epochs=config.training.num_epochs),
        resources=Resources(max_concurrent=1),
    )
    run_sweep(spec, folder, Console(quiet=True))
    done = finished_trials(folder / "sweeps/warm/optuna.db", spec.name)
    return compute_overheads([trial.datetime_complete.timestamp() for trial in done], [epoch_seconds(t) for t in done])


def finished_trials(database: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study, all complete, in the order of their ends."""
    trials = optuna.load_study(study_name=study, storage=f"sqlite:///{database}").trials
    assert all(trial.state is optuna.trial.TrialState.COMPLETE for trial in trials), [t.state for t in trials]
    return sorted(trials, key=lambda trial: trial.datetime_complete)


def epoch_seconds(trial: optuna.trial.FrozenTrial) -> float:
    return sum(float(value["epoch_s"]) for name, value in trial.user_attrs.items() if name.startswith("epoch_"))


# --------------------------------------------------------------------------------------- textbook


def train_loop(config: dict[str, Any]) -> None:
    """Runs in every TorchTrainer's worker: the same loop on the same data."""
    trial = TrainConfig.model_validate(config)
    torch.set_num_threads(trial.training.cpus_per_worker)
    trainer = Trainer(trial, TrajectoryDataset.from_config(trial.data, torch.device("cpu")))
    trained = 0.0
    while not trainer.finished:
        metrics = trainer.run_epoch()
        trained += metrics["epoch_s"]
        ray.train.report({**metrics, "trained_s": trained})


def textbook_trainable(config: dict[str, Any], base: TrainConfig, folder: str) -> None:
    """A Tune function: one TorchTrainer per trial."""
    TorchTrainer(
        train_loop,
        train_loop_config=base.with_overrides({LEARNING_RATE: config["lr"]}).to_dict(),
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}", storage_path=folder, callbacks=[TuneReportCallback()]
        ),
    ).fit()


class Clock(tune.Callback):
    """Records when each trial ended, and how long its epochs took."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.trained: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ends.append(time.perf_counter())
        self.trained.append(trial.last_result["trained_s"])


def measure_textbook(config: TrainConfig, trials: int, folder: Path) -> list[float]:
    """Run the textbook pattern with Ray Tune, in the same kind of Ray session."""
    clock = Clock()
    function = tune.with_parameters(textbook_trainable, base=config, folder=str(folder))
    machine = Machine.local()
    with ray_session(None, machine.cpus, machine.gpus, folder / "textbook.log"):
        results = tune.Tuner(
            tune.with_resources(function, {"CPU": 0.01}),  # it only waits, and the trainer's worker needs the CPUs
            param_space={"lr": tune.grid_search(learning_rates(trials))},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(name="textbook", storage_path=str(folder), callbacks=[clock], verbose=0),
        ).fit()
    assert not results.errors, results.errors
    return compute_overheads(clock.ends, clock.trained)


if __name__ == "__main__":
    typer.run(main)
