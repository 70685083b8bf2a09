from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_ray.config import DataConfig, TwoRoomsConfig
from jepa_ray.data import cache
from jepa_ray.data.cache import ensure_cache, load_trajectories
from jepa_ray.errors import DataError

MakeH5 = Callable[..., Path]

# For every parameter of the simulation, a value that differs from the default.
OTHER: dict[str, Any] = {
    "trajectories": 5,
    "steps": 4,
    "image_size": 16,
    "wall": "random",
    "dot_std": 1.0,
    "seed": 1,
}


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    rooms = TwoRoomsConfig(trajectories=4, steps=3)
    return DataConfig(builtin="two_rooms", two_rooms=rooms, cache_dir=tmp_path / "cache")


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


def whole_caches(root: Path) -> list[Path]:
    """Folders that `load_trajectories` would accept as a cache."""
    return [path for path in root.iterdir() if path.is_dir()]


def file_config(path: Path, root: Path, **more: Any) -> DataConfig:
    return DataConfig(path=path, cache_dir=root, **more)


# --------------------------------------------------------------------------------------- built once


def test_second_call_does_not_rewrite_the_cache(config: DataConfig) -> None:
    folder = ensure_cache(config)
    before = identities(folder)
    assert set(before) == {
        f"{name}.npy" for name in ("observation", "action", "state", "lengths", "offsets", "episode")
    }
    assert ensure_cache(config) == folder
    assert identities(folder) == before


def test_second_call_does_not_build_again(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_cache(config)
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("the cache was built again"))
    load_trajectories(config)


def test_columns_are_read_only_memory_maps(config: DataConfig) -> None:
    data = load_trajectories(config)
    for column in (data.observation, data.action, data.state):
        assert isinstance(column, np.memmap)
        assert column.mode == "r"
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0


def test_two_loads_map_the_same_file(config: DataConfig) -> None:
    first, second = load_trajectories(config).observation, load_trajectories(config).observation
    assert isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)
    assert first.filename == second.filename


