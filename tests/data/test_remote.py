"""A dataset that a URI names: fetched for the cache, and nothing of it is kept beside that."""

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
    """Copies a file or folder to a store, and says its URI."""
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


def test_a_file_gives_the_cache_that_it_gives_on_disk(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path
) -> None:
    path = canonical_h5()
    there = config(put(path), tmp_path)
    assert same(load_trajectories(there), load_trajectories(config(path, tmp_path)))
    assert not list((tmp_path / "cache").glob(".fetched*"))


def test_a_folder_comes_with_all_its_files(put: Put, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, width in (("observations", 3), ("actions", 2)):
        np.save(folder / f"{name}.npy", rng.normal(size=(6, 9, width)).astype(np.float32))
    assert same(load_trajectories(config(put(folder), tmp_path)), load_trajectories(config(folder, tmp_path)))


def test_it_is_fetched_once_and_again_when_it_changed(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, real = [], remote.fetched
    monkeypatch.setattr(remote, "fetched", lambda uri, beside: fetched.append(uri) or real(uri, beside))
    there = config(put(canonical_h5()), tmp_path)
    first = ensure_cache(there)
    assert ensure_cache(there) == first
    assert len(fetched) == 1
    put(canonical_h5(lengths=(9, 9, 9)))
    assert ensure_cache(there) != first
    assert len(fetched) == 2


@pytest.mark.parametrize("name", ["none.h5", "none"])
def test_what_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"data.path memory://nobody/{name}: there is no such file or folder"):
        ensure_cache(config(f"memory://nobody/{name}", tmp_path))


def test_what_has_no_room_is_refused_before_it_is_fetched(
    canonical_h5: Callable[..., Path], put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = config(put(canonical_h5()), tmp_path)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"takes 0.0 GB, but .* has 0.0 GB free"):
        ensure_cache(there)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_query_of_a_uri_is_not_in_the_name() -> None:
    assert remote.name_of("s3://bucket/sets/walls.h5?endpoint_override=store:9000&scheme=http") == "walls.h5"
