from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_ray.data.formats.npz import members
from jepa_ray.errors import DataError


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_slices_forward_and_backward_equal_numpys(tmp_path: Path, save) -> None:
    array = np.arange(60, dtype=np.float32).reshape(20, 3)
    save(tmp_path / "a.npz", x=array)
    column = members(tmp_path / "a.npz")["x"]
    for rows in (slice(3, 7), slice(12, 20), slice(0, 4), slice(5, 5), slice(None)):
        np.testing.assert_array_equal(column[rows], array[rows])


def test_python_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with pytest.raises(DataError, match="Python objects"):
        members(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_member_is_refused(tmp_path: Path, save) -> None:
    save(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(500, 4)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[3000:3200] = bytes(200)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match="x cannot be read"):
        members(tmp_path / "a.npz")["x"][:]


def test_names_that_lead_outside_the_archive_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"../x": np.zeros(3)})
    with pytest.raises(DataError, match="outside"):
        members(tmp_path / "a.npz")


def test_single_number_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(1))
    with pytest.raises(DataError, match="must have rows"):
        members(tmp_path / "a.npz")


def test_forged_size_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    size = data.index(b"PK\x01\x02") + 24  # of the member, in the central directory
    data[size : size + 4] = (2_000_000_000).to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match="claims 2,000,000,000 bytes"):
        members(tmp_path / "a.npz")
