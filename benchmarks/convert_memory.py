"""Peak memory of `convert` on a large dataset, and the cost of a kill in the middle of a conversion.

    python benchmarks/convert_memory.py [--gigabytes 4] [--layout hdf5]

Writes a synthetic dataset of 64-px frames, runs `python -m jepa_ray.data convert` on it, kills it (SIGKILL) when half
of the parts are written, runs it again, and compares the result with the dataset row by row. Then converts the
dataset once more in grayscale, at half the size, with every second row. Memory is the peak resident set size of the
process, including mapped files, as reported by the kernel when the process ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import h5py
import numpy as np
import typer
from numpy.typing import NDArray

SIDE, EPISODE, ACTIONS = 64, 256, 2
ROW_BYTES = SIDE * SIDE * 3


class Layout(StrEnum):
    """The format of the source."""

    HDF5 = "hdf5"  # canonical HDF5, uncompressed chunks of one row
    ARRAYS = "arrays"  # a folder of .npy files
    OGBENCH = "ogbench"  # one .npz file with compressed members


@dataclass(frozen=True)
class Run:
    """The result of one process of `convert`."""

    code: int  # exit code; negative for a signal
    seconds: float
    peak: int  # peak resident set size in bytes


def main(
    gigabytes: Annotated[float, typer.Option(min=0.05, help="Size of the frames.")] = 4.0,
    layout: Annotated[Layout, typer.Option(help="Format of the source.")] = Layout.HDF5,
) -> None:
    """Run the measurement and print the results."""
    episodes = int(gigabytes * 1e9 / ROW_BYTES / EPISODE)
    with tempfile.TemporaryDirectory(prefix="convert-") as name:
        folder = Path(name)
        source, target = folder / f"source{SUFFIX[layout]}", folder / "target.h5"
        WRITERS[layout](source, episodes)
        print(f"{layout}: {episodes:,} episodes, {episodes * EPISODE * ROW_BYTES / 1e9:.2f} GB of frames", flush=True)
        parts = target.with_name(target.name + ".partial")
        all_parts = -(-episodes * EPISODE * ROW_BYTES // (256 << 20))
        killed = convert(source, target, kill_when=lambda: len(list(parts.glob("*.h5"))) >= all_parts / 2)
        assert killed.code == -signal.SIGKILL, killed
        assert not target.exists()
        report(f"killed with {len(list(parts.glob('*.h5')))} parts written", killed)
        report("run again", again := convert(source, target))
        assert again.code == 0, again
        assert not parts.exists()
        differing = sum(not matches(target, episode) for episode in range(episodes))
        print(f"episodes that differ from the source: {differing} of {episodes:,}", flush=True)
        smaller = convert(source, folder / "small.h5", "--resize", "32", "--grayscale", "--frameskip", "2")
        assert smaller.code == 0, smaller
        report("grayscale, 32 px, every second row", smaller)


def report(what: str, run: Run) -> None:
    print(f"{what}: {run.seconds:.0f} s, peak {run.peak / 1e9:.2f} GB", flush=True)


def convert(source: Path, target: Path, *options: str, kill_when: Callable[[], bool] = lambda: False) -> Run:
    """Run the command in a process, and kill it as soon as `kill_when` returns True."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "jepa_ray.data", "convert", str(source), str(target), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return Run(process.returncode, time.perf_counter() - started, usage.ru_maxrss * 1024)
        if kill_when():
            process.kill()
        time.sleep(0.05)


def episode_of(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Frames (T, H, W, C) that compress about as well as rendered frames, and actions (T, A); `number` is the seed."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (EPISODE, SIDE // 4, SIDE // 4, 3), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2), rng.normal(size=(EPISODE, ACTIONS)).astype(np.float32)


def matches(target: Path, number: int) -> bool:
    """Whether an episode of the target equals its source, except for the unused last action."""
    frames, actions = episode_of(number)
    rows = slice(number * EPISODE, (number + 1) * EPISODE)
    with h5py.File(target) as file:
        pixels = file["pixels" if "pixels" in file else "observation"]
        return bool(
            file["ep_offset"][number] == rows.start
            and file["ep_len"][number] == EPISODE
            and np.array_equal(pixels[rows], frames)
            and np.array_equal(file["action"][rows][:-1], actions[:-1])
        )


def write_hdf5(path: Path, episodes: int) -> None:
    rows = episodes * EPISODE
    with h5py.File(path, "w") as file:
        pixels = file.create_dataset("pixels", (rows, SIDE, SIDE, 3), np.uint8, chunks=(1, SIDE, SIDE, 3))
        action = file.create_dataset("action", (rows, ACTIONS), np.float32)
        for number in range(episodes):
            part = slice(number * EPISODE, (number + 1) * EPISODE)
            pixels[part], action[part] = episode_of(number)
        file["ep_len"] = np.full(episodes, EPISODE, np.int32)
        file["ep_offset"] = np.arange(episodes, dtype=np.int64) * EPISODE


def write_arrays(path: Path, episodes: int) -> None:
    path.mkdir()
    for name, dtype, tail, part in (
        ("pixels", np.uint8, (SIDE, SIDE, 3), lambda number: episode_of(number)[0]),
        ("action", np.float32, (ACTIONS,), lambda number: episode_of(number)[1]),
    ):
        with (path / f"{name}.npy").open("wb") as out:
            write_npy(out, dtype, tail, episodes, part)
    np.save(path / "ep_len.npy", np.full(episodes, EPISODE))


def write_ogbench(path: Path, episodes: int) -> None:
    ends = (np.arange(EPISODE) == EPISODE - 1).astype(np.float32)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, dtype, tail, part in (
            ("observations", np.uint8, (SIDE, SIDE, 3), lambda number: episode_of(number)[0]),
            ("actions", np.float32, (ACTIONS,), lambda number: episode_of(number)[1]),
            ("terminals", np.float32, (), lambda number: ends),
        ):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                write_npy(out, dtype, tail, episodes, part)


def write_npy(
    out: IO[bytes], dtype: type, tail: tuple[int, ...], episodes: int, part: Callable[[int], NDArray[np.generic]]
) -> None:
    """Write an array episode by episode; mapped pages would count as memory of this process and its children."""
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (episodes * EPISODE, *tail)}
    np.lib.format.write_array_header_1_0(out, header)
    for number in range(episodes):
        out.write(part(number).tobytes())


SUFFIX = {Layout.HDF5: ".h5", Layout.ARRAYS: "", Layout.OGBENCH: ".npz"}
WRITERS: dict[Layout, Callable[[Path, int], None]] = {
    Layout.HDF5: write_hdf5,
    Layout.ARRAYS: write_arrays,
    Layout.OGBENCH: write_ogbench,
}


if __name__ == "__main__":
    typer.run(main)
