from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import CachedTrajectories, load_trajectories
from jepa_ray.data.dataset import MOMENT_ROWS, TrajectoryDataset

CPU = torch.device("cpu")
MakeH5 = Callable[..., Path]


def in_memory(lengths: Sequence[int], noise: np.ndarray | None = None) -> CachedTrajectories:
    """Vectors (row, episode, noise), so that each observation identifies its row."""
    count = int(sum(lengths))
    row, episode = np.arange(count), np.repeat(np.arange(len(lengths)), lengths)
    third = np.zeros(count) if noise is None else noise
    return CachedTrajectories(
        observation=np.stack([row, episode, third], 1).astype(np.float32),
        action=np.stack([row, -row], 1).astype(np.float32),
        state=None,
        lengths=np.asarray(lengths, np.int64),
        offsets=np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        episode=np.arange(len(lengths)),
        held_out=None,
    )


def split(data: CachedTrajectories, **settings: Any) -> TrajectoryDataset:
    return TrajectoryDataset(data, DataConfig(builtin="two_rooms", **settings), CPU)


def from_file(path: Path, folder: Path) -> TrajectoryDataset:
    return TrajectoryDataset.from_config(DataConfig(path=path, cache_dir=folder / "cache", val_fraction=0.3), CPU)


def episodes_of(dataset: TrajectoryDataset, rows: torch.Tensor) -> set[int]:
    return set(dataset.observations(rows)[:, 1].int().tolist())


ragged = st.lists(st.integers(1, 9), min_size=2, max_size=20).filter(lambda x: sum(n >= 2 for n in x) >= 2)


# ----------------------------------------------------------------------------------- split and windows


@settings(deadline=None, max_examples=60)
@given(lengths=ragged, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_no_window_crosses_an_episode_and_no_episode_is_on_both_sides(
    lengths: list[int], fraction: float, seed: int
) -> None:
    dataset = split(in_memory(lengths), val_fraction=fraction, split_seed=seed)
    for rows in (dataset.train_index, dataset.val_index):
        assert len(rows) > 0
        batch = dataset.batch(rows)
        here, there = batch.observations
        assert torch.equal(there[:, 0], here[:, 0] + 1)  # the next row
        assert torch.equal(there[:, 1], here[:, 1])  # of the same episode
    train, val = (episodes_of(dataset, rows) for rows in (dataset.train_index, dataset.val_index))
    assert train.isdisjoint(val)
    assert train | val == {e for e, n in enumerate(lengths) if n >= 2}
    covered = sorted(dataset.train_index.tolist() + dataset.val_index.tolist())
    ends = (np.cumsum(lengths) - 1).tolist()
    assert covered == [row for row in range(sum(lengths)) if row not in ends]


@settings(deadline=None, max_examples=40)
@given(lengths=ragged, seed=st.integers(0, 100), steps=st.integers(1, 6))
def test_windows_of_many_steps_stay_in_their_episode(lengths: list[int], seed: int, steps: int) -> None:
    data = in_memory(lengths)
    dataset = split(data, split_seed=seed)
    rows = dataset.train_windows(steps)
    train = episodes_of(dataset, dataset.train_index)
    assert len(rows) == sum(max(0, lengths[e] - steps) for e in train)
    if len(rows):
        batch = dataset.batch(rows, steps)
        for k in range(steps + 1):
            np.testing.assert_array_equal(batch.observations[k], data.observation[rows.numpy() + k])
        for k in range(steps):
            np.testing.assert_array_equal(batch.actions[k], data.action[rows.numpy() + k])
        assert (batch.observations[..., 1] == batch.observations[0, :, 1]).all()  # the same episode throughout


@settings(deadline=None, max_examples=30)
@given(lengths=ragged, seed=st.integers(0, 100))
def test_validation_offsets_and_lengths_are_those_of_the_validation_episodes(lengths: list[int], seed: int) -> None:
    data = in_memory(lengths)
    dataset = split(data, val_fraction=0.4, split_seed=seed)
    val = sorted(episodes_of(dataset, dataset.val_index))
    assert dataset.val_lengths.tolist() == [lengths[e] for e in val]
    assert dataset.val_offsets.tolist() == data.offsets[val].tolist()


@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 2), (0.25, 5), (0.5, 10), (0.001, 1), (0.999, 19)])
def test_val_fraction_counts_trajectories_and_leaves_some_on_both_sides(fraction: float, held_out: int) -> None:
    lengths = [2] * 10 + [30] * 10  # counting transitions would give other numbers
    assert len(split(in_memory(lengths), val_fraction=fraction).val_lengths) == held_out


