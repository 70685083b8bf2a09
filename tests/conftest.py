"""What all tests share: small data, a small run, and a maker of canonical HDF5 files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from xdist.scheduler import LoadScopeScheduling

from jepa_ray.config import TrainConfig, TwoRoomsConfig

if TYPE_CHECKING:
    from jepa_ray.data.dataset import TrajectoryDataset

MakeH5 = Callable[..., Path]


# Modules of tests/ray that take about half of the time of all of them.
SERVICE = ("hosts", "older_sweeps", "ray_jobs", "service", "services")


class RayInTwoScopes(LoadScopeScheduling):
    """Tests that start Ray run in two groups, each one after another: more clusters at once would starve."""

    def _split_scope(self, nodeid: str) -> str:
        if "/ray/" not in nodeid:
            return nodeid
        module = nodeid.partition("::")[0].rpartition("/test_")[2].removesuffix(".py")
        return "service" if module in SERVICE else "ray"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> RayInTwoScopes:
    return RayInTwoScopes(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Handle SIGINT as a program in a terminal does.

    A shell starts a background command with SIGINT ignored. Every process that a test starts would inherit this, and
    no Ctrl-C that a test sends would arrive.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_tracking_server_of_another_test() -> Iterator[None]:
    """`mlflow.set_tracking_uri` writes to the environment, where the tracker looks for a server."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session, so that each dataset is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def rooms() -> TwoRoomsConfig:
    """40 episodes of 13 rows, of which 4 validate: enough to tell a model from chance."""
    return TwoRoomsConfig(trajectories=40, steps=12)


@pytest.fixture(scope="session")
def train_config(cache_dir: Path, rooms: TwoRoomsConfig) -> TrainConfig:
    """A run that takes a fraction of a second per epoch; change it with `with_overrides`."""
    return TrainConfig.model_validate(
        {
            "model": {
                "encoder_type": "cnn",
                "latent_dim_state": 16,
                "latent_dim_action": 8,
                "transition_depth": 1,
                "transition_heads": 2,
                "cnn": {"channels": [8, 16]},
            },
            "training": {"batch_size": 16, "learning_rate": 1e-3, "ema_decay": 0.99},
            "data": {"builtin": "two_rooms", "two_rooms": rooms.model_dump(), "cache_dir": cache_dir},
        }
    )


@pytest.fixture(scope="session")
def dataset(train_config: TrainConfig) -> TrajectoryDataset:
    """The data of `train_config`, on the CPU."""
    import torch

    from jepa_ray.data.dataset import TrajectoryDataset

    return TrajectoryDataset.from_config(train_config.data, torch.device("cpu"))


@pytest.fixture
def canonical_h5(tmp_path: Path) -> MakeH5:
    """`canonical_h5(lengths=(5, 7), observation="vector", actions="discrete", columns={"state": None})` -> a file.

    Vectors are (row, episode, noise), pixels hold the row's number in every value, so a test can tell which row it
    was given. `columns` replace those of a valid file; None leaves one out.
    """

    def make(
        name: str = "data.h5",
        *,
        lengths: Sequence[int] = (5, 7, 4, 6),
        observation: str = "pixels",
        actions: str = "continuous",
        seed: int = 0,
        columns: Mapping[str, Any] | None = None,
    ) -> Path:
        made = canonical_columns(lengths, observation, actions, seed) | dict(columns or {})
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for column, values in made.items():
                if values is not None:
                    file[column] = values
        return path

    return make


def canonical_columns(lengths: Sequence[int], observation: str, actions: str, seed: int) -> dict[str, Any]:
    """The arrays of a valid file, by column."""
    rng = np.random.default_rng(seed)
    count = int(sum(lengths))
    ends = np.cumsum(lengths)
    row, episode = np.arange(count), np.repeat(np.arange(len(lengths)), lengths)
    if observation == "pixels":
        seen: Any = np.broadcast_to((row % 256).astype(np.uint8)[:, None, None, None], (count, 16, 16, 3)).copy()
    else:
        seen = np.stack([row, episode, rng.normal(size=count)], 1).astype(np.float32)
    if actions == "discrete":
        moved: Any = rng.integers(0, 4, count).astype(np.int32)
        moved[0] = 3
    else:
        moved = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
        moved[ends - 1] = np.nan
    return {
        "pixels" if observation == "pixels" else "observation": seen,
        "action": moved,
        "state": np.stack([row, episode], 1).astype(np.float32),
        "ep_len": np.asarray(lengths, np.int32),
        "ep_offset": (ends - lengths).astype(np.int64),
    }
