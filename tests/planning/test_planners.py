"""Planners find known optima, alone and in batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_ray.planning.planners import CEM, MPPI, Box, Cost, Planner, shifted

BOX = Box(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 4.0]))
PLANNERS = {"cem": CEM(128, 8, 16), "mppi": MPPI(256, 12, 0.1)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(target: Tensor) -> Cost:
    """The cheapest plan is `target` (E, H, A)."""
    return lambda plans: (plans - target[:, None]).square().sum((2, 3))


def targets(episodes: int = 3, horizon: int = 2) -> Tensor:
    share = torch.rand(episodes, horizon, 2, generator=seeded(1))
    return BOX.low + 0.9 * share * (BOX.high - BOX.low)


def centre(episodes: int = 3, horizon: int = 2) -> Tensor:
    return BOX.centre.expand(episodes, horizon, 2)


@pytest.fixture(params=PLANNERS)
def planner(request: pytest.FixtureRequest) -> Planner:
    return PLANNERS[request.param]


class TestEveryPlanner:
    def test_finds_the_optimum_of_every_episode(self, planner: Planner) -> None:
        found = planner(quadratic(targets()), centre(), BOX, seeded())
        torch.testing.assert_close(found, targets(), rtol=0, atol=0.15)

    def test_goes_to_the_border_for_an_optimum_outside_and_no_further(self, planner: Planner) -> None:
        found = planner(quadratic(torch.full((1, 2, 2), 9.0)), centre(1), BOX, seeded())
        assert (found <= BOX.high).all()
        torch.testing.assert_close(found, BOX.high.expand(1, 2, 2), rtol=0, atol=0.15)

    def test_candidates_are_in_the_box_and_include_the_plan(self, planner: Planner) -> None:
        seen = []

        def cost(plans: Tensor) -> Tensor:
            seen.append(plans)
            return plans.sum((2, 3))

        planner(cost, targets(), BOX, seeded())
        assert all(plans.shape == (3, planner.samples, 2, 2) for plans in seen)  # type: ignore[attr-defined]
        assert all(((plans >= BOX.low) & (plans <= BOX.high)).all() for plans in seen)
        assert torch.equal(seen[0][:, 0], targets()), "the given plan is a candidate itself"

    def test_an_episode_gets_the_same_plan_alone_and_in_a_batch(self, planner: Planner) -> None:
        together = planner(quadratic(targets()), centre(), BOX, seeded())
        for e in range(3):
            alone = planner(quadratic(targets()[e : e + 1]), centre(1), BOX, seeded())
            torch.testing.assert_close(alone[0], together[e])

    def test_the_plan_depends_on_the_seed(self, planner: Planner) -> None:
        first, same, other = (planner(quadratic(targets()), centre(), BOX, seeded(s)) for s in (0, 0, 1))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_the_scale_of_the_cost_does_not_matter(self, planner: Planner) -> None:
        once = planner(quadratic(targets()), centre(), BOX, seeded())
        scaled = planner(lambda p: 1000 * quadratic(targets())(p) + 7, centre(), BOX, seeded())
        torch.testing.assert_close(once, scaled, rtol=0, atol=0.02)

    def test_equal_costs_give_finite_plans(self, planner: Planner) -> None:
        assert planner(lambda plans: torch.zeros(plans.shape[:2]), centre(), BOX, seeded()).isfinite().all()


def test_cem_averages_the_elites() -> None:
    """After one iteration, the result is the mean of the cheapest candidates."""
    seen = []

    def cost(plans: Tensor) -> Tensor:
        seen.append(plans)
        return (plans - 0.5).square().sum((2, 3))

    found = CEM(50, 1, 5)(cost, centre(1), BOX, seeded())
    cheapest = seen[0][0][cost(seen[0])[0].argsort()[:5]]
    torch.testing.assert_close(found[0], cheapest.mean(0))


def test_mppi_takes_the_best_at_low_and_the_mean_at_high_temperature() -> None:
    seen = []

    def cost(plans: Tensor) -> Tensor:
        seen.append(plans)
        return (plans - 0.5).square().sum((2, 3))

    cold = MPPI(50, 1, 1e-6)(cost, centre(1), BOX, seeded())
    hot = MPPI(50, 1, 1e6)(cost, centre(1), BOX, seeded())
    torch.testing.assert_close(cold[0], seen[0][0, cost(seen[0])[0].argmin()])
    torch.testing.assert_close(hot[0], seen[1][0].mean(0), rtol=0, atol=1e-4)


class TestShifted:
    def test_drops_taken_actions_and_fills_the_end(self) -> None:
        plan = torch.tensor([[[1.0], [2.0], [3.0]]])
        assert shifted(plan, 1, 1, torch.tensor([9.0])).flatten().tolist() == [2, 3, 9]

    def test_of_blocks(self) -> None:
        plan = torch.tensor([[[3.0], [6.0]]])  # 3 3 3 6 6 6, after one step 3 3 6 6 6 0
        torch.testing.assert_close(shifted(plan, 1, 3, torch.zeros(1)).flatten(), torch.tensor([4.0, 4.0]))
        assert shifted(plan, 3, 3, torch.zeros(1)).flatten().tolist() == [6, 0]

    def test_of_a_plan_that_is_used_up(self) -> None:
        assert shifted(torch.ones(2, 2, 1), 4, 2, torch.zeros(1)).count_nonzero() == 0
