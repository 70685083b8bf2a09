from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import ensure_cache, load_trajectories
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import Selection, select
from jepa_ray.errors import DataError

CPU = torch.device("cpu")
LENGTHS = (7, 4, 1, 6, 9)
ROWS = sum(LENGTHS)
STARTS = np.cumsum((0, *LENGTHS[:-1]))

MakeH5 = Callable[..., Path]


def recording(lengths: Sequence[int] = LENGTHS, **columns: Any) -> Recording:
    """A recording of vectors (row, episode); action[t] is (row, -row)."""
    count = sum(lengths)
    row, episode = np.arange(count, dtype=np.float32), np.repeat(np.arange(len(lengths)), lengths).astype(np.float32)
    made = {"observation": np.stack([row, episode], 1), "action": np.stack([row, -row], 1), "state": row[:, None]}
    return Recording.consecutive("planted", "a test's", made | columns, np.array(lengths))


def config(**settings: Any) -> DataConfig:
    return DataConfig.model_validate({"path": "planted", "action_alignment": "next", **settings})


def read(selection: Selection) -> dict[str, np.ndarray]:
    data = selection.trajectories
    return {name: column[slice(0, column.shape[0])] for name, column in data.columns().items()}


def random_frames(count: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, channels), np.uint8)


# ----------------------------------------------------------------------------------------- frameskip


@pytest.mark.parametrize("skip", [2, 3, 5])
def test_frameskip_keeps_all_rows_once_and_all_actions_between_frames(skip: int) -> None:
    selection = select(recording(), config(frameskip=skip))
    data, columns = selection.trajectories, read(selection)
    assert sorted(columns["observation"][:, 0]) == list(range(ROWS))
    for piece, (offset, length) in enumerate(zip(data.offsets, data.lengths, strict=True)):
        rows = columns["observation"][offset : offset + length, 0]
        assert (np.diff(rows) == skip).all()
        assert (columns["observation"][offset : offset + length, 1] == selection.episode[piece]).all()
        for step in range(length - 1):
            expected = [value for row in range(int(rows[step]), int(rows[step + 1])) for value in (row, -row)]
            assert columns["action"][offset + step].tolist() == expected
    assert (columns["state"][:, 0] == columns["observation"][:, 0]).all()


def test_frameskip_concatenates_one_hot_vectors_of_discrete_actions() -> None:
    action = np.arange(ROWS) % 3
    selection = select(recording(action=action), config(frameskip=2))
    columns = read(selection)
    assert columns["action"].shape == (ROWS, 6)
    one_hot = np.eye(3)[action]
    np.testing.assert_array_equal(columns["action"][0], np.concatenate([one_hot[0], one_hot[1]]))


def test_parts_of_an_episode_are_not_split_and_only_the_first_validates(canonical_h5: MakeH5, tmp_path: Path) -> None:
    path = canonical_h5(lengths=(9, 8, 7, 9, 8, 7), observation="vector")
    settings = config(path=path, frameskip=3, val_fraction=0.4, cache_dir=tmp_path / "cache")
    dataset = TrajectoryDataset.from_config(settings, CPU)
    train, val = (set(dataset.observations(rows)[:, 1].tolist()) for rows in (dataset.train_index, dataset.val_index))
    assert train.isdisjoint(val)
    assert len(val) == len(dataset.val_offsets) == 2
    first_rows = dataset.observations(dataset.val_offsets)[:, 0].tolist()
    assert set(first_rows) <= set(np.cumsum((0, 9, 8, 7, 9, 8)).tolist())
    batch = dataset.batch(dataset.train_index)
    assert (batch.observations[1, :, 0] - batch.observations[0, :, 0] == 3).all()
    assert dataset.spec.action_dim == 6


def test_frameskip_that_leaves_too_few_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.frameskip 8 .* fewer than 2 trajectories"):
        select(recording(), config(frameskip=8))


def test_max_trajectories_selects_evenly() -> None:
    selection = select(recording((3, 4, 5, 6, 7)), config(max_trajectories=3))
    assert selection.episode.tolist() == [0, 2, 4]
    assert selection.trajectories.lengths.tolist() == [3, 5, 7]
    assert read(selection)["observation"][:, 0].tolist() == [0, 1, 2, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23, 24]


# -------------------------------------------------------------------------------------------- frames


def test_grayscale_equals_pillows() -> None:
    frames = random_frames(ROWS, (5, 4))
    got = read(select(recording(pixels=frames), config(grayscale=True)))["observation"]
    expected = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames])[..., None]
    np.testing.assert_array_equal(got, expected)


def test_resize_is_close_to_pillows_bilinear_per_channel() -> None:
    frames = random_frames(ROWS, (24, 36))
    frames[..., 2] = 7
    got = read(select(recording(pixels=frames), config(resize=(8, 12))))["observation"]
    expected = np.stack([np.asarray(Image.fromarray(f).resize((12, 8), Image.Resampling.BILINEAR)) for f in frames])
    assert got.shape == (ROWS, 8, 12, 3)
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got[..., 2] == 7).all()


def test_one_number_resizes_to_a_square() -> None:
    assert config(resize=8).resize == (8, 8)


@pytest.mark.parametrize("settings", [{"resize": 8}, {"grayscale": True}])
def test_resize_and_grayscale_of_vectors_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=rf"planted: data.{next(iter(settings))} needs pixels"):
        select(recording(), config(**settings))


def test_grayscale_of_two_channels_is_refused_with_the_file() -> None:
    frames = np.zeros((ROWS, 5, 4, 2), np.uint8)
    with pytest.raises(
        DataError, match=r"^planted: grayscale needs frames with 1 or 3 channels, but they have 2: leave"
    ):
        select(recording(pixels=frames), config(grayscale=True))


