"""The command line of `python -m jepa_ray.data`: two-rooms, info, convert and collect."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import parse_sets, two_rooms_config
from jepa_ray.errors import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def data() -> None:
    """Create, inspect and convert datasets."""


@app.command("two-rooms")
def two_rooms(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.h5", help="The file to write.")],
    sets: cli.Sets = None,
) -> None:
    """Simulate the built-in Two Rooms and write it as canonical HDF5; --set takes keys of `data.two_rooms`."""
    config = two_rooms_config(parse_sets(sets or ()))
    from jepa_ray.data.commands.convert import write_canonical
    from jepa_ray.data.two_rooms import as_recording

    write_canonical(out, as_recording(config))
    cli.console().print(f"{out}: {config.trajectories} episodes of {config.steps + 1} rows", soft_wrap=True)


@app.command()
def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Dataset to inspect: a file or folder in any supported format.")
    ],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Also draw frames of some episodes to this file.")
    ] = None,
) -> None:
    """Print a dataset's episodes, columns, actions, alignment and duplicates, and why training would refuse it."""
    from jepa_ray.data.commands.info import describe
    from jepa_ray.data.commands.info_text import print_description
    from jepa_ray.data.commands.sheet import contact_sheet
    from jepa_ray.data.formats import open_recording

    with open_recording(path) as recording:
        with _progress("reading") as advance:
            description = describe(recording, advance)
        print_description(description, cli.console())
        if sheet:
            contact_sheet(recording, sheet)
            cli.console().print(f"contact sheet: {sheet}", soft_wrap=True)


class Alignment(StrEnum):
    """The values of `data.action_alignment`."""

    auto = "auto"
    next = "next"
    previous = "previous"


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Dataset to read: a file or folder in any supported format.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST.h5", help="The canonical HDF5 file to write.")],
    frameskip: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep every Nth row; the actions in between are concatenated.")
    ] = 1,
    resize: Annotated[
        str | None, typer.Option(metavar="SIDE|HxW", help="Resize frames to SIDE x SIDE, or to height x width.")
    ] = None,
    grayscale: Annotated[bool, typer.Option("--grayscale", help="Write frames as luma, with one channel.")] = False,
    keys: Annotated[
        str | None,
        typer.Option(metavar="KEY,KEY", help="Columns to write, separated by commas. Default: all numeric columns."),
    ] = None,
    action_alignment: Annotated[
        Alignment,
        typer.Option(help="Which row SRC stores an action in: that before its effect (next) or after it (previous)."),
    ] = Alignment.auto,
) -> None:
    """Convert any dataset to one canonical HDF5 file in bounded memory; an interrupted conversion resumes."""
    from jepa_ray.data.commands import convert as conversion

    size = None if resize is None else _size(resize)
    wanted = None if keys is None else [key.strip() for key in keys.split(",")]
    with _progress("converting") as advance:
        conversion.convert(
            source, target, frameskip=frameskip, resize=size, grayscale=grayscale, keys=wanted,
            action_alignment=action_alignment.value, progress=advance,
        )  # fmt: skip
    cli.console().print(f"{target}", soft_wrap=True)


class Observe(StrEnum):
    """Which part of an environment is recorded as the observation."""

    state = "state"
    pixels = "pixels"


@app.command()
def collect(
    env: Annotated[str, typer.Option("--env", metavar="ENV_ID", help="Gymnasium environment ID, or MODULE:ENV_ID.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.h5", help="The file to write.")],
    episodes: Annotated[int, typer.Option(min=2, help="Number of episodes to play.")] = 100,
    policy: Annotated[
        str,
        typer.Option(
            metavar="random|MODULE:FN",
            help="Policy: random, or a function FN(observation, action_space, rng) -> action.",
        ),
    ] = "random",
    observe: Annotated[
        Observe, typer.Option(help="Record state vectors, or frames together with states.")
    ] = Observe.state,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key of a Dict observation to record. Default: all keys.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of square frames, in pixels. Default: as rendered.")
    ] = None,
    num_envs: Annotated[int, typer.Option(min=1, help="Number of environments that run in parallel.")] = 1,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of steps per episode.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the environments and the policy.")] = 0,
) -> None:
    """Play episodes of a Gymnasium environment and write them as canonical HDF5."""
    from jepa_ray.data.commands import collect as collection

    with _progress("collecting") as advance:
        collection.collect(
            env, out, policy=policy, episodes=episodes, observe=observe.value, key=key, image_size=image_size,
            num_envs=num_envs, max_steps=max_steps, seed=seed, progress=advance,
        )  # fmt: skip
    cli.console().print(f"{out}: {episodes} episodes of {env}", soft_wrap=True)


def _size(text: str) -> tuple[int, int]:
    """`64` or `64x96` as (height, width)."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 1 <= int(side) <= 4096 for side in sides):
        raise ConfigError(f"--resize is {text}, but must be a number of pixels up to 4096, or two of them: 64x96")
    return int(sides[0]), int(sides[-1])


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; yields the callback that takes (done, total)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = cli.console()
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.data")
