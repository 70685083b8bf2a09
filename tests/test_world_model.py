"""`jepa_ray.load`: the model of a checkpoint as a library object."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import jepa_ray
from jepa_ray.config import TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import DataError
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer
from jepa_ray.world_model import ENCODE_ROWS, WorldModel


def save_model(config: TrainConfig, dataset: TrajectoryDataset, path: Path) -> Path:
    """A model checkpoint with initial weights."""
    trainer = Trainer(config, dataset, Communicator())
    checkpoint = ckpt.describe(config, dataset.spec) | {"model": trainer.state.model.state_dict()}
    path.write_bytes(ckpt.to_bytes(checkpoint))
    return path


@pytest.fixture(scope="module")
def checkpoint(train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(train_config, dataset, tmp_path_factory.mktemp("model") / "best_jepa_model.pt")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> WorldModel:
    return jepa_ray.load(checkpoint)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def test_describes_its_input(model: WorldModel, train_config: TrainConfig) -> None:
    assert (model.latent_dim, model.action_dim, model.num_actions) == (16, 2, 0)
    assert model.observation_shape == (32, 32, 3)
    assert model.config == train_config


def test_encodes_rows_of_the_data_as_training_does(
    model: WorldModel, checkpoint: Path, dataset: TrajectoryDataset
) -> None:
    """Frames are (H, W, C) on disk, and (C, H, W) in the network."""
    rows = torch.arange(5)
    on_disk = dataset.observations(rows).permute(0, 2, 3, 1).contiguous()
    network, _ = ckpt.load_model(checkpoint)
    expected = network.encode(dataset.observations(rows))
    torch.testing.assert_close(model.encode(on_disk), expected)
    torch.testing.assert_close(model.encode(on_disk.numpy()), expected)


def test_takes_a_read_only_memory_map(model: WorldModel, frames: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", frames)
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    torch.testing.assert_close(model.encode(mapped[::-1]), model.encode(frames).flip(0))


def test_many_rows_are_encoded_in_parts(model: WorldModel, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.encode(frames)
    assert len(frames) < ENCODE_ROWS
    monkeypatch.setattr("jepa_ray.world_model.ENCODE_ROWS", 4)
    torch.testing.assert_close(model.encode(frames), whole)


def test_a_rollout_feeds_predictions_back(model: WorldModel, frames: np.ndarray) -> None:
    state, actions = model.encode(frames), torch.rand(6, 3, 2) * 2 - 1
    rolled = model.rollout(state, actions)
    assert rolled.shape == (6, 3, 16)
    for k in range(3):
        state = model.predict(state, actions[:, k].numpy())
        torch.testing.assert_close(rolled[:, k], state)


def test_rollouts_with_and_without_gradients_are_equal(model: WorldModel, frames: np.ndarray) -> None:
    """They are computed differently: planners use the faster one without gradients."""
    state, actions = model.encode(frames), torch.rand(6, 3, 2) * 2 - 1
    torch.testing.assert_close(model.rollout(state, actions), model.rollout(state, actions.clone().requires_grad_()))


def test_is_frozen_but_gradients_reach_actions(model: WorldModel, frames: np.ndarray) -> None:
    state = model.encode(frames)
    assert not state.requires_grad
    assert not model.rollout(state, torch.zeros(6, 2, 2)).requires_grad
    actions = torch.zeros(6, 2, 2, requires_grad=True)
    model.rollout(state, actions)[:, -1].square().sum().backward()
    assert actions.grad is not None
    assert (actions.grad.abs().sum((0, 2)) > 0).all()


def test_dropout_is_off(train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path: Path) -> None:
    config = train_config.with_overrides({"model.transition_dropout": 0.5})
    model = jepa_ray.load(save_model(config, dataset, tmp_path / "model.pt"))
    state, action = torch.randn(4, 16), torch.zeros(4, 2)
    torch.testing.assert_close(model.predict(state, action), model.predict(state, action))


def test_vectors_and_discrete_actions(train_config: TrainConfig, canonical_h5, tmp_path: Path) -> None:
    path = canonical_h5(lengths=(9, 8, 7), observation="vector", actions="discrete")
    config = train_config.with_overrides(
        {"data.builtin": None, "data.path": path, "model.encoder_type": "mlp", "training.batch_size": 4}
    )
    data = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    model = jepa_ray.load(save_model(config, data, tmp_path / "model.pt"))
    assert (model.observation_shape, model.action_dim, model.num_actions) == ((3,), 0, 4)
    state = model.encode(np.zeros((2, 3)))  # float64, numpy's default
    rolled = model.rollout(state, np.array([[0, 3], [1, 2]], np.int32))
    torch.testing.assert_close(rolled[:, 0], model.predict(state, torch.tensor([0, 1])))
    with pytest.raises(DataError, match="takes one whole number from 0 to 3 per step"):
        model.rollout(state, torch.zeros(2, 2))
    for action in (4, -1):  # an index outside the table of embeddings
        with pytest.raises(DataError, match=rf"actions contain {action}, but .* whole number from 0 to 3 per step"):
            model.rollout(state, torch.tensor([[0, 1], [action, 0]]))


class TestInvalidInput:
    def test_channels_first(self, model: WorldModel, frames: np.ndarray) -> None:
        with pytest.raises(DataError, match=r"\(6, 3, 32, 32\), but this model encodes \(B, 32, 32, 3\)"):
            model.encode(frames.transpose(0, 3, 1, 2))

    def test_one_frame_without_a_batch(self, model: WorldModel, frames: np.ndarray) -> None:
        with pytest.raises(DataError, match="this model encodes"):
            model.encode(frames[0])

    def test_pixels_scaled_to_one(self, model: WorldModel, frames: np.ndarray) -> None:
        with pytest.raises(DataError, match="must be uint8"):
            model.encode(frames / 255)

    def test_actions_of_another_width(self, model: WorldModel) -> None:
        with pytest.raises(DataError, match=r"\(1, 4, 10\), but this model takes \(B, K, 2\)"):
            model.rollout(torch.zeros(1, 16), torch.zeros(1, 4, 10))

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            jepa_ray.load(tmp_path / "none.pt")


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, jepa_ray\n"
        "heavy = {'torch', 'numpy', 'ray', 'mlflow', 'optuna', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert callable(jepa_ray.load)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_loads_where_ray_mlflow_and_optuna_are_not_installed(checkpoint: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "import numpy as np, jepa_ray\n"
        "model = jepa_ray.load(sys.argv[1])\n"
        "assert model.encode(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 16)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(checkpoint)], check=True, timeout=60)
