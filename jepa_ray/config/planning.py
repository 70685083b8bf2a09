"""Section `evaluation.planning`: the planner, and the tasks that it has to solve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jepa_ray.config.fields import Section
from jepa_ray.config.validation import validate

NO_PLANNING_WITH = "planning needs the environment's own frames and steps, and so cannot be combined with"

PLANNING_PRESETS: dict[str, dict[str, Any]] = {
    # The protocol of DINO-WM and stable-worldmodel: CEM 300 x 30, top 30, 5 blocks of 5 steps, 50 episodes.
    "paper": {
        "planner": "cem",
        "samples": 300,
        "iterations": 30,
        "elites": 30,
        "horizon": 5,
        "action_block": 5,
        "replan_every": 5,
        "goal_ahead": 25,
        "budget": 50,
        "episodes": 50,
    },
}


class PlanningConfig(Section):
    """Section `evaluation.planning`: the planner, and the tasks that it has to solve.

    `preset: paper` sets the keys of the literature's protocol; a key beside it takes precedence. A planning step
    of that protocol takes 70 times as much computation as one with the defaults.
    """

    planner: Literal["cem", "mppi"] = Field(
        "cem", description="Algorithm that searches for the plan with the lowest cost."
    )
    samples: int = Field(64, ge=2, description="Candidate plans per iteration.")
    iterations: int = Field(4, ge=1, description="Iterations of the search per planning step.")
    elites: int = Field(
        8, ge=1, description="cem: number of candidates with the lowest costs that the next iteration is fitted to."
    )
    temperature: float = Field(
        0.1,
        gt=0,
        description="mppi: the weight of a candidate falls by a factor of e for each increase of its cost by this many"
        " standard deviations.",
    )
    horizon: int = Field(4, ge=1, description="Number of actions in a plan.")
    action_block: int = Field(3, ge=1, description="Environment steps for which each action of a plan is repeated.")
    replan_every: int = Field(1, ge=1, description="Environment steps between two planning steps.")
    goal_ahead: int = Field(
        25, ge=1, description="A goal is the observation that the behaviour policy reaches after this many steps."
    )
    budget: int = Field(50, ge=1, description="Environment steps allowed to reach the goal.")
    episodes: int = Field(
        50, ge=1, description="Number of tasks; more tasks make the interval of the success rate narrower."
    )
    seed: int = Field(
        0, ge=0, description="Seed of the tasks, the planner and the random policy. No task is taken from the dataset."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "preset" not in values:
            return values
        given = dict(values)
        preset = given.pop("preset")
        if preset not in PLANNING_PRESETS:
            raise ValueError(f"preset is {preset}, but must be one of: {', '.join(PLANNING_PRESETS)}")
        return PLANNING_PRESETS[preset] | given

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.planner == "cem" and self.elites > self.samples:
            raise ValueError(f"elites is {self.elites}, but must not exceed samples ({self.samples})")
        steps = self.horizon * self.action_block
        if self.replan_every > steps:
            raise ValueError(
                f"replan_every is {self.replan_every}, but must not exceed the number of steps in a plan,"
                f" horizon x action_block ({self.horizon} x {self.action_block} = {steps})"
            )
        return self


def planning_config(overrides: Mapping[str, Any]) -> PlanningConfig:
    """The planning config with these keys changed from their defaults. Raises `ConfigError`."""
    return validate(PlanningConfig, dict(overrides), "--set")
