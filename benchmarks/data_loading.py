"""Batches per second of the memory-mapped cache and of an HDF5 reader in a DataLoader, on the same data.

    python benchmarks/data_loading.py [--rounds 5] [--seconds 3]

The HDF5 reader works like that of stable-worldmodel 0.1.1: one HDF5 file with uncompressed chunks of one row, opened by
each of 2 worker processes; a sample is a window of two frames and its action; samples are shuffled. The two are timed
alternately in one process, after a warm-up. The script prints the median and the range of the ratio over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from jepa_ray.config import DataConfig
from jepa_ray.data.dataset import TrajectoryDataset

BATCH, WORKERS, EPISODE = 64, 2, 100


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of two rows, read from the file by slicing, one per sample."""

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self.path, self.rows = path, rows
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path, "r", swmr=True, rdcc_nbytes=256 << 20)
        row = int(self.rows[index])
        frames = torch.from_numpy(self.file["pixels"][row : row + 2]).permute(0, 3, 1, 2)
        return {"pixels": frames, "action": torch.from_numpy(self.file["action"][row : row + 1])}


def write(path: Path, size: int, episodes: int) -> None:
    rng = np.random.default_rng(0)
    rows = episodes * EPISODE
    with h5py.File(path, "w") as file:
        shape = (rows, size, size, 3)
        pixels = file.create_dataset("pixels", shape, np.uint8, chunks=(1, *shape[1:]))
        for start in range(0, rows, EPISODE):
            pixels[start : start + EPISODE] = rng.integers(0, 256, (EPISODE, *shape[1:]), np.uint8)
        file["action"] = rng.normal(size=(rows, 2)).astype(np.float32)
        file["ep_len"] = np.full(episodes, EPISODE, np.int32)
        file["ep_offset"] = np.arange(episodes, dtype=np.int64) * EPISODE


def endless(make: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from make()


def rate(batches: Iterator[Any], seconds: float) -> float:
    """Batches per second over about `seconds`."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(batches)
        count += 1
    return count / (time.perf_counter() - started)


def copies(batch_bytes: int) -> Iterator[None]:
    """Copy the bytes of one batch from random places in an array larger than the CPU's caches: the memory's limit."""
    source = np.zeros(1 << 30, np.uint8)
    source[:: 1 << 12] = 1
    target = np.empty(batch_bytes, np.uint8)
    rng = np.random.default_rng(0)
    while True:
        start = int(rng.integers(0, len(source) - batch_bytes))
        np.copyto(target, source[start : start + batch_bytes])
        yield


def measure(size: int, episodes: int, rounds: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.h5"
        write(path, size, episodes)
        dataset = TrajectoryDataset.from_config(
            DataConfig(path=path, cache_dir=Path(folder), action_alignment="next"), torch.device("cpu")
        )
        rows = dataset.train_index
        generator = torch.Generator().manual_seed(0)

        def from_cache() -> Iterator[Any]:
            order = rows[torch.randperm(len(rows), generator=generator)]
            return (dataset.batch(part) for part in order.split(BATCH))

        loader = DataLoader(
            Windows(path, rows.numpy()), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
        )
        sides = {"cache": endless(from_cache), "DataLoader": endless(lambda: loader)}
        limit = copies(2 * BATCH * size * size * 3)
        for batches in (*sides.values(), limit):
            rate(batches, 1)
        pairs = [[rate(batches, seconds) for batches in (*sides.values(), limit)] for _ in range(rounds)]
        ratios = [cache / other for cache, other, _ in pairs]
        cache, other, copied = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{size:>3} px, {len(rows):,} windows: cache {cache:,.0f} batches/s, DataLoader {other:,.1f};"
            f" ratio {statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}];"
            f" a plain copy of the same number of bytes {copied:,.0f}/s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    measure(64, 200, arguments.rounds, arguments.seconds)
    measure(224, 60, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
