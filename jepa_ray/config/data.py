"""Section `data`: the dataset, its preparation and its split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jepa_ray import secrets
from jepa_ray.config.fields import Section, Uri

MAX_SIMULATED_BYTES = 256 << 30  # of the frames of a simulated dataset


class TwoRoomsConfig(Section):
    """Section `data.two_rooms`: the built-in simulated dataset."""

    trajectories: int = Field(400, ge=2, description="Number of episodes to simulate.")
    steps: int = Field(50, ge=1, description="Number of transitions per episode.")
    image_size: int = Field(32, ge=16, le=256, description="Height and width of the frames, in pixels.")
    wall: Literal["fixed", "random"] = Field(
        "fixed", description="fixed: the same wall in all episodes; random: a random wall in each episode."
    )
    dot_std: float = Field(
        2.0,
        gt=0,
        description="Standard deviation of the Gaussian dot, in pixels of a 32-pixel frame; it scales with the frame.",
    )
    seed: int = Field(0, ge=0, description="Seed of the walls, start positions and actions.")

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        size = self.trajectories * (self.steps + 1) * self.image_size**2 * 3
        if size > MAX_SIMULATED_BYTES:
            raise ValueError(
                f"trajectories x steps x image_size^2 gives {size / 2**30:,.0f} GiB of frames, but must give at most"
                f" {MAX_SIMULATED_BYTES // 2**30} GiB"
            )
        return self


Side = Annotated[int, Field(ge=1, le=4096)]  # height or width of a frame, in pixels


class DataConfig(Section):
    """Section `data`: the dataset, its preparation and its split."""

    path: Uri | Path | None = Field(
        None,
        union_mode="left_to_right",
        description="File, folder or URI (s3://...) of a dataset. Exactly one of path and builtin must be set;"
        " setting one with --set unsets the other.",
    )
    builtin: Literal["two_rooms"] | None = Field(
        None, description="Name of a built-in dataset, which is simulated on first use."
    )
    two_rooms: TwoRoomsConfig = TwoRoomsConfig()
    observation: str | None = Field(
        None, description="Column to learn from; null: `pixels` if the dataset has it, otherwise `observation`."
    )
    action_alignment: Literal["auto", "next", "previous"] = Field(
        "auto",
        description="Which two rows an action connects. next: action[t] leads from row t to row t + 1; previous:"
        " action[t] led to row t; auto: NaN actions at one end of the episodes decide; otherwise the format's rule,"
        " which the evidence in the data must not contradict.",
    )
    action_normalisation: Literal["none", "zscore", "range"] = Field(
        "none",
        description="Normalisation of continuous actions, computed from the training rows and applied inside the model,"
        " which always takes raw actions. zscore: to mean 0 and standard deviation 1; range: to [-1, 1].",
    )
    resize: tuple[Side, Side] | None = Field(
        None, description="Height and width to resize frames to, or one number for both; null: no resizing."
    )
    grayscale: bool = Field(False, description="Convert frames to one channel (luma).")
    frame_stack: int = Field(
        1,
        ge=1,
        description="History length: the number of frames that one observation stacks as channels, namely the present"
        " frame and the ones before it.",
    )
    frameskip: int = Field(
        1,
        ge=1,
        description="Number of rows that make one step; their actions are concatenated. In training, a step can begin"
        " at any row.",
    )
    max_trajectories: int | None = Field(
        None,
        ge=2,
        description="Use at most this many trajectories, evenly spaced over the dataset; null: all of them.",
    )
    val_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the trajectories that is held out for validation; null: the dataset's own validation"
        " split if it has one, otherwise 0.1.",
    )
    split_seed: int = Field(0, ge=0, description="Seed of the split of trajectories into training and validation.")
    cache_dir: Path | None = Field(
        None, description="Folder of the dataset caches; null: jepa_ray in the user's cache folder."
    )

    @property
    def first_preparation_key(self) -> str | None:
        """The first key that makes observations or steps differ from the environment's own; None without such a key."""
        changed = {
            "resize": self.resize is not None,
            "grayscale": self.grayscale,
            "frame_stack": self.frame_stack > 1,
            "frameskip": self.frameskip > 1,
        }
        return next((key for key, is_set in changed.items() if is_set), None)

    @field_validator("path")
    @classmethod
    def _refuse_secrets(cls, path: str | Path | None) -> str | Path | None:
        if isinstance(path, Path) and secrets.has_template(str(path)):
            raise ValueError("contains ${env:...}, which is filled in only in a URI, but this is a path")
        if isinstance(path, str):
            secrets.check(path)
        return path

    @field_validator("resize", mode="before")
    @classmethod
    def _expand_number(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.path is None) == (self.builtin is None):
            problem = "neither is: set one of them" if self.path is None else "both are: remove one of them"
            raise ValueError(f"exactly one of path and builtin must be set, but {problem}")
        return self
