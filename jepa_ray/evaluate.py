"""python -m jepa_ray.evaluate CHECKPOINT: a model's metrics, its diagnosis, and its planning success."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import PlanningConfig, TrainConfig, parse_sets, planning_config

if TYPE_CHECKING:
    from rich.console import Console

    from jepa_ray.diagnosis import Diagnosis
    from jepa_ray.model.jepa import JEPA

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file such as best_jepa_model.pt.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="A dataset other than the one for training.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Plan with the model, and count reached goals.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw planned episodes as .png or .gif.")
    ] = None,
    sets: cli.Sets = None,
) -> None:
    """Validate and diagnose a model, and with --plan measure planning. --set takes keys of `planning`: preset=paper."""
    planning = planning_config(parse_sets(sets or ()))
    from jepa_ray.train.checkpoint import load_model

    console = cli.console()
    model, config = load_model(checkpoint)
    config = _caching_here(config)
    if data is not None:
        config = config.with_overrides({"data.path": os.path.realpath(data), "data.builtin": None}, "--data")
    if plan or picture:
        _check_planning(config, picture)  # before the minutes that validation may take
    _print_validation(model, config, console)
    if plan or picture:
        _print_planning(model, config, planning, picture, console)


def _caching_here(config: TrainConfig) -> TrainConfig:
    """The config without its cache folder, unless it exists: a checkpoint must not decide where files are written."""
    from jepa_ray.data.cache import is_cached

    if config.data.cache_dir is None or is_cached(config.data):
        return config
    return config.with_overrides({"data.cache_dir": None}, "the checkpoint's config")


def _print_validation(model: JEPA, config: TrainConfig, console: Console) -> None:
    import torch
    from rich.table import Table

    from jepa_ray.data.dataset import TrajectoryDataset
    from jepa_ray.diagnosis import diagnose
    from jepa_ray.errors import DataError, first_line
    from jepa_ray.train import validation
    from jepa_ray.train.collectives import Communicator

    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    try:
        measured = validation.validate(model, dataset, Communicator(), config.training.rollout_horizon)
    except RuntimeError as error:  # torch's message says which shapes do not match
        raise DataError(f"the data does not fit the model: {first_line(error)}") from None
    table = Table(title=f"{len(dataset.val_lengths)} validation trajectories", title_justify="left", box=None)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in measured.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    _print_diagnosis(diagnose(measured), config, console)


def _print_diagnosis(diagnosis: Diagnosis, config: TrainConfig, console: Console) -> None:
    from jepa_ray.diagnosis import Condition, remedies

    style = "green" if diagnosis.condition is Condition.HEALTHY else "yellow"
    console.print(f"diagnosis: {diagnosis}", style=style, soft_wrap=True, highlight=False)
    for remedy in remedies(diagnosis.condition, config):
        console.print(f"  try --set {remedy.key}={remedy.value}  ({remedy.why})", soft_wrap=True, highlight=False)


def _check_planning(config: TrainConfig, picture: Path | None) -> None:
    from jepa_ray.planning.environment import check_environment
    from jepa_ray.planning.picture import check_ending

    check_environment(config.data)
    if picture:
        check_ending(picture)


def _print_planning(
    model: JEPA, config: TrainConfig, planning: PlanningConfig, picture: Path | None, console: Console
) -> None:
    from jepa_ray.planning.picture import save_picture
    from jepa_ray.planning.success import plan_success

    with console.status("planning"):
        result = plan_success(model, config, planning, record=PICTURED if picture else 0)
    console.print(f"planning success  {result.success}", highlight=False)
    console.print(f"random policy     {result.random}", highlight=False)
    console.print(
        f"goals {planning.goal_ahead} steps ahead, budget {planning.budget};"
        f" {result.seconds_per_planning_step:.2f} s a planning step for all episodes at once",
        highlight=False,
        soft_wrap=True,
    )
    if picture:
        save_picture(result.recordings, picture)
        console.print(f"picture: {picture}", soft_wrap=True)


PICTURED = 10  # episodes in a picture

if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.evaluate")
