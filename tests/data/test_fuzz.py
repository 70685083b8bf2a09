"""Damaged files of every format: each is read or refused in one line, whatever byte is wrong.

`JEPA_RAY_FUZZ=2000 pytest tests/data/test_fuzz.py` tries so many for each kind of file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import load_trajectories
from jepa_ray.data.convert import convert
from jepa_ray.data.formats import open_recording
from jepa_ray.data.selection import select
from jepa_ray.errors import DataError

CASES = int(os.environ.get("JEPA_RAY_FUZZ", "60"))
LENGTHS = (5, 7, 4)
ROWS = sum(LENGTHS)


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": rng.normal(size=(ROWS, 2)).astype(np.float32),
        "terminals": np.isin(np.arange(ROWS), np.cumsum(LENGTHS) - 1),
    }


def canonical(path: Path) -> None:
    made = columns()
    with h5py.File(path, "w") as file:
        file.create_dataset("observation", data=made["observations"], chunks=(4, 3), compression="gzip")
        file["action"] = made["actions"]
        file["ep_len"] = np.array(LENGTHS, np.int32)
        file["ep_offset"] = np.cumsum((0, *LENGTHS[:-1]))


def d4rl(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns().items():
            file[name] = values


def ogbench(path: Path) -> None:
    np.savez_compressed(path, allow_pickle=False, **columns())


def arrays(path: Path) -> None:
    made = columns()
    np.savez(path, allow_pickle=False, obs=made["observations"], action=made["actions"], ep_len=np.array(LENGTHS))


def transitions(path: Path) -> None:
    made = columns()
    kept = np.flatnonzero(~made["terminals"])
    rows = {
        "state": made["observations"][kept],
        "action": made["actions"][kept],
        "next_state": made["observations"][kept + 1],
    }
    torch.save({name: torch.from_numpy(values) for name, values in rows.items()}, path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "canonical.h5": canonical,
    "d4rl.hdf5": d4rl,
    "ogbench.npz": ogbench,
    "arrays.npz": arrays,
    "transitions.pt": transitions,
}


def read_all(path: Path) -> None:
    with open_recording(path) as recording:
        selection = select(recording, DataConfig(path=path))
        for column in selection.trajectories.columns().values():
            assert len(column[slice(0, column.shape[0])]) == column.shape[0]


@pytest.fixture(scope="module", params=WRITERS)
def healthy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / request.param
    WRITERS[request.param](path)
    read_all(path)
    return path


damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damage, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_damage_is_refused_in_one_line_or_does_no_harm(
    healthy: Path, damage: list[tuple[float, int]], keep: float
) -> None:
    content = bytearray(healthy.read_bytes())
    for place, value in damage:
        content[int(place * len(content))] = value
    path = healthy.with_name(f"damaged-{healthy.name}")
    path.write_bytes(content[: int(keep * len(content))])
    try:
        read_all(path)
    except DataError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message
    assert str(path) in message


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_trajectories(tmp_path: Path, name: str) -> None:
    """The control: undamaged, all of them hold the same numbers, and so does what is converted from them."""
    WRITERS[name](tmp_path / name)
    convert(tmp_path / name, tmp_path / "converted.h5")
    made = columns()
    used = np.flatnonzero(~made["terminals"])
    for path in (tmp_path / name, tmp_path / "converted.h5"):
        data = load_trajectories(DataConfig(path=path, cache_dir=tmp_path / "cache"))
        assert data.lengths.tolist() == list(LENGTHS)
        np.testing.assert_array_equal(data.observation, made["observations"])
        np.testing.assert_array_equal(data.action[used], made["actions"][used])
