"""Replay buffers, read as episodes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from jepa_ray.data.formats.peek import PARSER_ERRORS, peek
from jepa_ray.data.formats.transitions import Transitions
from jepa_ray.errors import DataError

Table = dict[str, Any]


def write(path: Path, table: Table) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.update(table)
    else:
        torch.save({k: torch.from_numpy(v) for k, v in table.items()}, path)
    return path


def walk(transitions: int = 6) -> Table:
    """The transitions of one episode."""
    states = np.arange(2 * (transitions + 1), dtype="f4").reshape(-1, 2)
    return {"state": states[:-1], "next_state": states[1:], "action": np.ones((transitions, 1), "f4")}


def lengths(path: Path) -> list[int]:
    with Transitions().open(path) as got:
        return list(got.lengths)


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_transitions_are_chained_to_episodes(tmp_path: Path, suffix: str) -> None:
    walks = [np.random.default_rng(i).normal(size=(n, 3)).astype("f4") for i, n in enumerate((4, 2, 6))]
    table = {
        "state": np.concatenate([w[:-1] for w in walks]),
        "next_state": np.concatenate([w[1:] for w in walks]),
        "action": np.arange(18, dtype="f4").reshape(9, 2),
    }
    path = write(tmp_path / f"buffer{suffix}", table)
    assert Transitions().recognises(peek(path))
    with Transitions().open(path) as got:
        assert got.lengths.tolist() == [4, 2, 6]
        assert got.notes == ()
        whole = np.concatenate(walks)
        for start in range(12):
            for stop in range(start, 13):
                np.testing.assert_array_equal(got.columns["observation"][start:stop], whole[start:stop])
        np.testing.assert_array_equal(got.columns["state"][:], whole)
        actions = got.columns["action"][:]
        played = ~np.isin(np.arange(12), [3, 5, 11])  # all rows except each episode's last
        np.testing.assert_array_equal(actions[played], table["action"])
        assert np.isnan(actions[~played]).all()


@pytest.mark.parametrize("name", ["done", "terminal", "truncated"])
def test_end_mark_splits_episodes_with_matching_states(tmp_path: Path, name: str) -> None:
    table = walk()
    assert lengths(write(tmp_path / "whole.pt", table)) == [7]
    done = np.array([0, 1, 0, 0, 0, 0], bool)
    assert lengths(write(tmp_path / "a.pt", table | {name: done})) == [3, 5]
    assert lengths(write(tmp_path / "b.h5", table | {name: done[:, None].astype("f4")})) == [3, 5]


def test_episode_number_splits_episodes_with_matching_states(tmp_path: Path) -> None:
    assert lengths(write(tmp_path / "a.pt", walk() | {"episode_id": np.array([7, 7, 7, 2, 2, 7])})) == [4, 3, 2]


def test_pixels_become_the_observation_and_state_the_label(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3)).astype(np.uint8)
    table = walk() | {"obs": frames[:-1], "next_obs": frames[1:], "goal": np.zeros(6)}
    with Transitions().open(write(tmp_path / "a.h5", table)) as got:
        assert set(got.columns) == {"pixels", "state", "action"}
        assert got.columns["pixels"].dtype == np.uint8
        np.testing.assert_array_equal(got.columns["pixels"][:], frames)
        np.testing.assert_array_equal(got.columns["state"][6:], table["next_state"][5:])
        assert got.notes == ("not read: goal",)


def test_shuffled_buffer_is_noted(tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    with Transitions().open(write(tmp_path / "a.pt", {k: v[order] for k, v in walk().items()})) as got:
        assert got.lengths.tolist() == [2] * 6
        assert "shuffled" in got.notes[0]


def test_canonical_file_is_not_recognised_as_transitions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", walk() | {"ep_len": np.array([6]), "ep_offset": np.array([0])})
    assert not Transitions().recognises(peek(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.ones((5, 1), "f4")}, r"action has shape \(5, 1\).* 6 rows"),
        ({"done": np.zeros(7, bool)}, "done has shape"),
        ({"next_state": np.zeros((5, 2), "f4")}, "same dtype and shape"),
        ({"next_state": np.zeros((6, 2), "f8")}, "same dtype and shape"),
        ({"state": np.zeros((6, 2, 2), "f4"), "next_state": np.zeros((6, 2, 2), "f4")}, "same dtype and shape"),
        ({"state": np.zeros((6, 2, 2, 3), "f4"), "next_state": np.zeros((6, 2, 2, 3), "f4")}, "uint8"),
        ({"state": np.zeros((0, 2), "f4"), "next_state": np.zeros((0, 2), "f4")}, "at least 1"),
    ],
)
@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_inconsistent_columns_are_refused(tmp_path: Path, suffix: str, change: Table, message: str) -> None:
    path = write(tmp_path / f"a{suffix}", walk() | change)
    with pytest.raises(DataError, match=message), Transitions().open(path):
        pass


@pytest.mark.parametrize("lacking", ["action", "state", "next_state"])
def test_missing_column_is_refused(tmp_path: Path, lacking: str) -> None:
    table = walk() | {"weights": np.zeros(1)}
    del table[lacking]
    path = write(tmp_path / "a.pt", table)
    with pytest.raises(DataError, match=rf"lacks .*{lacking}.*it has .*weights"), Transitions().open(path):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "contains a Tensor"),
        ([torch.zeros(3)], "contains a list"),
        ({"state": [1, 2]}, "state is a list"),
        ({"state": torch.zeros(3, 2).to_sparse()}, "dense"),
        ({"state": torch.zeros(3, 2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"state": torch.zeros(1, 2).expand(10**12, 2)}, "repeats"),
    ],
)
def test_torch_files_with_other_content_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match=message), Transitions().open(tmp_path / "a.pt"):
        pass


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = write(tmp_path / f"a{suffix}", walk(200))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    # `open_recording` raises these as `DataError`.
    with pytest.raises((DataError, *PARSER_ERRORS)), Transitions().open(path):
        pass
    with pytest.raises(DataError, match="not a readable"):
        peek(path)


def test_code_in_a_torch_file_does_not_run(tmp_path: Path) -> None:
    canary, path = tmp_path / "ran", tmp_path / "bad.pt"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    torch.save(walk() | {"extra": Hostile()}, path, pickle_module=pickle)
    with pytest.raises(DataError, match="run code"), Transitions().open(path):
        pass
    assert not canary.exists()
    torch.load(path, weights_only=False)  # control: the code runs when the pickle is loaded
    assert canary.exists()
