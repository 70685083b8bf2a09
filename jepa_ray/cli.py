"""Common parts of the commands: options, the console, and the conversion of errors to one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self, TextIO, cast

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from jepa_ray import secrets
from jepa_ray.errors import JepaRayError

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override the value of a dotted key; may be repeated."),
]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Output root: the folder of all results.")]


MAX_ERROR_LENGTH = 2000  # characters of a message, which may contain a very long value


class MaskingConsole(Console):
    """A console that masks secrets before a text is styled and wrapped, which could split a secret in two."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(secrets.mask(text), **options)


def console() -> Console:
    """A console on the present stdout, even if it is redirected later; 160 columns wide unless it is a terminal."""
    return MaskingConsole(file=sys.stdout, width=None if sys.stdout.isatty() else 160)


def make_status_line(console: Console, text: Callable[[], str]) -> Live:
    """A line at the bottom of a terminal that shows `text()` until it is stopped.

    Unlike rich's `Status`, it does not redirect `sys.stdout`, since Ray's messages would then appear in the terminal.
    """
    spinner = Spinner("dots")

    def draw() -> Spinner:
        spinner.update(text=Text(text()))
        return spinner

    return Live(
        get_renderable=draw,
        console=console,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


class StartupStatus:
    """Shows what a command is starting and for how many seconds it has been running, until it is closed.

    On a terminal this is a status line. Elsewhere each stage is a line of its own, which is repeated every `interval`
    seconds while the stage lasts. Start it before the slow imports.
    """

    def __init__(self, console: Console, *, interval: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        self._console, self._interval, self._now = console, interval, now
        self._started, self._stage = now(), ""
        self._line = make_status_line(console, self._describe)
        self._changed, self._closed = threading.Event(), False
        self._repeating = threading.Thread(target=self._repeat, name="startup status", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def show(self, stage: str) -> None:
        """Begin a stage, such as "preparing the dataset"; has no effect after `close`."""
        if self._closed:
            return
        self._stage = stage
        if self._console.is_terminal:
            self._line.start(refresh=True)
            return
        self._print()
        self._changed.set()
        if self._repeating.ident is None:
            self._repeating.start()

    def close(self) -> None:
        """Remove the status line; calling it twice has no further effect."""
        self._closed = True
        self._changed.set()
        self._line.stop()

    def _describe(self) -> str:
        return f"{self._stage} ... {self._now() - self._started:.0f} s"

    def _print(self) -> None:
        self._console.print(self._describe(), highlight=False, markup=False, soft_wrap=True)

    def _repeat(self) -> None:
        """Print the current stage again whenever nothing has changed for `interval` seconds."""
        while not self._closed:
            self._changed.clear()
            if not self._changed.wait(self._interval) and not self._closed:
                self._print()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While this lasts, SIGTERM has the effect of Ctrl-C, also on a library that handles SIGINT itself."""
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(app: typer.Typer, prog: str) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 bad input (with one line on stderr), 130 interrupted.

    A bug is shown with its traceback, and exits with 1. Known secrets are masked everywhere, also in tracebacks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may contain bytes that are not text
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
        traceback.print_exc()  # a bug
        return 1
    return code if isinstance(code, int) else 0


def in_one_line(text: str) -> str:
    """`text` with secrets masked and unprintable characters escaped, such as line breaks and terminal control codes."""
    text = secrets.mask(text)
    if len(text) > MAX_ERROR_LENGTH:
        text = f"{text[:MAX_ERROR_LENGTH]}... ({len(text):,} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
