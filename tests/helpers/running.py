"""Commands of the package as real processes, and what they leave on disk."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml


def write(spec: dict[str, Any], folder: Path) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


class Running:
    """A command in a process group of its own, and every process it ever had."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the object)
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, stdout=self._printed, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.family: set[psutil.Process] = set()

    def look(self) -> set[psutil.Process]:
        """The processes it has now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            now = set(psutil.Process(self.process.pid).children(recursive=True))
            self.family |= now
            return now
        return set()

    def named(self, name: str) -> list[psutil.Process]:
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for(self, condition: Callable[[], Any], seconds: float = 400) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            self.look()
            if found := condition():
                return found
            time.sleep(0.1)
        raise AssertionError(f"it did not happen: {self.printed()}")

    def kill(self, process: int, sent: int = signal.SIGKILL) -> None:
        """Send a signal; no effect if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, sent)

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does: to the whole group

    def finish(self, code: int = 0, seconds: float = 480) -> str:
        """What it printed; asserts its exit code, and that no process of it is left."""
        assert self.wait(seconds) == code, self.printed()
        _, alive = psutil.wait_procs(self.family, timeout=10)
        assert [" ".join(p.cmdline()) for p in alive] == []
        return self.printed()

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it is still running after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.look()
            time.sleep(0.3)
        return self.process.poll()

    def printed(self) -> str:
        self._printed.seek(0)
        return self._printed.read()


def start(spec: Path, output: Path) -> Running:
    return Running("jepa_ray.sweep", str(spec), "--output", str(output))


def run(spec: Path, output: Path) -> str:
    return start(spec, output).finish()


def read_leaderboard(output: Path, name: str = "unit") -> pd.DataFrame:
    return pd.read_csv(output / "sweeps" / name / "leaderboard.csv")


def epochs_recorded(output: Path) -> int:
    path = output / "sweeps" / "unit" / "optuna.db"
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        try:
            return database.execute("SELECT count(*) FROM trial_intermediate_values").fetchone()[0]
        except sqlite3.OperationalError:
            return 0
