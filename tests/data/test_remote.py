"""Datasets at a URI: they are downloaded to build the cache, and only the cache is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from jepa_ray.config import DataConfig
from jepa_ray.data import remote
from jepa_ray.data.cache import CachedTrajectories, ensure_cache, load_trajectories
from jepa_ray.errors import DataError

Put = Callable[[Path], str]


@pytest.fixture
def put(tmp_path: Path) -> Iterator[Put]:
    """A function that copies a file or folder to an object store and returns its URI."""
    store, root = fsspec.filesystem("memory"), f"/{tmp_path.name}"

    def copy(path: Path) -> str:
        store.put(str(path), f"{root}/{path.name}", recursive=path.is_dir())
        return f"memory:/{root}/{path.name}"

    yield copy
    if store.exists(root):
        store.rm(root, recursive=True)


def config(path: str | Path, tmp_path: Path) -> DataConfig:
    return DataConfig.model_validate({"path": path, "cache_dir": tmp_path / "cache"})


def same(a: CachedTrajectories, b: CachedTrajectories) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("observation", "action", "lengths"))


def test_remote_file_gives_the_same_cache_as_a_local_file(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path
) -> None:
    path = canonical_h5()
    there = config(put(path), tmp_path)
    assert same(load_trajectories(there), load_trajectories(config(path, tmp_path)))
    assert not list((tmp_path / "cache").glob(".fetched*"))


def test_remote_folder_is_downloaded_with_all_files(put: Put, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, width in (("observations", 3), ("actions", 2)):
        np.save(folder / f"{name}.npy", rng.normal(size=(6, 9, width)).astype(np.float32))
    assert same(load_trajectories(config(put(folder), tmp_path)), load_trajectories(config(folder, tmp_path)))


def test_dataset_is_downloaded_once_and_again_after_a_change(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, real = [], remote.fetched_dataset
    monkeypatch.setattr(remote, "fetched_dataset", lambda uri, beside: fetched.append(uri) or real(uri, beside))
    there = config(put(canonical_h5()), tmp_path)
    first = ensure_cache(there)
    assert ensure_cache(there) == first
    assert len(fetched) == 1
    put(canonical_h5(lengths=(9, 9, 9)))
    assert ensure_cache(there) != first
    assert len(fetched) == 2


@pytest.mark.parametrize("name", ["none.h5", "none"])
def test_missing_dataset_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data.path memory://missing/{name}: there is no such file or folder"):
        ensure_cache(config(f"memory://missing/{name}", tmp_path))


def test_dataset_larger_than_the_disk_is_refused_before_the_download(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = config(put(canonical_h5()), tmp_path)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"needs 0.0 GB, but .* has 0.0 GB free"):
        ensure_cache(there)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_name_of_a_dataset_omits_the_query_of_its_uri() -> None:
    assert remote.dataset_name("s3://bucket/sets/walls.h5?endpoint_override=store:9000&scheme=http") == "walls.h5"
