"""Planted models with known defects get the right diagnosis from the real validation."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_ray.config import DataConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.diagnosis import Condition, diagnose, remedies
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.validation import validate

HORIZON = 3


class Planted(nn.Module):
    """A `JEPA` whose parts are functions of the true rows (x, y, episode, time)."""

    def __init__(self, encode: Callable[[Tensor], Tensor], predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.encode, self.predict = encode, predict
        self.state_encoder = nn.Linear(1, 1)
        self.target_encoder = self.state_encoder

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        predictions = []
        for action in actions.unbind(1):
            state = self.predict(state, action)
            predictions.append(state)
        return torch.stack(predictions, 1)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    """Walks in the plane: rows are (x, y, episode, time), and actions are the steps."""
    import h5py
    import numpy as np

    from jepa_ray.config import DataConfig

    folder = tmp_path_factory.mktemp("walk")
    rng, episodes, rows = np.random.default_rng(0), 40, 21
    action = rng.normal(size=(episodes, rows, 2)).astype(np.float32)
    start = 5 * rng.normal(size=(episodes, 1, 2))
    position = start + np.concatenate([np.zeros((episodes, 1, 2)), action[:, :-1].cumsum(1)], 1)
    index = np.stack(np.meshgrid(np.arange(episodes), np.arange(rows), indexing="ij"), -1)
    with h5py.File(folder / "walk.h5", "w") as file:
        file["observation"] = np.concatenate([position, index], -1).reshape(-1, 4).astype(np.float32)
        file["state"] = position.reshape(-1, 2).astype(np.float32)
        file["action"] = action.reshape(-1, 2)
        file["ep_len"] = np.full(episodes, rows)
        file["ep_offset"] = np.arange(episodes) * rows
    config = DataConfig(path=folder / "walk.h5", cache_dir=folder, val_fraction=0.5)
    return TrajectoryDataset.from_config(config, torch.device("cpu"))


def noise(rows: Tensor, width: int) -> Tensor:
    """Noise that is a fixed function of episode and time."""
    return NOISE[rows[:, 2].long(), rows[:, 3].long(), :width]


NOISE = torch.randn(40, 21, 8, generator=torch.Generator().manual_seed(0))


def stay(state: Tensor, action: Tensor) -> Tensor:
    return state


def moved(state: Tensor, action: Tensor) -> Tensor:
    return torch.cat([state[:, :2] + action, state[:, 2:]], 1)


PLANTED = {
    Condition.HEALTHY: Planted(lambda rows: rows[:, :2], moved),
    Condition.SCALE_COLLAPSE: Planted(lambda rows: 1 + 1e-4 * noise(rows, 8), stay),
    Condition.SLOW_FEATURE_COLLAPSE: Planted(lambda rows: rows[:, 2:3] + 0.01 * noise(rows, 8), stay),
    Condition.DIMENSIONAL_COLLAPSE: Planted(lambda rows: noise(rows, 1).expand(-1, 8) * torch.arange(1.0, 9), stay),
    Condition.AT_CHANCE: Planted(lambda rows: 3 * noise(rows, 8), stay),
    Condition.COPIES_LAST_STATE: Planted(lambda rows: rows[:, :2], stay),
    # It sees position and time, and has learned that time passes, but not the effect of actions.
    Condition.ACTION_BLIND: Planted(
        lambda rows: rows[:, [0, 1, 3]] * torch.tensor([1.0, 1.0, 5.0]),
        lambda state, action: state + torch.tensor([0.0, 0.0, 5.0]),
    ),
}


@pytest.mark.parametrize("condition", PLANTED)
def test_planted_models_get_the_right_diagnosis(walk: TrajectoryDataset, condition: Condition) -> None:
    measured = validate(PLANTED[condition], walk, Communicator(), HORIZON)  # type: ignore[arg-type]
    diagnosis = diagnose(measured)
    assert diagnosis.condition is condition, (str(diagnosis), measured)


def test_a_perfect_model_has_perfect_metrics(walk: TrajectoryDataset) -> None:
    measured = validate(PLANTED[Condition.HEALTHY], walk, Communicator(), HORIZON)  # type: ignore[arg-type]
    assert measured["val_rollout_mrr"] == pytest.approx(1.0, abs=1e-3)
    assert measured["rollout_probe_r2"] == pytest.approx(1.0, abs=1e-3)
    assert measured["val_skill"] == pytest.approx(1.0, abs=1e-3)
    assert measured["persistence_ratio"] < 1e-3
    assert measured["val_mrr_ceiling"] == 1.0
    assert measured["ema_gap"] == measured["ema_param_gap"] == 0


def test_repeated_observations_lower_the_ceiling_and_the_score_of_a_perfect_model_equally(
    canonical_h5: Callable[..., Path], tmp_path: Path
) -> None:
    """A clock with 3 hours: the truth ties with all rows of the same hour, so no model can exceed the ceiling."""
    lengths = (7, 7, 7, 7, 7, 7, 7, 7)
    hours = np.concatenate([(np.arange(n) + e) % 3 for e, n in enumerate(lengths)]).astype(np.float32)
    path = canonical_h5(lengths=lengths, observation="vector", columns={"observation": hours[:, None]})
    config = DataConfig(path=path, cache_dir=tmp_path, val_fraction=0.5)
    dataset = TrajectoryDataset.from_config(config, torch.device("cpu"))
    clock = Planted(lambda rows: rows, lambda state, action: (state + 1) % 3)
    measured = validate(clock, dataset, Communicator(), 1)  # type: ignore[arg-type]
    assert measured["val_mrr_ceiling"] == pytest.approx(measured["val_rollout_mrr"])
    assert 0.2 < measured["val_mrr_ceiling"] < 0.8
    assert "at best" in str(diagnose(measured))


def test_a_copying_model_scores_its_copies(walk: TrajectoryDataset) -> None:
    measured = validate(PLANTED[Condition.COPIES_LAST_STATE], walk, Communicator(), HORIZON)  # type: ignore[arg-type]
    assert measured["val_rollout_mrr"] == measured["val_mrr_copy"] < 0.6
    assert measured["persistence_ratio"] == pytest.approx(1.0)
    assert measured["action_gap"] == pytest.approx(1.0)


def test_loss_and_cosine_prefer_the_collapsed_model_and_the_ranking_does_not(walk: TrajectoryDataset) -> None:
    good, collapsed = (
        validate(PLANTED[condition], walk, Communicator(), HORIZON)  # type: ignore[arg-type]
        for condition in (Condition.COPIES_LAST_STATE, Condition.SCALE_COLLAPSE)
    )
    assert collapsed["val_loss"] < good["val_loss"]
    assert collapsed["val_cosine"] > good["val_cosine"]
    assert collapsed["val_rollout_mrr"] < good["val_rollout_mrr"]


def test_too_few_trajectories_are_not_evidence_of_collapse(train_config: TrainConfig) -> None:
    """Two validation trajectories cannot distinguish a model from chance, so they never stop a run."""
    few = train_config.with_overrides({"data.val_fraction": 0.05}).data
    dataset = TrajectoryDataset.from_config(few, torch.device("cpu"))
    assert len(dataset.val_lengths) == 2
    measured = validate(PLANTED_PIXELS, dataset, Communicator(), 2)  # type: ignore[arg-type]
    diagnosis = diagnose(measured)
    assert diagnosis.condition is Condition.UNTESTED
    assert not diagnosis.collapsed


PLANTED_PIXELS = Planted(lambda frames: torch.ones(len(frames), 4), stay)


@pytest.mark.parametrize("condition", Condition)
def test_remedies_are_valid_changes_of_the_config(train_config: TrainConfig, condition: Condition) -> None:
    suggested = remedies(condition, train_config)
    assert bool(suggested) == (condition not in (Condition.HEALTHY, Condition.UNTESTED))
    for remedy in suggested:
        changed = train_config.with_overrides({remedy.key: remedy.value})
        assert changed != train_config, remedy


def test_changes_that_the_config_already_has_are_not_suggested(train_config: TrainConfig) -> None:
    first = remedies(Condition.SLOW_FEATURE_COLLAPSE, train_config)[0]
    assert first.key == "training.loss.inverse_dynamics"
    changed = train_config.with_overrides({first.key: first.value})
    assert first.key not in [r.key for r in remedies(Condition.SLOW_FEATURE_COLLAPSE, changed)]


def test_diagnosis_is_plain_data() -> None:
    assert dataclasses.is_dataclass(diagnose({}))
