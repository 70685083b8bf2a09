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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_ray.config import DataConfig
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


WRITERS: dict[str, Callable[[Path], None]] = {"canonical.h5": canonical}


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