def test_too_many_discrete_actions_for_one_hot_vectors_are_refused_with_the_file() -> None:
    action = np.arange(ROWS) * 1000
    rule = f"planted: discrete actions have {action[-1] + 1} values in total, but at most 4096 can be one-hot encoded"
    with pytest.raises(DataError, match=f"^{rule}: set data.frameskip to 1$"):
        select(recording(action=action), config(frameskip=2))
    with pytest.raises(DataError, match=f"^{rule.replace(str(action[-1] + 1), str(action[-1] + 2))}$"):
        select(recording(action=np.stack([action, 0 * action], axis=1)), config())


def test_messages_name_the_column_that_is_the_observation() -> None:
    bad = np.full((ROWS, 2), np.nan)
    with pytest.raises(DataError, match="planted: proprio is not finite"):
        select(recording(proprio=bad), config(observation="proprio"))
    with pytest.raises(DataError, match="planted: pixels has shape"):
        select(recording(pixels=np.zeros((ROWS, 4), np.uint8)), config())


def test_channels_first_is_refused() -> None:
    with pytest.raises(DataError, match="channels first"):
        select(recording(pixels=np.zeros((ROWS, 3, 32, 32), np.uint8)), config())


def test_every_preparation_key_changes_the_cache(canonical_h5: MakeH5, tmp_path: Path) -> None:
    path = canonical_h5(lengths=(9, 9, 9))
    plain = {"path": path, "cache_dir": tmp_path / "cache"}
    others = [
        {"resize": 8},
        {"grayscale": True},
        {"frameskip": 2},
        {"max_trajectories": 2},
        {"action_alignment": "next"},
    ]
    folders = {ensure_cache(config(**{"action_alignment": "auto", **plain, **other})) for other in [{}, *others]}
    assert len(folders) == 6


# ------------------------------------------------------------------------------- stacks, split, actions


@pytest.mark.parametrize("observation", ["vector", "pixels"])
def test_frame_stack_is_oldest_first_and_repeats_the_first_row(
    canonical_h5: MakeH5, tmp_path: Path, observation: str
) -> None:
    path = canonical_h5(lengths=(5, 4, 6), observation=observation)
    dataset = TrajectoryDataset.from_config(config(path=path, frame_stack=3, cache_dir=tmp_path / "cache"), CPU)
    seen = dataset.observations(torch.tensor([0, 1, 4, 5, 7]))
    depth = 9  # three frames with three channels or dimensions each
    assert dataset.spec.observation_shape == ((depth, 16, 16) if observation == "pixels" else (depth,))
    rows = seen[:, ::3, 0, 0] if observation == "pixels" else seen[:, ::3]
    assert rows.tolist() == [[0, 0, 0], [0, 0, 1], [2, 3, 4], [5, 5, 5], [5, 6, 7]]
    assert len(dataset.spec.mean) == len(dataset.spec.std) == depth


def held_out_file(monkeypatch: pytest.MonkeyPatch, path: Path, held_out: Sequence[bool]) -> None:
    """Make the reader of `path` report that the dataset reserves some episodes for validation."""
    import dataclasses

    from jepa_ray.data import cache, selection

    def select_held_out(found: Recording, settings: DataConfig) -> Selection:
        return selection.select(dataclasses.replace(found, held_out=np.array(held_out)), settings)

    monkeypatch.setattr(cache, "select", select_held_out)


def test_datasets_own_split_is_used_unless_val_fraction_is_set(
    canonical_h5: MakeH5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = canonical_h5(lengths=(5, 4, 6, 3), observation="vector")
    held_out_file(monkeypatch, path, [False, True, False, True])
    settings = config(path=path, cache_dir=tmp_path / "cache")
    own = TrajectoryDataset(load_trajectories(settings), settings, CPU)
    assert own.val_offsets.tolist() == [5, 15]
    fraction = settings.model_copy(update={"val_fraction": 0.25})
    assert len(TrajectoryDataset(load_trajectories(fraction), fraction, CPU).val_offsets) == 1


@pytest.mark.parametrize("kind", ["zscore", "range"])
def test_model_normalises_actions_with_moments_of_the_training_rows(
    canonical_h5: MakeH5, tmp_path: Path, kind: str
) -> None:
    from jepa_ray.model.encoders import action_encoder

    action = np.random.default_rng(0).normal([5, -100], [0.1, 30], (22, 2)).astype(np.float32)
    path = canonical_h5(observation="vector", columns={"action": action})
    settings = config(path=path, action_normalisation=kind, cache_dir=tmp_path / "cache")
    dataset = TrajectoryDataset.from_config(settings, CPU)
    normalise = action_encoder(dataset.spec, 4)[0]
    got = normalise(dataset.actions(dataset.train_index)).numpy()
    if kind == "zscore":
        np.testing.assert_allclose(got.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(got.std(0), 1, rtol=1e-4)
    else:
        np.testing.assert_allclose([got.min(0), got.max(0)], [[-1, -1], [1, 1]], rtol=1e-4)


def test_constant_action_is_not_divided_by_zero(canonical_h5: MakeH5, tmp_path: Path) -> None:
    path = canonical_h5(observation="vector", columns={"action": np.ones((22, 2), np.float32)})
    for kind in ("zscore", "range"):
        settings = config(path=path, action_normalisation=kind, cache_dir=tmp_path / "cache")
        assert TrajectoryDataset.from_config(settings, CPU).spec.action_scale == (1.0, 1.0)
