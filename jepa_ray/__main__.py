"""The console script `jepa-ray`: every `python -m jepa_ray.X` as a subcommand."""

from __future__ import annotations

import typer

from jepa_ray import cli
from jepa_ray.compare.__main__ import compare
from jepa_ray.config.reference import config
from jepa_ray.data.__main__ import app as data_app
from jepa_ray.evaluate import evaluate
from jepa_ray.report.__main__ import report
from jepa_ray.serve.__main__ import app as serve_app
from jepa_ray.sweep.__main__ import app as sweep_app
from jepa_ray.train.__main__ import train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.add_typer(sweep_app, name="sweep")
app.command()(train)
app.command()(evaluate)
app.command()(compare)
app.command()(config)
app.command()(report)
app.add_typer(data_app, name="data")
app.add_typer(serve_app, name="serve")


def main() -> None:
    """Entry point."""
    cli.run(app, "jepa-ray")


if __name__ == "__main__":
    main()
