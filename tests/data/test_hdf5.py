from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jepa_ray.config import DataConfig, TwoRoomsConfig
from jepa_ray.data.cache import CachedTrajectories, load_trajectories
from jepa_ray.data.commands.convert import write_canonical
from jepa_ray.data.two_rooms import as_recording, simulate
from jepa_ray.errors import DataError

SWM = Path(__file__).parent / "files" / "swm_tworoom.h5"
LENGTHS = (5, 7, 4, 6)  # of the files that `canonical_h5` writes
ROWS = sum(LENGTHS)
OFFSETS = np.array([0, 5, 12, 16], np.int64)

MakeH5 = Callable[..., Path]
Load = Callable[..., CachedTrajectories]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A function that loads a file through its own cache."""

    def load(path: Path, observation: str | None = None) -> CachedTrajectories:
        config = DataConfig(path=path, observation=observation, cache_dir=tmp_path / "cache")
        return load_trajectories(config)

    return load


# -------------------------------------------------------------------------------------- valid files


def test_simulation_read_from_a_file_equals_the_builtin_dataset(
    tmp_path: Path, rooms: TwoRoomsConfig, cache_dir: Path, load: Load
) -> None:
    episodes = simulate(rooms)
    write_canonical(tmp_path / "rooms.h5", as_recording(rooms))
    from_file = load(tmp_path / "rooms.h5")
    builtin = load_trajectories(DataConfig(builtin="two_rooms", two_rooms=rooms, cache_dir=cache_dir))
    count, rows = rooms.trajectories, rooms.steps + 1
    expected = {
        "observation": episodes.pixels.reshape(count * rows, 32, 32, 3),
        "action": np.where(np.isnan(episodes.action), 0, episodes.action).reshape(-1, 2),
        "state": episodes.state.reshape(-1, 2),
        "lengths": np.full(count, rows),
        "offsets": np.arange(count) * rows,
    }
    for source in (from_file, builtin):
        for name, values in expected.items():
            got = getattr(source, name)
            np.testing.assert_array_equal(got, values, err_msg=name)
            assert got.dtype == getattr(builtin, name).dtype


def test_real_file_of_stable_worldmodel_loads(load: Load) -> None:
    data = load(SWM)
    assert data.lengths.tolist() == [15, 24, 24, 24, 2, 24, 24, 24, 24, 15, 13, 19]
    assert data.offsets.tolist() == [0, 15, 39, 63, 87, 89, 113, 137, 161, 185, 200, 213]
    assert (data.action.shape, data.action.dtype) == ((232, 2), np.float32)
    assert (data.observation.shape, data.observation.dtype) == ((232, 32, 32, 3), np.uint8)
    assert data.state is not None
    with h5py.File(SWM) as file:
        np.testing.assert_array_equal(data.observation, file["pixels"][()])
        last = data.offsets + data.lengths - 1
        used = np.setdiff1d(np.arange(232), last)
        np.testing.assert_array_equal(data.action[used], file["action"][()][used])
        assert not data.action[last].any()
        np.testing.assert_array_equal(data.state, file["state"][()])


def test_real_file_is_aligned_as_documented(load: Load) -> None:
    """action[t] explains the move t -> t + 1 better than action[t + 1] does; shifted actions would fail."""
    data = load(SWM)
    assert data.state is not None
    rows = np.concatenate([np.arange(o, o + n - 2) for o, n in zip(data.offsets, data.lengths, strict=True)])
    moved = data.state[rows + 1] - data.state[rows]
    for axis in range(2):
        own, later = (np.corrcoef(moved[:, axis], data.action[rows + shift, axis])[0, 1] for shift in (0, 1))
        assert own > 0.9
        assert own > later + 0.1


def test_data_observation_selects_a_column_instead_of_pixels(load: Load) -> None:
    data = load(SWM, "observation")
    assert (data.observation.shape, data.observation.dtype) == ((232, 10), np.float32)


def test_vectors_are_used_if_there_are_no_pixels(canonical_h5: MakeH5, load: Load) -> None:
    data = load(canonical_h5(observation="vector"))
    assert data.observation[:, 0].tolist() == list(range(ROWS))
    assert data.lengths.tolist() == list(LENGTHS)


def test_double_precision_vectors_become_single(canonical_h5: MakeH5, load: Load) -> None:
    values = np.random.default_rng(0).normal(size=(ROWS, 2))
    data = load(canonical_h5(columns={"pixels": None, "observation": values}))
    assert data.observation.dtype == np.float32
    np.testing.assert_array_equal(data.observation, values.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_discrete_actions_of_any_width_become_int64(canonical_h5: MakeH5, load: Load, dtype: Any) -> None:
    actions = np.arange(ROWS).astype(dtype) % 5
    data = load(canonical_h5(columns={"action": actions}))
    actions[np.cumsum(LENGTHS) - 1] = 0  # the last actions are not used
    assert data.action.dtype == np.int64
    assert data.action.tolist() == actions.tolist()


def test_state_may_be_absent(canonical_h5: MakeH5, load: Load) -> None:
    assert load(canonical_h5(columns={"state": None})).state is None


def test_last_actions_may_be_nan_and_are_read_as_zero(canonical_h5: MakeH5, load: Load) -> None:
    action = np.ones((ROWS, 2), np.float32)
    last = np.cumsum(LENGTHS) - 1
    action[last] = np.nan
    loaded = load(canonical_h5(columns={"action": action})).action
    assert (loaded[last] == 0).all()
    assert (np.delete(loaded, last, axis=0) == 1).all()


def test_single_row_episodes_are_allowed_with_two_usable_episodes(canonical_h5: MakeH5, load: Load) -> None:
    assert load(canonical_h5(lengths=(1, 4, 1, 3, 1))).lengths.tolist() == [1, 4, 1, 3, 1]


def test_compressed_and_chunked_columns_give_the_same_values(canonical_h5: MakeH5, load: Load) -> None:
    path = canonical_h5()
    with h5py.File(path, "r+") as file:
        pixels = file["pixels"][()]
        del file["pixels"]
        file.create_dataset("pixels", data=pixels, chunks=(3, 16, 16, 3), compression="gzip", shuffle=True)
    np.testing.assert_array_equal(load(path).observation, pixels)


# ------------------------------------------------------------------------------------ invalid files


def at(values: np.ndarray, row: int, value: float) -> np.ndarray:
    """A copy with one row replaced."""
    changed = values.copy()
    changed[row] = value
    return changed


ACTION = np.zeros((ROWS, 2), np.float32)
VECTOR = np.zeros((ROWS, 3), np.float32)
PIXELS = np.zeros((ROWS, 16, 16, 3), np.uint8)
LEN = np.array(LENGTHS, np.int32)
LAST = np.array([0, 0, 0, 1], np.int32)
PREVIOUS = ACTION.copy()
PREVIOUS[OFFSETS] = np.nan

# name -> (columns that replace those of a valid file, texts that the message must contain)
INVALID: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no pixels": ({"pixels": None}, ("lacks the column observation", "it has action, state")),
    "no action": ({"action": None}, ("lacks the column action", "it has ep_len, ep_offset, pixels, state")),
    "no ep_len": ({"ep_len": None}, ("lacks the column ep_len",)),
    "no ep_offset": ({"ep_offset": None}, ("lacks the column ep_offset",)),
    "NaN action": (
        {"action": at(ACTION, 14, np.nan)},
        (
            "action is not finite at row 14 (episode 2, step 2)",
            "only an episode's last action, which is not used, may be NaN",
        ),
    ),
    "infinite action": ({"action": at(ACTION, 5, np.inf)}, ("action is not finite at row 5 (episode 1, step 0)",)),
    "infinite vector": (
        {"pixels": None, "observation": at(VECTOR, 9, np.inf)},
        ("observation is not finite (NaN or inf) at row 9",),
    ),
    "NaN vector": ({"pixels": None, "observation": at(VECTOR, 3, np.nan)}, ("observation is not finite", "row 3")),
    "NaN state": ({"state": at(VECTOR, 21, np.nan)}, ("state is not finite", "row 21")),
    "lengths too short": ({"ep_len": LEN - LAST}, ("ep_len adds up to 21 rows", "columns have 22")),
    "lengths too long": ({"ep_len": LEN + LAST}, ("ep_len adds up to 23 rows", "columns have 22")),
    "offsets shifted": ({"ep_offset": OFFSETS + 1}, ("ep_offset[0] is 1", "must be 0: the sum of the lengths before")),
    "offsets inconsistent": (
        {"ep_offset": at(OFFSETS, 2, 11)},
        ("ep_offset[2] is 11", "must be 12: the sum of the lengths before"),
    ),
    "fewer offsets": ({"ep_offset": OFFSETS[:3]}, ("ep_len has shape (4,)", "ep_offset has shape (3,)")),
    "empty episode": (
        {"ep_len": np.array([5, 0, 11, 6]), "ep_offset": np.array([0, 5, 5, 16])},
        ("ep_len[1] is 0", "at least one row"),
    ),
    "negative length": (
        {"ep_len": np.array([5, 13, -6, 10]), "ep_offset": np.array([0, 5, 18, 12])},
        ("ep_len[2] is -6", "at least one row"),
    ),
    "no episodes": (
        {"pixels": PIXELS[:0], "action": ACTION[:0], "state": None, "ep_len": LEN[:0], "ep_offset": OFFSETS[:0]},
        ("contains no episodes",),
    ),
    "float pixels": ({"pixels": PIXELS.astype(np.float32)}, ("(22, 16, 16, 3) and dtype float32", "uint8")),
    "signed pixels": ({"pixels": PIXELS.astype(np.int16)}, ("dtype int16", "uint8")),
    "integer vectors": ({"pixels": None, "observation": VECTOR.astype(int)}, ("observation", "dtype int64", "float")),
    "pixels without channels": ({"pixels": PIXELS[..., 0]}, ("(22, 16, 16)", "(N, H, W, C) uint8")),
    "pixels of no width": ({"pixels": PIXELS[:, :, :0]}, ("(22, 16, 0, 3)", "no empty axis")),
    "flat vector": ({"pixels": None, "observation": VECTOR[:, 0]}, ("(22,)", "vectors (N, D) float")),
    "scalar pixels": ({"pixels": np.uint8(3)}, ("pixels has shape (), but must have rows",)),
    "three-dimensional actions": ({"action": ACTION[:, None]}, ("action has shape (22, 1, 2)",)),
    "actions of no width": ({"action": ACTION[:, :0]}, ("action has shape (22, 0)",)),
    "flat float actions": ({"action": ACTION[:, 0]}, ("action has shape (22,) and dtype float32",)),
    "negative discrete action": (
        {"action": at(np.zeros(ROWS, int), 7, -2)},
        ("action has the value -2", "discrete actions must be numbered from 0"),
    ),
    "text actions": ({"action": [b"left"] * ROWS}, ("action has shape (22,)",)),
    "text states": ({"state": [b"left"] * ROWS}, ("state",)),
    "float ep_len": ({"ep_len": LEN.astype(float)}, ("ep_len has dtype float64", "must be integers")),
    "float ep_offset": ({"ep_offset": OFFSETS.astype(float)}, ("ep_offset has dtype float64", "must be integers")),
    "two-dimensional ep_len": ({"ep_len": LEN[:, None]}, ("ep_len has shape (4, 1)",)),
    "scalar ep_len": ({"ep_len": np.int32(22), "ep_offset": np.int64(0)}, ("ep_len has shape ()",)),
    "fewer actions": ({"action": ACTION[:-1]}, ("action has shape (21, 2)", "pixels has 22 rows")),
    "more states": ({"state": np.zeros((23, 2))}, ("state has shape (23, 2)", "pixels has 22 rows")),
    "one usable episode": (
        {"ep_len": np.array([20, 1, 1]), "ep_offset": np.array([0, 20, 21])},
        ("at least 2 episodes of 2 rows or more",),
    ),
    "one episode": ({"ep_len": np.array([22]), "ep_offset": np.array([0])}, ("at least 2 episodes",)),
}


def refusal(load: Load, path: Path, observation: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load(path, observation)
    return str(caught.value)


@pytest.mark.parametrize("case", INVALID)
def test_invalid_file_is_refused_with_file_column_and_rule(canonical_h5: MakeH5, load: Load, case: str) -> None:
    columns, says = INVALID[case]
    path = canonical_h5(columns=columns)
    message = refusal(load, path)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in says:
        assert part in message


@pytest.mark.parametrize("column", ["pixels", "action", "state", "ep_len", "ep_offset"])
def test_column_that_is_a_group_is_refused(canonical_h5: MakeH5, load: Load, column: str) -> None:
    path = canonical_h5(columns={column: None})
    with h5py.File(path, "r+") as file:
        file.create_group(column)
    assert refusal(load, path) == f"{path}: {column} is a group, but must be a dataset"


def test_missing_data_observation_is_refused(canonical_h5: MakeH5, load: Load) -> None:
    assert "lacks the column depth" in refusal(load, canonical_h5(), "depth")


def test_data_observation_that_is_a_group_is_refused(canonical_h5: MakeH5, load: Load) -> None:
    path = canonical_h5()
    with h5py.File(path, "r+") as file:
        file.create_group("camera/left")
    assert "camera/left" in refusal(load, path, "camera/left")


def test_previous_actions_are_detected_by_nans_and_shifted(canonical_h5: MakeH5, load: Load) -> None:
    previous = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)
    previous[OFFSETS] = np.nan
    loaded = load(canonical_h5(columns={"action": previous})).action
    last = np.cumsum(LENGTHS) - 1
    used = np.setdiff1d(np.arange(ROWS), last)
    np.testing.assert_array_equal(loaded[used], previous[used + 1])
    assert not loaded[last].any()


def test_nan_inside_an_episode_of_previous_actions_is_refused(canonical_h5: MakeH5, load: Load) -> None:
    message = refusal(load, canonical_h5(columns={"action": at(PREVIOUS, 2, np.nan)}))
    assert "action is not finite at row 1 (episode 0, step 1)" in message


def test_several_discrete_actions_become_concatenated_one_hot_vectors(canonical_h5: MakeH5, load: Load) -> None:
    action = np.stack([np.arange(ROWS) % 2, np.arange(ROWS) % 3], 1)
    loaded = load(canonical_h5(columns={"action": action})).action
    assert loaded.shape == (ROWS, 5)
    np.testing.assert_array_equal(loaded[1], [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(loaded[2], [1, 0, 0, 0, 1])


def test_text_file_is_not_hdf5(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "data.h5"
    path.write_text("row,action\n" * 500)
    message = refusal(load, path)
    assert message.startswith(f"{path}: is not a readable HDF5 file")
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_file_is_refused(tmp_path: Path, load: Load, keep: float) -> None:
    path = tmp_path / "cut.h5"
    path.write_bytes(SWM.read_bytes()[: int(SWM.stat().st_size * keep)])
    assert refusal(load, path).startswith(f"{path}: is not a readable HDF5 file")


def test_damaged_column_is_refused(canonical_h5: MakeH5, load: Load) -> None:
    path = canonical_h5()
    with h5py.File(path, "r+") as file:
        del file["pixels"]
        pixels = np.random.default_rng(0).integers(0, 256, PIXELS.shape, np.uint8)
        chunk = file.create_dataset("pixels", data=pixels, chunks=PIXELS.shape, compression="gzip").id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[chunk.byte_offset : chunk.byte_offset + 200] = b"\xff" * 200
    path.write_bytes(damaged)
    assert refusal(load, path).startswith(f"{path}: pixels cannot be read")


def test_missing_file_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "none.h5"
    assert refusal(load, path) == f"{path}: cannot be read (No such file or directory)"


def test_directory_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "folder.h5"
    path.mkdir()
    assert refusal(load, path).startswith(f"{path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path: Path, load: Load) -> None:
    path = tmp_path / "secret.h5"
    shutil.copy(SWM, path)
    path.chmod(0)
    assert refusal(load, path) == f"{path}: cannot be read (Permission denied)"


def test_file_that_cannot_be_written_is_a_data_error_and_leaves_nothing(tmp_path: Path, rooms: TwoRoomsConfig) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        write_canonical(tmp_path / "file" / "rooms.h5", as_recording(rooms))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
