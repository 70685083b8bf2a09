"""What the commands share: options, and how errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer
from rich.console import Console
from rich.text import Text

from jepa_ray import secrets
from jepa_ray.errors import JepaRayError

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Output root.")]


MAX_ERROR_LENGTH = 2000  # characters: a hostile value may be a megabyte


class MaskingConsole(Console):
    """Masks texts before they are coloured, wrapped and cut: a value in pieces would not be found any more."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(secrets.mask(text), **options)


def console() -> Console:
    """A console on the real stdout, whatever is redirected later; wide where nobody's terminal sets the width."""
    return MaskingConsole(file=sys.stdout, width=None if sys.stdout.isatty() else 160)


def run(app: typer.Typer, prog: str) -> NoReturn:
    """Run a command line; exit 0 done, 1 failed, 2 bad input (one line on stderr), 130 interrupted.

    No secret that is known is printed, also not in the traceback of a bug, which ends with 1.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    out, err = (cast(TextIO, secrets.Masked(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run(app, prog)
    sys.exit(code)


def _run(app: typer.Typer, prog: str) -> int:
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
        if hasattr(error, "format_message"):  # click's usage error
            print(f"error: {in_one_line(error.format_message())}", file=sys.stderr)
            return 2
        traceback.print_exc()  # a bug, shown as one
        return 1
    return code if isinstance(code, int) else 0


def in_one_line(text: str) -> str:
    """`text`, with what does not print escaped: a name may hold line breaks, or codes that a terminal obeys."""
    text = secrets.mask(text)
    if len(text) > MAX_ERROR_LENGTH:
        text = f"{text[:MAX_ERROR_LENGTH]}... ({len(text):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
