"""The share of an epoch that validation takes, with all metrics.

    python benchmarks/evaluation_cost.py [--config configs/two_rooms.yaml] [--epochs 5] [--threads 1]

Measures the smallest and the largest model of the documented grid, alternately, one epoch each. The first round is a
warm-up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from spread import Spread, show

from jepa_ray import cli
from jepa_ray.config import load_train_config
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.train.loop import Trainer

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
MODELS = [(64, 2), (256, 6)]  # latent_dim_state, transition_depth


def main(
    config: Annotated[Path, typer.Option(help="Train config; its width and depth are replaced.")] = CONFIG,
    epochs: Annotated[int, typer.Option(min=1, help="Counted epochs of each model.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Measure the shares and print them in percent."""
    torch.set_num_threads(threads)
    console = cli.console()
    sides: dict[str, Trainer] = {}
    for dim, depth in MODELS:
        model = {"model.latent_dim_state": dim, "model.transition_depth": depth}
        run = load_train_config(config).with_overrides(model)
        dataset = TrajectoryDataset.from_config(run.data, torch.device("cpu"))
        sides[f"latent {dim}, depth {depth}"] = Trainer(run, dataset)
    shares: dict[str, list[float]] = {name: [] for name in sides}
    for epoch in range(epochs + 1):
        for name, trainer in sides.items():
            metrics = trainer.run_epoch()
            shares[name].append(validation_share(trainer, metrics))
        seen = "  ".join(f"{name} {values[-1]:.1f} %" for name, values in shares.items())
        console.print(f"epoch {epoch + 1}{'' if epoch else ' (warm-up)'}: {seen}", highlight=False)
    counted = {name: Spread.of(values[1:]) for name, values in shares.items()}
    show(console, f"validation, percent of an epoch: {config.name}, {threads} thread(s)", counted, digits=1)


def validation_share(trainer: Trainer, metrics: dict[str, float]) -> float:
    """The percentage of an epoch that was not training."""
    trained = trainer.steps_per_epoch * trainer.config.training.batch_size / metrics["samples_per_s"]
    return 100 * (1 - trained / metrics["epoch_s"])


if __name__ == "__main__":
    typer.run(main)
