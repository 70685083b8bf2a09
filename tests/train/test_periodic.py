"""Periodic checkpoints: which epochs are kept, what the files hold, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import jepa_ray
from jepa_ray.config import ExperimentConfig, SweepConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import StorageError
from jepa_ray.evaluate import app as evaluate_app
from jepa_ray.storage import Storage
from jepa_ray.sweep.trial import Placement, SweepTrial, make_trainable
from jepa_ray.sweep.tune_result import TrialUpdate, from_tune
from jepa_ray.train import checkpoint as ckpt
from jepa_ray.train.loop import Trainer
from jepa_ray.train.mailbox import EpochResult, RunEpoch, StartTrial
from jepa_ray.train.periodic import PeriodicCheckpoints, epoch_name

EPOCHS = 5


def periodic(folder: Path, every: int | None, limit: int | None = None) -> PeriodicCheckpoints:
    return PeriodicCheckpoints(Storage(str(folder)), ExperimentConfig(checkpoint_every=every, keep_checkpoints=limit))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def history(train_config: TrainConfig, dataset: TrajectoryDataset) -> list[bytes]:
    """The training checkpoint after each of five epochs."""
    trainer = Trainer(train_config, dataset)
    return [ckpt.to_bytes(trainer.checkpoint()) for _ in range(EPOCHS) if trainer.run_epoch()]


def save_all(checkpoints: PeriodicCheckpoints, history: list[bytes]) -> None:
    for epoch, checkpoint in enumerate(history, start=1):
        checkpoints.save(epoch, checkpoint)


def assert_same_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


class TestOneRun:
    def test_every_second_epoch_is_kept(self, history: list[bytes], tmp_path: Path) -> None:
        save_all(periodic(tmp_path, 2), history)
        assert names(tmp_path) == ["epoch_00002.pt", "epoch_00004.pt"]

    def test_nothing_is_written_without_the_setting(self, history: list[bytes], tmp_path: Path) -> None:
        save_all(periodic(tmp_path / "checkpoints", None), history)
        assert not (tmp_path / "checkpoints").exists()

    def test_only_the_newest_are_kept(self, history: list[bytes], tmp_path: Path) -> None:
        save_all(periodic(tmp_path, 1, limit=2), history)
        assert names(tmp_path) == ["epoch_00004.pt", "epoch_00005.pt"]

    def test_the_newest_are_found_by_number_and_other_files_are_left_alone(
        self, history: list[bytes], tmp_path: Path
    ) -> None:
        """As text, epoch 99999 sorts after epoch 100000."""
        for name in (epoch_name(99_998), epoch_name(99_999), "notes.txt", "epoch_best.pt"):
            (tmp_path / name).write_bytes(b"")
        periodic(tmp_path, 1, limit=2).save(100_000, history[0])
        assert names(tmp_path) == ["epoch_100000.pt", "epoch_99999.pt", "epoch_best.pt", "notes.txt"]

    def test_a_file_holds_the_model_of_its_epoch_not_of_the_best(self, history: list[bytes], tmp_path: Path) -> None:
        save_all(periodic(tmp_path, 1), history)
        best = ckpt.best_model(ckpt.from_bytes(history[-1]))
        for epoch, checkpoint in enumerate(map(ckpt.from_bytes, history), start=1):
            stored = ckpt.read_checkpoint(tmp_path / epoch_name(epoch))
            assert stored.keys() == best.keys()
            assert (stored["epoch"], stored["metrics"]) == (epoch, checkpoint["metrics"])
            assert_same_weights(stored["model"], checkpoint["model"])

    def test_a_file_is_loaded_and_evaluated_like_the_best_model(
        self, history: list[bytes], dataset: TrajectoryDataset, tmp_path: Path
    ) -> None:
        save_all(periodic(tmp_path, 3), history)
        path = tmp_path / "epoch_00003.pt"
        network, _ = ckpt.load_model(path)
        frames = dataset.observations(torch.arange(4))
        assert torch.equal(jepa_ray.load(path).encode(frames.permute(0, 2, 3, 1)), network.encode(frames))
        result = CliRunner().invoke(evaluate_app, [str(path)])
        assert result.exit_code == 0, result.output
        assert f"{ckpt.from_bytes(history[2])['metrics']['val_rollout_mrr']:.4g}" in result.output


# ------------------------------------------------------------------------------------- trials of a sweep


class LocalGroup:
    """A worker group in this process: it really trains, but starts no Ray."""

    hosts = ("here",)

    def __init__(self, dataset: TrajectoryDataset) -> None:
        self._dataset = dataset

    def call(self, command: Any) -> EpochResult | None:
        match command:
            case StartTrial(config, checkpoint):
                self._trainer = Trainer(config, self._dataset)
                if checkpoint is None:
                    return None
                self._trainer.restore(ckpt.from_bytes(checkpoint))
            case RunEpoch():
                self._trainer.run_epoch()
        state = self._trainer.state
        assert state.metrics is not None
        return EpochResult(state.epoch, state.metrics, self._trainer.finished, state.collapse, [])

    def checkpoint(self, result: EpochResult) -> bytes:
        return ckpt.to_bytes(self._trainer.checkpoint())

    def shutdown(self) -> None:
        pass


@pytest.fixture
def spec(train_config: TrainConfig) -> SweepConfig:
    config = train_config.with_overrides({"experiment.checkpoint_every": 2, "experiment.keep_checkpoints": 2})
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": config.to_dict(),
            "space": {"training.ema_decay": [0.9, 0.99]},
            "early_stopping": {"enabled": False, "max_epochs": 7},
        }
    )


def start_trial(spec: SweepConfig, store: Storage, dataset: TrajectoryDataset, number: int = 3) -> SweepTrial:
    """The actor of one trial as Ray Tune sets it up, here in this process."""
    trial = object.__new__(make_trainable(spec, store, "groups", Placement()))
    trial.start_group = lambda: LocalGroup(dataset)  # type: ignore[method-assign]
    trial.setup({"number": number, "overrides": {"training.ema_decay": 0.9}})
    return trial


def test_a_trial_keeps_the_newest_of_its_periodic_checkpoints(
    spec: SweepConfig, dataset: TrajectoryDataset, tmp_path: Path
) -> None:
    trial = start_trial(spec, Storage(str(tmp_path)), dataset)
    while not trial.step()["done"]:
        pass
    assert names(tmp_path / "checkpoints") == ["trial_00003", "trial_00003.pt"]
    folder = tmp_path / "checkpoints" / "trial_00003"
    assert names(folder) == ["epoch_00004.pt", "epoch_00006.pt"]  # of 2, 4 and 6
    assert jepa_ray.load(folder / "epoch_00006.pt").config.training.ema_decay == 0.9


def epoch_of(trial: SweepTrial) -> int:
    """Take a step; returns the epoch that it reports."""
    update = from_tune(trial.step())
    assert isinstance(update, TrialUpdate)
    return update.result.epoch


class FailingStore(Storage):
    """A store whose disk fills up before a training checkpoint is written."""

    def write(self, name: str, data: bytes) -> None:
        if name.endswith("trial_00003.pt") and ckpt.from_bytes(data)["epoch"] == 4:
            raise StorageError("the disk is full")
        super().write(name, data)


def test_a_resumed_trial_neither_loses_nor_duplicates_a_periodic_checkpoint(
    spec: SweepConfig, dataset: TrajectoryDataset, tmp_path: Path
) -> None:
    """Epoch 4 is written, its training checkpoint is not: a new group trains the epoch again."""
    crashing = start_trial(spec, FailingStore(str(tmp_path)), dataset)
    for _ in range(3):
        crashing.step()
    with pytest.raises(StorageError):
        crashing.step()
    folder = tmp_path / "checkpoints" / "trial_00003"
    assert names(folder) == ["epoch_00002.pt", "epoch_00004.pt"]
    first = {name: ckpt.read_checkpoint(folder / name)["model"] for name in names(folder)}
    trial = start_trial(spec, Storage(str(tmp_path)), dataset)
    assert [epoch_of(trial) for _ in range(2)] == [3, 4]  # first the result that was stored
    assert names(folder) == ["epoch_00002.pt", "epoch_00004.pt"]
    for name, weights in first.items():
        assert_same_weights(ckpt.read_checkpoint(folder / name)["model"], weights)
    while not trial.step()["done"]:
        pass
    assert names(folder) == ["epoch_00004.pt", "epoch_00006.pt"]
