"""Memory of another worker group: a sweep with one group, compared with the same sweep with two.

    python benchmarks/memory.py [--repeats 3] [--trajectories 2000]

Runs `python -m jepa_ray.sweep` on sweeps/smoke.yaml with a larger Two Rooms dataset (2000 x 50: about 300 MB) as a
subprocess, alternately with one group and with two. Every half a second, a thread adds up the PSS of the sweep's
process and all its descendants, with Ray's daemons. PSS counts a page that k processes map as 1/k in each, so the sum
is the memory that the machine really uses. The cache of the dataset is created before the measurement.

Every process maps the cached frames from the same file. If the pages are shared, the PSS of these mappings, summed over
processes, never exceeds the size of the file, for any number of groups. Their RSS, summed in the same way, is the
memory that copies would need.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from spread import Spread, paired_ratios, show

from jepa_ray import cli
from jepa_ray.config import DataConfig, load_sweep_config
from jepa_ray.data.cache import ensure_cache

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "sweeps/smoke.yaml"
INTERVAL_S = 0.5
MB = 1e6


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Sweeps with each number of groups.")] = 3,
    trajectories: Annotated[int, typer.Option(min=20, help="Size of the data, in trajectories of 50 steps.")] = 2000,
) -> None:
    """Measure both sweeps and print their peaks."""
    console = cli.console()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        sets = small_trials(Path(folder), trajectories)
        frames = cached_frames(load_sweep_config(SPEC, sets).base.data)
        one: list[Peak] = []
        two: list[Peak] = []
        for repeat in range(repeats):
            for groups, peaks in ((1, one), (2, two)):
                output = Path(folder) / f"outputs-{groups}-{repeat}"
                peaks.append(peak_of_sweep(sets, groups, output, frames))
                console.print(f"{groups} group(s): {peaks[-1]}", highlight=False)
        report(console, one, two, frames.stat().st_size / MB)


def small_trials(folder: Path, trajectories: int) -> list[str]:
    """Settings of the sweep: much data, a small model, one epoch per trial. Every trial reads all of the data."""
    return [
        f"base.data.cache_dir={folder / 'cache'}",
        f"base.data.two_rooms.trajectories={trajectories}",
        "base.data.two_rooms.steps=50",
        "base.model.cnn.channels=[8, 16]",
        "base.training.batch_size=512",
        "early_stopping.grace_epochs=1",
        "early_stopping.max_epochs=1",
    ]


def cached_frames(data: DataConfig) -> Path:
    """The file that all processes map; it is created if it does not exist."""
    return ensure_cache(data) / "observation.npy"


def report(console: Console, one: list[Peak], two: list[Peak], size: float) -> None:
    extra = [b.total - a.total for a, b in zip(one, two, strict=True)]
    rows = {
        "1 group: peak PSS of all processes": Spread.of(peak.total for peak in one),
        "2 groups: peak PSS of all processes": Spread.of(peak.total for peak in two),
        "the second group": Spread.of(extra),
        "frames: size of the file": Spread.of([size]),
        "1 group: peak PSS of the frames": Spread.of(peak.frames for peak in one),
        "2 groups: peak PSS of the frames": Spread.of(peak.frames for peak in two),
        "2 groups: peak RSS of the frames": Spread.of(peak.frames_unshared for peak in two),
    }
    show(console, "memory, MB", rows, digits=0)
    ratios = {
        "peak, 2 groups / 1 group": paired_ratios([p.total for p in two], [p.total for p in one]),
        "frames: PSS / file, 1 group": Spread.of(p.frames / size for p in one),
        "frames: PSS / file, 2 groups": Spread.of(p.frames / size for p in two),
        "frames: RSS / file, 2 groups": Spread.of(p.frames_unshared / size for p in two),
    }
    show(console, "ratio per repeat", ratios, digits=2)


# -------------------------------------------------------------------------------------- measuring


@dataclass
class Peak:
    """The maximum of each quantity over time, in MB, summed over all processes of a sweep."""

    total: float = 0.0  # PSS
    processes: int = 0  # when total was at its peak
    frames: float = 0.0  # PSS of the mappings of the frames
    frames_unshared: float = 0.0  # RSS of the same mappings

    def __str__(self) -> str:
        return f"peak {self.total:,.0f} MB in {self.processes} processes, {self.frames:,.0f} MB of it the frames"

    def take(self, processes: list[psutil.Process], frames: Path) -> None:
        """Measure once, and update the maxima."""
        seen = [sizes for process in processes for sizes in sizes_of(process, frames)]
        total, mapped, unshared = (sum(column) / MB for column in zip(*seen, strict=True)) if seen else (0, 0, 0)
        if total > self.total:
            self.total, self.processes = total, len(seen)
        self.frames, self.frames_unshared = max(self.frames, mapped), max(self.frames_unshared, unshared)


def sizes_of(process: psutil.Process, frames: Path) -> Iterator[tuple[int, int, int]]:
    """PSS, and PSS and RSS of the mapped frames, in bytes; nothing for a process that has ended."""
    try:
        pss = process.memory_full_info().pss
        # Details of mappings are slow to read: only processes that map the frames are asked, to save CPU time.
        has_frames = str(frames) in Path(f"/proc/{process.pid}/maps").read_text()
        maps = [entry for entry in process.memory_maps() if entry.path == str(frames)] if has_frames else []
    except (psutil.Error, OSError):
        return
    yield pss, sum(entry.pss for entry in maps), sum(entry.rss for entry in maps)


def peak_of_sweep(sets: list[str], groups: int, output: Path, frames: Path) -> Peak:
    """Run a sweep to its end, and measure its memory meanwhile."""
    options = [part for setting in [*sets, f"resources.max_concurrent={groups}"] for part in ("--set", setting)]
    command = [sys.executable, "-m", "jepa_ray.sweep", str(SPEC), "--output", str(output), *options]
    peak, over = Peak(), threading.Event()
    sweep = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    watcher = threading.Thread(target=watch, args=(psutil.Process(sweep.pid), frames, peak, over))
    watcher.start()
    try:
        code = sweep.wait()
    finally:
        over.set()
        watcher.join()
        sweep.terminate()  # has no effect on a sweep that has ended
        sweep.wait()
    if code:
        raise SystemExit(f"the sweep failed with exit code {code}")
    assert peak.frames, ("the sweep mapped its frames from another file", frames)
    return peak


def watch(sweep: psutil.Process, frames: Path, peak: Peak, over: threading.Event) -> None:
    while not over.wait(INTERVAL_S):
        try:
            processes = [sweep, *sweep.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        peak.take(processes, frames)


if __name__ == "__main__":
    typer.run(main)
