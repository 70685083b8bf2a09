"""Compares with arrays that load_dataset of ogbench 1.2.2 made from a tiny file (see files/ogbench_expected.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_ray.data.formats.ogbench import OGBench
from jepa_ray.errors import DataError

EXPECTED = np.load(Path(__file__).parents[1] / "files/ogbench_expected.npz")
FILE = {name.removeprefix("file_"): EXPECTED[name] for name in EXPECTED if name.startswith("file_")}


def test_rows_and_transitions_equal_those_of_ogbench(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **FILE)
    with OGBench().open(tmp_path / "a.npz") as got:
        seen, action, state = (got.columns[name][slice(None)] for name in ("observation", "action", "state"))
        assert got.held_out is None
        assert got.lengths.tolist() == [5, 3, 6]
        np.testing.assert_array_equal(got.columns["state"][slice(2, 2)], np.empty((0, 5)))
        has_next = np.ones(14, bool)
        has_next[got.offsets + got.lengths - 1] = False
    np.testing.assert_array_equal(has_next, EXPECTED["compact_valids"].astype(bool))
    np.testing.assert_array_equal(seen, EXPECTED["compact_observations"])
    np.testing.assert_array_equal(action, EXPECTED["compact_actions"])
    np.testing.assert_array_equal(state, np.hstack([EXPECTED["compact_qpos"], EXPECTED["compact_qvel"]]))
    np.testing.assert_array_equal(seen[has_next], EXPECTED["regular_observations"])
    np.testing.assert_array_equal(action[has_next], EXPECTED["regular_actions"])
    np.testing.assert_array_equal(seen[1:][has_next[:-1]], EXPECTED["regular_next_observations"])


def test_val_file_is_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **FILE)
    np.savez(tmp_path / "a-val.npz", **{name: value[:8] for name, value in FILE.items() if name != "qvel"})
    with OGBench().open(tmp_path / "a.npz") as got:
        assert got.held_out is not None
        assert got.held_out.tolist() == [False] * 3 + [True] * 2
        assert got.notes == ("qvel is not read: only a.npz has it",)
        np.testing.assert_array_equal(got.columns["state"][12:16], np.r_[FILE["qpos"][12:], FILE["qpos"][:2]])


def test_columns_of_different_shapes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **FILE | {"qpos": FILE["qpos"][:-1]})
    with pytest.raises(DataError, match="qpos has shape"), OGBench().open(tmp_path / "a.npz"):
        pass
    np.savez(tmp_path / "a.npz", **FILE)
    np.savez(tmp_path / "a-val.npz", **FILE | {"actions": FILE["actions"][:, :1]})
    with pytest.raises(DataError, match="actions has rows of shape"), OGBench().open(tmp_path / "a.npz"):
        pass
