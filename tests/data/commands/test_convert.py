"""Conversion to canonical HDF5: values are exact, also after a kill and a restart."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import load_trajectories
from jepa_ray.data.commands.convert import convert
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import DataError

MakeH5 = Callable[..., Path]

# Writes parts of 16 rows or fewer, and kills itself with SIGKILL when two parts exist.
KILLED = """
import os, signal, sys
from pathlib import Path
from jepa_ray.data.commands import convert as module
module.PART_BYTES = 1 << 12
def progress(done, total):
    if done == 2 and total > 3:
        os.kill(os.getpid(), signal.SIGKILL)
module.convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lengths = np.array([13, 7, 20, 11, 9, 30], np.int32)
    offsets, rows = np.cumsum(lengths, dtype=np.int64) - lengths, int(lengths.sum())
    action = rng.normal(size=(rows, 2))
    action[offsets + lengths - 1] = np.nan
    with h5py.File(tmp_path / "source.h5", "w") as file:
        file["pixels"] = rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
        file["action"], file["state"] = action, rng.normal(size=(rows, 3))
        file["ep_len"], file["ep_offset"] = lengths, offsets
    return tmp_path / "source.h5"


def read(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values.dtype == other[name].dtype, name
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_round_trip_is_exact(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out.h5")
    assert_same(read(source), read(tmp_path / "out.h5"))
    assert not (tmp_path / "out.h5.partial").exists()


def test_frameskip_and_grayscale_equal_a_loop_over_rows(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out.h5", frameskip=3, grayscale=True)
    old, new = read(source), read(tmp_path / "out.h5")
    row = 0
    for start, length in zip(old["ep_offset"], old["ep_len"], strict=True):
        for frame in range(start, start + length, 3):
            rows = [min(frame + k, start + length - 1) for k in range(3)]
            np.testing.assert_array_equal(new["action"][row], np.concatenate([old["action"][r] for r in rows]))
            np.testing.assert_array_equal(new["state"][row], old["state"][frame])
            luma = old["pixels"][frame] @ np.array([0.299, 0.587, 0.114])
            assert np.abs(new["pixels"][row, ..., 0] - luma).max() <= 0.51
            row += 1
    assert row == len(new["state"]) == new["ep_len"].sum()


def test_conversion_resumes_after_a_kill(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.h5"
    died = subprocess.run([sys.executable, "-c", KILLED, str(source), str(out)], check=False)
    assert died.returncode == -signal.SIGKILL
    parts = sorted((tmp_path / "out.h5.partial").glob("*.h5"))
    assert len(parts) == 2
    assert not out.exists()
    before = [part.stat().st_mtime_ns for part in parts]
    monkeypatch.setattr("jepa_ray.data.commands.convert.PART_BYTES", 1 << 12)
    seen: list[list[int]] = []
    convert(source, out, progress=lambda done, total: seen.append([part.stat().st_mtime_ns for part in parts]))
    assert seen[0] == seen[-1] == before
    assert_same(read(source), read(out))


def test_full_disk_stops_the_conversion_and_keeps_finished_parts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.h5"
    monkeypatch.setattr("jepa_ray.data.commands.convert.PART_BYTES", 1 << 12)
    real = shutil.disk_usage(tmp_path)
    free = iter([real.free, real.free])  # free space before the first and the second part; then the disk is full
    monkeypatch.setattr("shutil.disk_usage", lambda _: real._replace(free=next(free, 0)))
    with pytest.raises(DataError, match=r"needs 0\.0 GB of free disk space, but the disk has 0\.0 GB"):
        convert(source, out)
    assert len(list((tmp_path / "out.h5.partial").glob("*.h5"))) == 2
    monkeypatch.undo()
    monkeypatch.setattr("jepa_ray.data.commands.convert.PART_BYTES", 1 << 12)
    convert(source, out)
    assert_same(read(source), read(out))


def test_datasets_own_split_is_kept(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "r+") as file:
        file["ep_held_out"] = np.arange(6) >= 4
    convert(source, tmp_path / "out.h5", frameskip=2)
    config = DataConfig(path=tmp_path / "out.h5", val_fraction=None, cache_dir=tmp_path / "cache")
    assert TrajectoryDataset.from_config(config, torch.device("cpu")).val_lengths.tolist() == [5, 15]


@pytest.mark.parametrize("flags", [np.zeros(5, bool), np.zeros(6, np.int8)])
def test_invalid_split_is_refused(source: Path, tmp_path: Path, flags: np.ndarray) -> None:
    with h5py.File(source, "r+") as file:
        file["ep_held_out"] = flags
    with pytest.raises(DataError, match=r"ep_held_out has shape .* but must be \(6,\) bool"):
        convert(source, tmp_path / "out.h5")


def test_changed_source_discards_parts(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    died = subprocess.run([sys.executable, "-c", KILLED, str(source), str(out)], check=False)
    assert died.returncode == -signal.SIGKILL
    with h5py.File(source, "r+") as file:
        file["state"][0] = 7
    os.utime(source)
    convert(source, out)
    assert_same(read(source), read(out))


def test_invalid_arguments_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is the source itself"):
        convert(source, source)
    with pytest.raises(DataError, match="lacks the column nothing"):
        convert(source, tmp_path / "out.h5", keys=["nothing"])
    with pytest.raises(DataError, match="is not a valid column name"):
        convert(source, tmp_path / "out.h5", keys=["../x"])
    (tmp_path / "out.h5").touch()
    with pytest.raises(DataError, match="already exists"):
        convert(source, tmp_path / "out.h5")


def test_conversion_killed_after_the_rename_only_removes_its_parts(canonical_h5: MakeH5, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    convert(canonical_h5(), out)
    written = out.read_bytes()
    (tmp_path / "out.h5.partial").mkdir()  # the state after a conversion died before it removed its parts
    convert(canonical_h5(), out)
    assert out.read_bytes() == written
    assert not (tmp_path / "out.h5.partial").exists()
    with pytest.raises(DataError, match="already exists"):
        convert(canonical_h5(), out)


def test_previous_actions_are_written_as_next(canonical_h5: MakeH5, tmp_path: Path) -> None:
    action = np.arange(44, dtype=np.float32).reshape(22, 2)
    source = canonical_h5(columns={"action": action})
    convert(source, tmp_path / "out.h5", action_alignment="previous")
    with h5py.File(tmp_path / "out.h5") as file:
        used = np.setdiff1d(np.arange(22), np.cumsum((5, 7, 4, 6)) - 1)
        np.testing.assert_array_equal(file["action"][()][used], action[used + 1])


def test_resized_frames_equal_those_of_training(canonical_h5: MakeH5, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (22, 16, 20, 3), np.uint8)
    source = canonical_h5(columns={"pixels": pixels})
    convert(source, tmp_path / "out.h5", resize=(8, 10), grayscale=True)
    settings = DataConfig(path=source, resize=(8, 10), grayscale=True, cache_dir=tmp_path / "cache")
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["pixels"][()], load_trajectories(settings).observation)


@pytest.mark.parametrize("keys", [[], ["depth"], ["../pixels"], ["/pixels"]])
def test_missing_columns_are_refused(canonical_h5: MakeH5, tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(DataError):
        convert(canonical_h5(), tmp_path / "out.h5", keys=keys)
    assert not (tmp_path / "out.h5").exists()
