"""The startup status: shown before anything heavy is imported, and while the start lasts."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from jepa_ray.cli import StartupStatus
from jepa_ray.config import TrainConfig

# Runs a command as `python -m` does. The first import of torch or Ray prints its name and ends the process.
UNTIL_HEAVY_IMPORT = """
import runpy, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "ray"):
            print("imports", name, flush=True)
            raise SystemExit(3)

sys.meta_path.insert(0, Stop())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def lines_until_heavy_import(module: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", UNTIL_HEAVY_IMPORT, module, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 3, ended
    return ended.stdout.splitlines()


class TestCommands:
    @pytest.fixture
    def config(self, train_config: TrainConfig, tmp_path: Path) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(train_config.to_dict()))
        return path

    def test_a_sweep_shows_what_it_loads_before_it_loads_it(self, config: Path, tmp_path: Path) -> None:
        spec = {"name": "unit", "base": str(config), "space": {"training.ema_decay": [0.9, 0.99]}}
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(spec))
        first, second = lines_until_heavy_import("jepa_ray.sweep", str(path), "--output", str(tmp_path / "out"))
        assert first == "loading torch and Ray ... 0 s"
        assert second.startswith("imports ")

    def test_a_single_run_shows_what_it_loads_before_it_loads_it(self, config: Path, tmp_path: Path) -> None:
        arguments = ("--config", str(config), "--output", str(tmp_path / "out"))
        first, second = lines_until_heavy_import("jepa_ray.train", *arguments)
        assert first == "loading torch and Ray ... 0 s"
        assert second.startswith("imports ")


class TestStartupStatus:
    def test_each_stage_is_a_line_with_the_time_since_the_start(self) -> None:
        seconds, printed = 100.0, io.StringIO()
        with StartupStatus(Console(file=printed), now=lambda: seconds) as startup:
            startup.show("loading torch and Ray")
            seconds = 112.0
            startup.show("preparing the dataset")
        assert printed.getvalue().splitlines() == ["loading torch and Ray ... 0 s", "preparing the dataset ... 12 s"]

    def test_a_stage_that_lasts_is_repeated_until_the_status_is_closed(self) -> None:
        printed = io.StringIO()
        with StartupStatus(Console(file=printed), interval=0.01) as startup:
            startup.show("starting the worker group")
            deadline = time.monotonic() + 30
            while printed.getvalue().count("starting the worker group ... ") < 3:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        time.sleep(0.1)
        after = printed.getvalue()
        startup.show("too late")
        time.sleep(0.1)
        assert printed.getvalue() == after

    def test_a_terminal_shows_one_line_which_is_removed(self) -> None:
        printed = io.StringIO()
        console = Console(file=printed, force_terminal=True, width=80)
        with StartupStatus(console, now=lambda: 7.0) as startup:
            startup.show("loading torch and Ray")
            startup.show("preparing the dataset")
            shown = printed.getvalue()
            assert "loading torch and Ray ... 0 s" in shown
            assert sys.stdout is not console.file
        assert printed.getvalue() != shown
        assert printed.getvalue().rstrip("\n").endswith("\x1b[2K")  # the line is erased
