"""D4RL files, written in D4RL's published layout."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from jepa_ray.data.formats.d4rl import D4RL
from jepa_ray.errors import DataError

RNG = np.random.default_rng(0)


def write(path: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    ends = np.zeros((2, 9), bool)
    ends[0, 3] = ends[1, 6] = True  # terminal after 4 rows, timeout after 3 more, 2 left over
    table = {"observations": RNG.normal(size=(9, 3)).astype("f4"), "actions": RNG.normal(size=(9, 2)).astype("f4")}
    table |= {"rewards": np.arange(9, dtype="f4"), "terminals": ends[0], "timeouts": ends[1]}
    table |= {"infos/qpos": RNG.normal(size=(9, 2)), "infos/qvel": RNG.normal(size=(9, 1))} | changes
    with h5py.File(path, "w") as file:
        for name, values in table.items():
            file[name] = values
    return table


def test_terminals_and_timeouts_end_episodes(tmp_path: Path) -> None:
    table = write(tmp_path / "a.hdf5", **{"metadata/weights": np.zeros(4), "next_observations": np.zeros((9, 3))})
    with D4RL().open(tmp_path / "a.hdf5") as got:
        assert got.lengths.tolist() == [4, 3, 2]
        for ours, theirs in (("observation", "observations"), ("action", "actions"), ("reward", "rewards")):
            np.testing.assert_array_equal(got.columns[ours][5:8], table[theirs][5:8])
        np.testing.assert_array_equal(got.columns["state"][:], np.hstack([table["infos/qpos"], table["infos/qvel"]]))
        assert any("metadata/weights" in note for note in got.notes)
        assert "next_observations is not read" in got.notes


@pytest.mark.parametrize("name", ["observations", "terminals", "timeouts"])
@pytest.mark.parametrize("values", [np.zeros(8), np.float64(1)])
def test_columns_of_different_lengths_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    write(tmp_path / "a.hdf5", **{name: values})
    with pytest.raises(DataError, match=f"{name} has shape"), D4RL().open(tmp_path / "a.hdf5"):
        pass
