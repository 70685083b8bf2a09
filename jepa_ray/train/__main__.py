"""python -m jepa_ray.train --config CONFIG.yaml"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import load_train_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="The train config; see configs/.")],
    output: cli.Output = Path("outputs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old run's folder is renamed.")] = False,
    sets: cli.Sets = None,
) -> None:
    """Train one JEPA. The same command resumes an unfinished run, and shows the results of a finished one."""
    loaded = load_train_config(config, sets or ())
    console = cli.console()
    with cli.StartupStatus(console) as startup:
        startup.show("loading torch and Ray")  # before the import, which takes seconds
        from jepa_ray.train.run import run_training

        run_training(loaded, output, console, fresh=fresh, startup=startup)


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.train")
