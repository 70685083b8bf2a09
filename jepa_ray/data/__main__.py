"""python -m jepa_ray.data two-rooms --out FILE.h5"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import parse_sets, two_rooms_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def data() -> None:
    """Make datasets."""


@app.command("two-rooms")
def two_rooms(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.h5", help="The file to write.")],
    sets: cli.Sets = None,
) -> None:
    """Simulate the built-in Two Rooms and write it as canonical HDF5; --set takes the keys of `data.two_rooms`."""
    config = two_rooms_config(parse_sets(sets or ()))
    from jepa_ray.data.convert import write_canonical
    from jepa_ray.data.two_rooms import as_recording

    write_canonical(out, as_recording(config))
    cli.console().print(f"{out}: {config.trajectories} episodes of {config.steps + 1} rows", soft_wrap=True)


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.data")
