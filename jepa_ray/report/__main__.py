"""python -m jepa_ray.report OUTPUT_DIR/sweeps/NAME, or --compare A B"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.errors import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="OUTPUT_DIR/sweeps/NAME; two of them with --compare.")
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Compare two sweeps side by side.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write. Default: report.html in DIR, or compare.html."),
    ] = None,
) -> None:
    """Write the report of a finished or running sweep. No other file is changed."""
    if len(folders) != (2 if compare else 1):
        rule = "--compare takes two" if compare else "a report shows one sweep; --compare takes two"
        raise ConfigError(f"the command names {len(folders)} folders, but {rule}")
    from jepa_ray.files import write_atomically
    from jepa_ray.report.page import render
    from jepa_ray.report.side_by_side import render_comparison
    from jepa_ray.sweep.output.reporting import REPORT, read_report_data

    gc.disable()  # a large sweep is millions of small objects, all of which are used until the command ends
    sweeps = [read_report_data(_folder(folder)) for folder in folders]
    path = out or (Path("compare.html") if compare else _folder(folders[0]) / REPORT)
    text = render_comparison(sweeps[0], sweeps[1]) if compare else render(sweeps[0])
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
    print(path)


def _folder(named: Path) -> Path:
    """The folder of a sweep: `named` itself, or the only sweep in it if `named` is an output root."""
    within = sorted(path.parent for path in named.glob("sweeps/*/optuna.db"))
    if len(within) > 1:
        raise ConfigError(
            f"{named}: contains {len(within)} sweeps: name one of them, for example"
            f" {', '.join(str(path) for path in within[:5])}"
        )
    return within[0] if within else named


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.report")
