"""The console script `jepa-ray`: every command `python -m jepa_ray.X` as a subcommand, and `init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.compare.__main__ import compare
from jepa_ray.config import shipped
from jepa_ray.config.reference import config
from jepa_ray.data.__main__ import app as data_app
from jepa_ray.errors import ConfigError
from jepa_ray.evaluate import evaluate
from jepa_ray.files import write_atomically
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


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder to write configs/ and sweeps/ to.")] = Path(),
) -> None:
    """Write the shipped configs and sweep specs to a folder, to be changed there."""
    copies = {folder / kind / file.name: file for kind in shipped.KINDS for file in shipped.list_files(kind)}
    existing = next((path for path in copies if path.exists() or path.is_symlink()), None)
    if existing:
        raise ConfigError(f"{existing}: already exists, and is not overwritten: use another folder, or remove the file")
    try:
        for path, file in copies.items():
            write_atomically(path, file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from None
    print(f"wrote {len(copies)} files to {folder / 'configs'} and {folder / 'sweeps'}")
    print(f"next: jepa-ray sweep {folder / 'sweeps' / 'smoke.yaml'}")


def main() -> None:
    """Entry point of the console script."""
    cli.run(app, "jepa-ray")


if __name__ == "__main__":
    main()
