"""`python -m jepa_ray.evaluate` on real checkpoints, as a user runs it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jepa_ray.config import METRICS, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import ConfigError, DataError
from jepa_ray.evaluate import app
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.loop import Trainer

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


def test_another_dataset_must_fit_the_model(model: Path, canonical_h5: object) -> None:
    vectors = canonical_h5(observation="vector")  # type: ignore[operator]
    result = run(str(model), "--data", str(vectors))
    assert isinstance(result.exception, DataError)
    assert "does not fit the model" in str(result.exception)


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
    assert "planning needs" in str(result.exception)
    assert "validation trajectories" not in result.output  # refused before validation, not after it