def test_split_depends_on_the_split_seed_only() -> None:
    data = in_memory([4] * 30)
    first, again, other = (split(data, split_seed=seed).val_index.tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_validation_trajectories_are_drawn_at_random() -> None:
    data = in_memory([3] * 40)
    picked = {tuple(split(data, split_seed=seed).val_offsets.tolist()) for seed in range(5)}
    assert len(picked) == 5


def test_single_row_episodes_are_ignored(tmp_path: Path, canonical_h5: MakeH5) -> None:
    dataset = from_file(canonical_h5(lengths=(1, 4, 1, 3, 1, 5), observation="vector"), tmp_path)
    both = torch.cat([dataset.train_index, dataset.val_index])
    assert episodes_of(dataset, both) == {1, 3, 5}
    assert len(both) == 3 + 2 + 4
    assert (dataset.val_lengths >= 2).all()


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("rows", [[0], [3, 1, 1, 8], list(range(9, -1, -1))])
def test_pixel_batch_equals_naive_indexing(tmp_path: Path, canonical_h5: MakeH5, rows: list[int]) -> None:
    # Not square, to detect swapped height and width.
    pixels = np.random.default_rng(0).integers(0, 256, (22, 16, 20, 3), np.uint8)
    path = canonical_h5(columns={"pixels": pixels})
    dataset = from_file(path, tmp_path)
    raw = load_trajectories(DataConfig(path=path, cache_dir=tmp_path / "cache"))
    batch = dataset.batch(torch.tensor(rows))
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(batch.observations[0, i], np.moveaxis(pixels[row], -1, 0))
        np.testing.assert_array_equal(batch.observations[1, i], np.moveaxis(pixels[row + 1], -1, 0))
        np.testing.assert_array_equal(batch.actions[0, i], raw.action[row])
    assert batch.observations.dtype == torch.uint8
    assert dataset.spec.observation_shape == tuple(batch.observations.shape[2:]) == (3, 16, 20)
    assert dataset.spec.is_pixels


def test_vector_batch_equals_naive_indexing() -> None:
    data = in_memory([5, 6, 7])
    dataset = split(data)
    rows = torch.tensor([0, 11, 7])
    batch = dataset.batch(rows)
    np.testing.assert_array_equal(batch.observations[0], data.observation[rows])
    np.testing.assert_array_equal(batch.actions[0], data.action[rows])
    np.testing.assert_array_equal(batch.observations[1], data.observation[rows + 1])
    assert dataset.spec.observation_shape == (3,)
    assert not dataset.spec.is_pixels


def test_spec_of_continuous_actions_has_a_width(tmp_path: Path, canonical_h5: MakeH5) -> None:
    dataset = from_file(canonical_h5(observation="vector"), tmp_path)
    assert (dataset.spec.action_dim, dataset.spec.num_actions) == (2, 0)
    assert dataset.actions(dataset.train_index).dtype == torch.float32
    assert torch.isfinite(dataset.actions(torch.arange(22))).all()  # including the unused last actions


def test_spec_of_discrete_actions_has_their_number(tmp_path: Path, canonical_h5: MakeH5) -> None:
    actions = np.zeros(22, np.int32)
    actions[13] = 6
    dataset = from_file(canonical_h5(actions="discrete", columns={"action": actions}), tmp_path)
    assert (dataset.spec.action_dim, dataset.spec.num_actions) == (0, 7)
    picked = dataset.actions(torch.tensor([12, 13]))
    assert picked.dtype == torch.int64
    assert picked.tolist() == [0, 6]


def test_two_datasets_share_one_memory_map(tmp_path: Path, canonical_h5: MakeH5) -> None:
    """On the CPU nothing is copied: the tensors point into the memory map."""
    path = canonical_h5()
    data = load_trajectories(DataConfig(path=path, cache_dir=tmp_path / "cache"))
    first, second = (split(data) for _ in range(2))
    pointer = data.observation.__array_interface__["data"][0]
    assert first._observation.data_ptr() == second._observation.data_ptr() == pointer


# ---------------------------------------------------------------------------------------------- moments


def test_moments_of_pixels_equal_numpys_over_training_rows(dataset: TrajectoryDataset) -> None:
    frames = dataset.observations(dataset.train_index).permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    np.testing.assert_allclose(dataset.spec.mean, frames.mean(0), rtol=1e-9)
    np.testing.assert_allclose(dataset.spec.std[:2], frames.std(0)[:2], rtol=1e-9)
    assert dataset.spec.std[2] == 1.0  # the empty blue channel has no variance, so 1 instead of 0


def test_moments_of_vectors_are_per_dimension() -> None:
    noise = np.random.default_rng(0).normal(5, 3, 60)
    dataset = split(in_memory([10] * 6, noise))
    rows = dataset.observations(dataset.train_index).double().numpy()
    np.testing.assert_allclose(dataset.spec.mean, rows.mean(0), rtol=1e-9)
    np.testing.assert_allclose(dataset.spec.std, rows.std(0), rtol=1e-9)


def test_validation_rows_do_not_leak_into_the_moments() -> None:
    clean = split(in_memory([10] * 6))
    noise = np.zeros(60)
    for offset, length in zip(clean.val_offsets.tolist(), clean.val_lengths.tolist(), strict=True):
        noise[offset : offset + length] = 1e6
    assert split(in_memory([10] * 6, noise)).spec.mean[2] == 0.0


def test_moments_of_long_datasets_are_sampled_from_all_rows() -> None:
    """A sample of only the first MOMENT_ROWS rows would miss the second half."""
    lengths = [100] * (6 * MOMENT_ROWS // 100)
    half = np.where(np.arange(sum(lengths)) < sum(lengths) // 2, 0.0, 1.0)
    spec = split(in_memory(lengths, half)).spec
    assert spec.mean[2] == pytest.approx(0.5, abs=0.05)
    assert spec.std[2] == pytest.approx(0.5, abs=0.05)


def test_spec_contains_plain_values(dataset: TrajectoryDataset) -> None:
    for value in (*dataset.spec.mean, *dataset.spec.std):
        assert type(value) is float
    for number in (*dataset.spec.observation_shape, dataset.spec.action_dim, dataset.spec.num_actions):
        assert type(number) is int
