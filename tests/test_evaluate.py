"""`python -m jepa_ray.evaluate` on real checkpoints, as a user runs it."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from jepa_ray.config import METRICS, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, DataError
from jepa_ray.evaluate import app
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.loop import Trainer

MakeH5 = Callable[..., Path]

FAST = ["--set", "samples=4", "--set", "elites=2", "--set", "iterations=1", "--set", "episodes=3", "--set", "budget=2"]


@pytest.fixture(scope="module")
def model(train_config: TrainConfig, dataset: TrajectoryDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    trainer = Trainer(train_config, dataset)
    trainer.run_epoch()
    path = tmp_path_factory.mktemp("model") / "best_jepa_model.pt"
    path.write_bytes(ckpt.to_bytes(ckpt.best_model(trainer.checkpoint())))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_prints_every_metric_and_a_diagnosis(model: Path) -> None:
    result = run(str(model))
    assert result.exit_code == 0, result.output
    for name in set(METRICS) - {"train_loss", "samples_per_s", "epoch_s"}:
        assert name in result.output
    assert "diagnosis: " in result.output
    assert "planning" not in result.output


def test_prints_the_values_of_the_epoch_of_the_checkpoint(model: Path) -> None:
    stored = ckpt.read_checkpoint(model)["metrics"]["val_rollout_mrr"]
    assert f"{stored:.4g}" in run(str(model)).output


def test_plans_compares_with_a_random_policy_and_draws_episodes(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "planned.png"
    result = run(str(model), "--plan", "--picture", str(picture), *FAST)
    assert result.exit_code == 0, result.output
    assert "planning success" in result.output
    assert "random policy" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def train(config: TrainConfig, path: Path) -> Path:
    trainer = Trainer(config, TrajectoryDataset.from_config(config.data, torch.device("cpu")))
    trainer.run_epoch()
    path.write_bytes(ckpt.to_bytes(ckpt.best_model(trainer.checkpoint())))
    return path


def vector_config(train_config: TrainConfig, path: Path) -> TrainConfig:
    return train_config.with_overrides(
        {"data.builtin": None, "data.path": path, "model.encoder_type": "mlp", "training.batch_size": 4}
    )


LENGTHS = (9, 8, 7, 9)


def test_another_dataset_must_have_the_observations_of_the_model(model: Path, canonical_h5: MakeH5) -> None:
    vectors = canonical_h5(observation="vector")
    result = run(str(model), "--data", str(vectors))
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == (
        f"{vectors}: does not fit the model (observations have shape (3,), but the model takes (3, 32, 32)): use data"
        " with the observations and actions that it was trained on"
    )


def test_another_dataset_must_have_the_actions_of_the_model(
    train_config: TrainConfig, canonical_h5: MakeH5, tmp_path: Path
) -> None:
    """A discrete action outside the range of the model would be an index outside its table of embeddings."""
    trained = canonical_h5("trained.h5", lengths=LENGTHS, observation="vector", actions="discrete")
    model = train(vector_config(train_config, trained), tmp_path / "model.pt")
    actions = np.random.default_rng(0).integers(0, 7, sum(LENGTHS)).astype(np.int32)
    actions[1] = 6
    more = canonical_h5("more.h5", lengths=LENGTHS, observation="vector", columns={"action": actions})
    result = run(str(model), "--data", str(more))
    assert isinstance(result.exception, DataError)
    assert f"{more}: does not fit the model (it has 7 discrete actions, but the model takes 4)" in str(result.exception)
    continuous = canonical_h5("continuous.h5", lengths=LENGTHS, observation="vector")
    result = run(str(model), "--data", str(continuous))
    assert isinstance(result.exception, DataError)
    assert "(actions are continuous, but the model takes discrete ones)" in str(result.exception)
    fewer = canonical_h5("fewer.h5", lengths=LENGTHS, observation="vector", columns={"action": np.minimum(actions, 2)})
    assert run(str(model), "--data", str(fewer)).exit_code == 0


def test_the_dataset_for_training_may_be_gone_if_another_is_given(
    train_config: TrainConfig, canonical_h5: MakeH5, tmp_path: Path
) -> None:
    """The config of the checkpoint names a cache folder, whose caches depend on the dataset."""
    trained = canonical_h5("trained.h5", lengths=LENGTHS, observation="vector")
    model = train(vector_config(train_config, trained), tmp_path / "model.pt")
    other = trained.rename(tmp_path / "moved.h5")
    result = run(str(model), "--data", str(other))
    assert result.exit_code == 0, (result.output, result.exception)


def test_evaluates_on_a_dataset_in_an_object_store(
    train_config: TrainConfig, canonical_h5: MakeH5, tmp_path: Path
) -> None:
    trained = canonical_h5(lengths=LENGTHS, observation="vector")
    model = train(vector_config(train_config, trained), tmp_path / "model.pt")
    store = fsspec.filesystem("memory")
    store.put(str(trained), f"/{tmp_path.name}/data.h5")
    try:
        result = run(str(model), "--data", f"memory://{tmp_path.name}/data.h5")
    finally:
        store.rm(f"/{tmp_path.name}", recursive=True)
    assert result.exit_code == 0, (result.output, result.exception)
    assert run(str(model)).output == result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "elites=65"], "elites is 65, but must not exceed samples"),
        (["--set", "preset=hard"], "preset is hard, but must be one of: paper"),
        (["--plan", "--picture", "x.jpg"], r"x\.jpg.*\.png or \.gif"),
    ],
)
def test_invalid_input(model: Path, arguments: list[str], message: str) -> None:
    result = run(str(model), *arguments)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


def test_planning_on_data_from_a_file_is_refused(model: Path, tmp_path: Path) -> None:
    from jepa_ray.config import TwoRoomsConfig
    from jepa_ray.data.commands.convert import write_canonical
    from jepa_ray.data.two_rooms import as_recording

    path = tmp_path / "rooms.h5"
    write_canonical(path, as_recording(TwoRoomsConfig(trajectories=40, steps=12)))
    result = run(str(model), "--data", str(path), "--plan", *FAST)
    assert isinstance(result.exception, ConfigError)
    assert "planning needs data.builtin: two_rooms; leave out --plan and --picture" in str(result.exception)
    assert "validation trajectories" not in result.output  # refused before validation, not after it
