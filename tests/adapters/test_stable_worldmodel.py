"""The cost model compared with a direct roll-out, on `info` and candidates as stable-worldmodel 0.1.1 creates them.

Its solvers pass, as observed: `pixels` and `goal` (B, S, 1, H, W, C) uint8, expanded over the S candidates without a
copy; `action`, which is NaN, and other arrays; candidates (B, S, H, action_block * A) float32, under `inference_mode`.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from jepa_ray.adapters.stable_worldmodel import CostModel, final_distance, path_distance
from jepa_ray.config import TrainConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.errors import DataError
from jepa_ray.model.jepa import build_jepa
from jepa_ray.world_model import WorldModel

PROBLEMS, SAMPLES, HORIZON = 3, 7, 4


def world_model(config: TrainConfig, *, action_dim: int = 2, num_actions: int = 0) -> WorldModel:
    torch.manual_seed(0)
    spec = DataSpec((3, 32, 32), action_dim, num_actions, (128.0,) * 3, (64.0,) * 3)
    return WorldModel(build_jepa(config.model, spec), config, spec)


@pytest.fixture(scope="module")
def model(train_config: TrainConfig) -> WorldModel:
    return world_model(train_config)


def frames(seed: int, problems: int = PROBLEMS) -> Tensor:
    return torch.randint(0, 256, (problems, 32, 32, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))


def info(samples: int = SAMPLES) -> dict[str, Tensor]:
    values = {
        "pixels": frames(1)[:, None],
        "goal": frames(2)[:, None],
        "action": torch.full((PROBLEMS, 1, 2), torch.nan),
        "terminated": torch.zeros(PROBLEMS, 1, dtype=torch.bool),
    }
    return {k: v.unsqueeze(1).expand(PROBLEMS, samples, *v.shape[1:]) for k, v in values.items()}


def candidates(width: int, samples: int = SAMPLES) -> Tensor:
    return torch.randn(PROBLEMS, samples, HORIZON, width, generator=torch.manual_seed(3))


def direct(model: WorldModel, problem: int, actions: Tensor) -> float:
    """The cost of one plan (K, A) for one problem, without any batching."""
    state = model.encode(frames(1)[problem : problem + 1])
    goal = model.encode(frames(2)[problem : problem + 1])
    for action in actions:
        state = model.predict(state, action[None])
    return float((state - goal).square().mean())


def assert_costs(costs: Tensor, expected: list[list[float]]) -> None:
    assert costs.shape == (PROBLEMS, SAMPLES)
    torch.testing.assert_close(costs, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_costs_are_those_of_a_direct_rollout(model: WorldModel) -> None:
    plans = candidates(2)
    with torch.inference_mode():
        costs = CostModel(model).get_cost(info(), plans)
    assert_costs(costs, [[direct(model, b, plans[b, s]) for s in range(SAMPLES)] for b in range(PROBLEMS)])


def test_a_model_of_single_steps_unrolls_a_block(model: WorldModel) -> None:
    """A block contains its actions in the order in which the policy executes them: reshape to (H * block, A)."""
    plans = candidates(6)
    expected = [[direct(model, b, plans[b, s].reshape(12, 2)) for s in range(SAMPLES)] for b in range(PROBLEMS)]
    assert_costs(CostModel(model).get_cost(info(), plans), expected)


def test_a_model_of_blocks_predicts_a_block_at_a_time(train_config: TrainConfig) -> None:
    model, plans = world_model(train_config, action_dim=6), candidates(6)
    expected = [[direct(model, b, plans[b, s]) for s in range(SAMPLES)] for b in range(PROBLEMS)]
    assert_costs(CostModel(model).get_cost(info(), plans), expected)


def test_one_hot_candidates_are_discrete_actions(train_config: TrainConfig) -> None:
    """As the library's categorical CEM creates them: (B, S, H, block * num_actions)."""
    model = world_model(train_config, action_dim=0, num_actions=4)
    chosen = torch.randint(0, 4, (PROBLEMS, SAMPLES, HORIZON, 2), generator=torch.manual_seed(4))
    plans = torch.nn.functional.one_hot(chosen, 4).float().flatten(3)
    expected = [[direct(model, b, chosen[b, s].flatten()) for s in range(SAMPLES)] for b in range(PROBLEMS)]
    assert_costs(CostModel(model).get_cost(info(), plans), expected)


