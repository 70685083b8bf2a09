"""python -m jepa_ray.evaluate CHECKPOINT: a model's metrics, its diagnosis, and its planning success."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import PlanningConfig, TrainConfig, parse_sets, planning_config, resolve_data_path

if TYPE_CHECKING:
    from rich.console import Console

    from jepa_ray.data.spec import DataSpec
    from jepa_ray.diagnosis import Diagnosis
    from jepa_ray.model.jepa import JEPA

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PICTURED = 10  # episodes in a picture


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A file such as best_jepa_model.pt.")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="PATH", help="A dataset other than the one for training: a path or a URI."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Plan with the model, and count the goals that it reaches.")
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture", metavar="FILE", help=f"Plan, and draw the first {PICTURED} episodes as .png or .gif."
        ),
    ] = None,
    sets: cli.Sets = None,
) -> None:
    """Validate and diagnose a model, and with --plan measure its planning.

    --set takes keys of the planning config, such as preset=paper.
    """
    planning = planning_config(parse_sets(sets or ()))
    from jepa_ray.train.checkpoint import data_spec, read_checkpoint, rebuild

    console = cli.console()
    stored = read_checkpoint(checkpoint)
    model, config = rebuild(stored, str(checkpoint))
    if data is not None:
        config = config.with_overrides({"data.path": resolve_data_path(data, "--data"), "data.builtin": None}, "--data")
    config = _without_foreign_cache_dir(config)
    if plan or picture:
        _check_planning(config, picture)  # before the minutes that validation may take
    _print_validation(model, data_spec(stored), config, console)
    if plan or picture:
        _print_planning(model, config, planning, picture, console)


def _without_foreign_cache_dir(config: TrainConfig) -> TrainConfig:
    """The config without its cache folder, unless the dataset is cached there already.

    A checkpoint must not decide where files are written.
    """
    from jepa_ray.data.cache import is_cached

    if config.data.cache_dir is None or is_cached(config.data):
        return config
    return config.with_overrides({"data.cache_dir": None}, "the checkpoint's config")


def _print_validation(model: JEPA, spec: DataSpec, config: TrainConfig, console: Console) -> None:
    import torch
    from rich.table import Table

    from jepa_ray.data.dataset import TrajectoryDataset
    from jepa_ray.diagnosis import diagnose
    from jepa_ray.train import validation
    from jepa_ray.train.collectives import Communicator

    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    _check_fit(spec, dataset.spec, str(config.data.path or config.data.builtin))
    measured = validation.validate(model, dataset, Communicator(), config.training.rollout_horizon)
    table = Table(title=f"{len(dataset.val_lengths)} validation trajectories", title_justify="left", box=None)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in measured.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    _print_diagnosis(diagnose(measured), config, console)


def _check_fit(model: DataSpec, data: DataSpec, source: str) -> None:
    """Raise `DataError` unless a model can be validated on the data at `source`; the units of both may differ."""
    from jepa_ray.errors import DataError

    if reason := _find_mismatch(model, data):
        raise DataError(
            f"{source}: does not fit the model ({reason}): use data with the observations and actions that it was"
            " trained on"
        )


def _find_mismatch(model: DataSpec, data: DataSpec) -> str | None:
    """The first difference between the shapes of a model's data and of other data that the model cannot take."""
    if data.observation_shape != model.observation_shape:
        return f"observations have shape {data.observation_shape}, but the model takes {model.observation_shape}"
    if bool(data.num_actions) != bool(model.num_actions):
        kinds = ("discrete", "continuous") if data.num_actions else ("continuous", "discrete")
        return f"actions are {kinds[0]}, but the model takes {kinds[1]} ones"
    if data.num_actions > model.num_actions:
        return f"it has {data.num_actions} discrete actions, but the model takes {model.num_actions}"
    if data.action_dim != model.action_dim:
        return f"actions have width {data.action_dim}, but the model takes width {model.action_dim}"
    return None


def _print_diagnosis(diagnosis: Diagnosis, config: TrainConfig, console: Console) -> None:
    from jepa_ray.diagnosis import Condition, remedies

    style = "green" if diagnosis.condition is Condition.HEALTHY else "yellow"
    console.print(f"diagnosis: {diagnosis}", style=style, soft_wrap=True, highlight=False)
    for remedy in remedies(diagnosis.condition, config):
        console.print(f"  try --set {remedy.key}={remedy.value}  ({remedy.why})", soft_wrap=True, highlight=False)


def _check_planning(config: TrainConfig, picture: Path | None) -> None:
    from jepa_ray.errors import ConfigError
    from jepa_ray.planning.environment import check_environment
    from jepa_ray.planning.picture import check_ending

    try:
        check_environment(config.data)
    except ConfigError as error:
        raise ConfigError(f"{error}; leave out --plan and --picture") from None
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
        f"goals {planning.goal_ahead} steps ahead, budget {planning.budget} steps;"
        f" {result.seconds_per_planning_step:.2f} s per planning step for all episodes at once",
        highlight=False,
        soft_wrap=True,
    )
    if picture:
        save_picture(result.recordings, picture)
        console.print(f"picture: {picture}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.evaluate")