def test_default_cache_folder_is_the_users_cache_folder(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert ensure_cache(config.model_copy(update={"cache_dir": None})).parent == tmp_path / "xdg" / "jepa_ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = ensure_cache(config.model_copy(update={"cache_dir": None}))
    assert folder.parent == tmp_path / "home" / ".cache" / "jepa_ray"


# -------------------------------------------------------------------------------------------- names


def test_name_of_a_cache_contains_the_parameters(config: DataConfig) -> None:
    rooms = TwoRoomsConfig(trajectories=4, steps=3, image_size=16, wall="random", seed=9)
    name = ensure_cache(config.model_copy(update={"two_rooms": rooms})).name
    for part in ("two_rooms", "random", "4x3", "16px", "seed9"):
        assert part in name


@pytest.mark.parametrize("parameter", TwoRoomsConfig.model_fields)
def test_every_parameter_of_the_simulation_gets_another_cache(config: DataConfig, parameter: str) -> None:
    other = config.two_rooms.model_copy(update={parameter: OTHER[parameter]})
    assert getattr(other, parameter) != getattr(config.two_rooms, parameter)
    assert ensure_cache(config.model_copy(update={"two_rooms": other})) != ensure_cache(config)


def test_split_does_not_change_the_cache(config: DataConfig) -> None:
    other = config.model_copy(update={"split_seed": 5, "val_fraction": 0.5})
    assert ensure_cache(other) == ensure_cache(config)


def test_changed_file_is_read_again(canonical_h5: MakeH5, tmp_path: Path) -> None:
    first = ensure_cache(file_config(canonical_h5(seed=0), tmp_path / "cache"))
    path = canonical_h5(seed=1)  # same name and size as the first file
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    second = ensure_cache(file_config(path, tmp_path / "cache"))
    assert first != second
    assert not np.array_equal(np.load(first / "action.npy"), np.load(second / "action.npy"))


def test_files_of_the_same_name_have_different_caches(canonical_h5: MakeH5, tmp_path: Path) -> None:
    path = canonical_h5()
    (tmp_path / "other").mkdir()
    moved = tmp_path / "other" / path.name
    os.link(path, moved)
    assert ensure_cache(file_config(path, tmp_path / "cache")) != ensure_cache(file_config(moved, tmp_path / "cache"))


def test_another_column_gets_another_cache(canonical_h5: MakeH5, tmp_path: Path) -> None:
    path = canonical_h5(columns={"observation": np.zeros((22, 2), np.float32)})
    pixels, vectors = (
        load_trajectories(file_config(path, tmp_path / "cache", observation=name)) for name in (None, "observation")
    )
    assert (pixels.observation.shape[1:], vectors.observation.shape[1:]) == ((16, 16, 3), (2,))


def test_names_that_differ_after_a_dot_have_different_caches(canonical_h5: MakeH5, tmp_path: Path) -> None:
    """Using `with_suffix` on "data.v1-..." would cut the name at the dot."""
    paths = [canonical_h5(name, seed=seed) for seed, name in enumerate(("data.v1.h5", "data.v2.h5"))]
    folders = [ensure_cache(file_config(path, tmp_path / "cache")) for path in paths]
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == ["data.v1", "data.v2"]
    assert sorted(whole_caches(tmp_path / "cache")) == sorted(folders)


# ----------------------------------------------------------------------------------------- failures


def test_refused_data_leaves_no_cache_and_no_partial(canonical_h5: MakeH5, tmp_path: Path) -> None:
    action = np.zeros((22, 2), np.float32)
    action[1] = np.nan
    broken = file_config(canonical_h5(columns={"action": action}), tmp_path / "cache")
    for _ in range(2):  # the second attempt must not find leftovers of the first
        with pytest.raises(DataError, match="action is not finite"):
            ensure_cache(broken)
        assert whole_caches(tmp_path / "cache") == []
        assert list((tmp_path / "cache").glob("*.partial")) == []


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_memmap(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", open_memmap)


def test_full_disk_leaves_nothing_and_names_the_cache(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    with pytest.raises(DataError, match=r"the cache cannot be written .*No space left"):
        ensure_cache(config)
    assert config.cache_dir is not None
    assert whole_caches(config.cache_dir) == []


def test_full_disk_is_not_blamed_on_the_source_file(
    canonical_h5: MakeH5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = canonical_h5()
    fill_disk(monkeypatch)
    with pytest.raises(DataError, match=r"the cache cannot be written .*No space left"):
        ensure_cache(file_config(path, tmp_path / "cache"))
    assert whole_caches(tmp_path / "cache") == []


def test_cache_folder_that_cannot_be_made_is_a_data_error(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the cache cannot be written"):
        ensure_cache(config.model_copy(update={"cache_dir": tmp_path / "file" / "cache"}))


def test_leftover_of_a_killed_process_is_not_read(config: DataConfig) -> None:
    folder = ensure_cache(config)
    complete = {file.name: file.read_bytes() for file in folder.iterdir()}
    partial = folder.with_suffix(".partial")
    folder.rename(partial)  # the state after a process died before the rename
    (partial / "observation.npy").write_bytes(b"half")  # a partly written column
    (partial / "junk.npy").touch()
    assert ensure_cache(config) == folder
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == complete


# -------------------------------------------------------------------------------------- concurrency


def build_beside_another(config: DataConfig, log: Path, ready: Path, other: Path) -> tuple[Path, int]:
    """Request the cache once both processes are ready; each build is slow, and is recorded in `log`."""
    build = cache._build

    def slow_build(*args: Any) -> None:
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.3)
        build(*args)

    cache._build = slow_build  # type: ignore[assignment]  # in this process only
    ready.touch()
    deadline = time.monotonic() + 60
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return ensure_cache(config), int(load_trajectories(config).observation.sum())


def test_two_concurrent_processes_build_the_cache_once(config: DataConfig, tmp_path: Path) -> None:
    log, ready = tmp_path / "log", [tmp_path / "ready-0", tmp_path / "ready-1"]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(build_beside_another, config, log, ready[i], ready[1 - i]) for i in range(2)]
        (first, first_sum), (second, second_sum) = (job.result(timeout=120) for job in jobs)
    assert first == second
    assert first_sum == second_sum > 0
    assert log.read_text() == "built\n"
    assert whole_caches(first.parent) == [first]
