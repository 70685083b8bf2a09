"""What the commands share: options, and how errors become one line and an exit code."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from jepa_ray.errors import JepaRayError

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Output root.")]


def console() -> Console:
    """A console on the real stdout, whatever is redirected later; wide where nobody's terminal sets the width."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)


def run(app: typer.Typer, prog: str) -> NoReturn:
    """Run a command line; exit 0 done, 1 failed, 2 bad input (one line on stderr), 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        code = app(prog_name=prog, standalone_mode=False)
    except JepaRayError as error:
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # not click's usage error: a bug, shown as one
            raise
        print(f"error: {error.format_message()}", file=sys.stderr)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def in_one_line(text: str) -> str:
    """`text`, with what does not print escaped: a name may hold line breaks, or codes that a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