def test_many_candidates_are_rolled_out_in_parts(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = candidates(2)
    whole = CostModel(model).get_cost(info(), plans)
    monkeypatch.setattr("jepa_ray.adapters.stable_worldmodel.ROLLOUT_ROWS", 4)  # parts straddle problems
    torch.testing.assert_close(CostModel(model).get_cost(info(), plans), whole)


def test_clips_actions_as_the_environment_does(model: WorldModel) -> None:
    plans = 3 * candidates(2)
    clipped = CostModel(model, action_bounds=(-1, 1)).get_cost(info(), plans)
    torch.testing.assert_close(clipped, CostModel(model).get_cost(info(), plans.clamp(-1, 1)))
    assert not torch.allclose(clipped, CostModel(model).get_cost(info(), plans))


def test_encodes_once_per_problem(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda seen: rows.append(len(seen)) or encode(seen))
    cost, problem = CostModel(model), info()
    first = cost.get_cost(problem, candidates(2))
    again = cost.get_cost(problem, candidates(2))
    assert rows == [PROBLEMS, PROBLEMS]  # pixels and goal once, not once per candidate or iteration
    torch.testing.assert_close(first, again)
    cost.get_cost(info(), candidates(2))
    assert len(rows) == 4  # another problem is encoded again


def test_plans_from_the_latest_frame_of_a_history(model: WorldModel) -> None:
    seen = info()
    older = torch.zeros_like(seen["pixels"])
    with_history = seen | {"pixels": torch.cat([older, seen["pixels"]], dim=2)}
    plans = candidates(2)
    torch.testing.assert_close(CostModel(model).get_cost(with_history, plans), CostModel(model).get_cost(seen, plans))


def test_gradients_reach_the_candidates(model: WorldModel) -> None:
    """The library's gradient solvers need costs with gradients in every call."""
    plans, problem, cost = candidates(2).requires_grad_(), info(), CostModel(model)
    for _ in range(2):
        cost.get_cost(problem, plans).sum().backward()
    assert plans.grad is not None
    assert (plans.grad.abs().sum((0, 1, 3)) > 0).all()


def test_observations_may_be_other_keys(train_config: TrainConfig) -> None:
    config = train_config.with_overrides({"model.encoder_type": "mlp"})
    torch.manual_seed(0)
    spec = DataSpec((2,), 2, 0, (112.0,) * 2, (50.0,) * 2)
    model = WorldModel(build_jepa(config.model, spec), config, spec)
    start, goal = torch.rand(PROBLEMS, SAMPLES, 1, 2) * 224, torch.rand(PROBLEMS, SAMPLES, 1, 2) * 224
    plans = candidates(2)
    costs = CostModel(model, observation="state", goal="goal_state").get_cost(
        {"state": start, "goal_state": goal}, plans
    )
    state = model.rollout(model.encode(start[:1, 0, 0]), plans[0, :1])[:, -1]
    expected = (state - model.encode(goal[:1, 0, 0])).square().mean()
    torch.testing.assert_close(costs[0, 0], expected)


def test_criteria() -> None:
    """Distances of the two steps by hand: (1, 0) and (3, 4) from the origin, halved by the mean over D = 2."""
    predicted, goal = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]), torch.zeros(1, 2)
    assert final_distance(predicted, goal).tolist() == [12.5]
    assert path_distance(predicted, goal).tolist() == [6.5]


class TestInvalidInput:
    def test_a_block_smaller_than_the_frameskip(self, train_config: TrainConfig) -> None:
        with pytest.raises(DataError, match="have 2 numbers per step, but the model takes 10"):
            CostModel(world_model(train_config, action_dim=10)).get_cost(info(), candidates(2))

    def test_no_goal(self, model: WorldModel) -> None:
        seen = info()
        del seen["goal"]
        with pytest.raises(DataError, match="info has no goal, only action, "):
            CostModel(model).get_cost(seen, candidates(2))

    def test_pixels_that_a_transform_has_scaled(self, model: WorldModel) -> None:
        with pytest.raises(DataError, match="must be uint8"):
            CostModel(model).get_cost(info() | {"goal": info()["goal"].float()}, candidates(2))


def test_needs_neither_the_library_nor_ray() -> None:
    program = (
        "import sys\n"
        "for name in ('stable_worldmodel', 'ray', 'mlflow', 'optuna'): sys.modules[name] = None\n"
        "import jepa_ray.adapters.stable_worldmodel\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
