"""Section `evaluation.planning`: how a world model is planned with, and on which tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jepa_ray.config.fields import Section
from jepa_ray.config.validation import validate

NO_PLANNING_WITH = "planning takes the environment's frames and steps as they are: it does not go with"

PLANNING_PRESETS: dict[str, dict[str, Any]] = {
    # The field's: CEM 300 x 30, top 30, 5 blocks of 5 steps, 50 episodes (DINO-WM, stable-worldmodel).
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
    """Section `planning`: how a world model is planned with, and on which tasks.

    `preset: paper` stands for the keys of the field's protocol; keys beside it go first. One of its planning
    steps takes 70 x the work of the defaults'.
    """

    planner: Literal["cem", "mppi"] = Field("cem", description="Search for the cheapest plan.")
    samples: int = Field(64, ge=2, description="Candidate plans of an iteration.")
    iterations: int = Field(4, ge=1, description="Iterations of the search in one planning step.")
    elites: int = Field(8, ge=1, description="cem: cheapest candidates that the next iteration is fitted to.")
    temperature: float = Field(
        0.1, gt=0, description="mppi: a candidate this many standard deviations of cost dearer counts 1/e."
    )
    horizon: int = Field(4, ge=1, description="Actions of a plan.")
    action_block: int = Field(3, ge=1, description="Environment steps that each action of a plan is held for.")
    replan_every: int = Field(1, ge=1, description="Environment steps after which the plan is made anew.")
    goal_ahead: int = Field(25, ge=1, description="A goal is what the behaviour policy sees this many steps later.")
    budget: int = Field(50, ge=1, description="Environment steps to reach the goal in.")
    episodes: int = Field(50, ge=1, description="Tasks; the interval of the success rate shrinks with their number.")
    seed: int = Field(0, ge=0, description="Seed of tasks, planner and random policy; no task is one of the dataset's.")

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
    def _search_fits(self) -> Self:
        if self.planner == "cem" and self.elites > self.samples:
            raise ValueError(f"elites is {self.elites}, but must not exceed samples ({self.samples})")
        steps = self.horizon * self.action_block
        if self.replan_every > steps:
            raise ValueError(
                f"replan_every is {self.replan_every}, but must not exceed the steps of a plan,"
                f" horizon x action_block ({self.horizon} x {self.action_block} = {steps})"
            )
        return self


def planning_config(overrides: Mapping[str, Any]) -> PlanningConfig:
    """How to plan, by the keys of `planning`. Raises `ConfigError`."""
    return validate(PlanningConfig, dict(overrides), "--set")
