from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_ray.data.formats.arrays import Arrays
from jepa_ray.data.formats.peek import peek
from jepa_ray.errors import DataError

RNG = np.random.default_rng(0)
SEEN, ACTS = RNG.normal(size=(3, 5, 4)).astype("f4"), RNG.normal(size=(3, 5, 2)).astype("f4")
FLAT = {"observations": SEEN.reshape(15, 4), "actions": ACTS.reshape(15, 2)}


def save(folder: Path, kind: str, **table: np.ndarray) -> Path:
    if kind == "npz":
        np.savez_compressed(folder / "a.npz", **table)
        return folder / "a.npz"
    for name, values in table.items():
        np.save(folder / f"{name}.npy", values)
    return folder


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("steps", [5, 4])
@pytest.mark.parametrize("length_array", [None, "lengths", "seq_lengths", "ep_len"])
def test_batched_arrays_are_read(tmp_path: Path, kind: str, steps: int, length_array: str | None) -> None:
    lengths = [5, 5, 5] if length_array is None else [2, 5, 3]
    lengths_in_file = {} if length_array is None else {length_array: np.array(lengths)}
    path = save(tmp_path, kind, obs=SEEN, actions=ACTS[:, :steps], goal=np.zeros((3, 9)), **lengths_in_file)
    assert Arrays().recognises(peek(path))
    with Arrays().open(path) as got:
        assert got.lengths.tolist() == lengths
        seen = np.concatenate([SEEN[e, :n] for e, n in enumerate(lengths)])
        acts = np.full((3, 5, 2), np.nan, "f4")
        acts[:, :steps] = ACTS[:, :steps]
        acts = np.concatenate([acts[e, :n] for e, n in enumerate(lengths)])
        for rows in (slice(4, 9), slice(0, 3), slice(None)):
            np.testing.assert_array_equal(got.columns["observation"][rows], seen[rows])
            np.testing.assert_array_equal(got.columns["action"][rows], acts[rows])
        assert "goal" in got.notes[0]


@pytest.mark.parametrize(
    "episodes",
    [
        {"ep_len": np.array([4, 11])},
        {"episode_ends": np.array([4, 15])},
        {"episode_ids": np.repeat([7, 3], [4, 11])},
        {"dones": np.isin(np.arange(15), [3, 14])},
        {"terminals": np.arange(15) == 3, "timeouts": np.arange(15) == 14},
        {"ep_len": np.array([4, 11]), "terminals": np.arange(15) == 14},
    ],
)
def test_flat_arrays_are_read(tmp_path: Path, episodes: dict[str, np.ndarray]) -> None:
    with Arrays().open(save(tmp_path, "npz", **FLAT, **episodes)) as got:
        assert got.lengths.tolist() == [4, 11]
        np.testing.assert_array_equal(got.columns["action"][3:9], FLAT["actions"][3:9])


@pytest.mark.parametrize(
    "episodes",
    [
        {},
        {"ep_len": np.array([4, 11]), "episode_ends": np.array([5, 15])},
        {"ep_len": np.array([4, 11]), "terminals": np.arange(15) == 8},
        {"ep_len": np.array([4, 10])},
        {"ep_len": np.array([-1, 16])},
        {"ep_len": np.array(15)},
        {"episode_ids": np.array([0] * 5 + [1] * 5 + [0] * 5)},
    ],
)
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_invalid_episodes_are_refused(tmp_path: Path, kind: str, episodes: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError), Arrays().open(save(tmp_path, kind, **FLAT, **episodes)):
        pass


def test_ogbench_files_are_not_recognised_as_plain_arrays(tmp_path: Path) -> None:
    assert not Arrays().recognises(peek(save(tmp_path, "npz", **FLAT, terminals=np.zeros(15))))
    assert Arrays().recognises(peek(save(tmp_path, "npz", **FLAT, terminals=np.zeros(15), timeouts=np.zeros(15))))
