"""Section `data`: what to train on, how it is prepared, and the split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jepa_ray import secrets
from jepa_ray.config.fields import Section, Uri

MAX_SIMULATED_BYTES = 256 << 30  # bytes


class TwoRoomsConfig(Section):
    """Section `data.two_rooms`: the built-in simulation."""

    trajectories: int = Field(400, ge=2, description="Episodes to simulate.")
    steps: int = Field(50, ge=1, description="Transitions of one episode.")
    image_size: int = Field(32, ge=16, le=256, description="Side of the square frame, in pixels.")
    wall: Literal["fixed", "random"] = Field(
        "fixed", description="One wall for all episodes, or one drawn per episode."
    )
    dot_std: float = Field(
        2.0, gt=0, description="Standard deviation of the Gaussian dot, in pixels at 32 px; scales with the frame."
    )
    seed: int = Field(0, ge=0, description="Seed of walls, starts and actions.")

    @model_validator(mode="after")
    def _fits_a_disk(self) -> Self:
        size = self.trajectories * (self.steps + 1) * self.image_size**2 * 3
        if size > MAX_SIMULATED_BYTES:
            raise ValueError(
                f"trajectories x steps x image_size^2 are {size / 2**30:,.0f} GiB of frames, but at most"
                f" {MAX_SIMULATED_BYTES // 2**30} GiB are simulated"
            )
        return self


NO_PLANNING_WITH = "planning takes the environment's frames and steps as they are: it does not go with"

Side = Annotated[int, Field(ge=1, le=4096)]  # of a frame, in pixels


class DataConfig(Section):
    """Section `data`: what to train on, how it is prepared, and the split."""

    path: Uri | Path | None = Field(
        None,
        union_mode="left_to_right",
        description="A dataset's file or folder, or its URI (s3://...); exactly one of path and builtin.",
    )
    builtin: Literal["two_rooms"] | None = Field(None, description="A built-in dataset, made on first use.")
    two_rooms: TwoRoomsConfig = TwoRoomsConfig()
    observation: str | None = Field(
        None, description="Column to learn from; null: `pixels` if the data has it, else `observation`."
    )
    action_alignment: Literal["auto", "next", "previous"] = Field(
        "auto",
        description="next: action[t] leads from row t to t + 1; previous: it led to row t; auto: by the format's rule"
        " and the evidence in the data, refused where they disagree.",
    )
    action_normalisation: Literal["none", "zscore", "range"] = Field(
        "none",
        description="Of continuous actions, inside the model: zscore: to mean 0 and std 1, range: to [-1, 1], by the"
        " training rows; the model takes raw actions in any case.",
    )
    resize: tuple[Side, Side] | None = Field(None, description="Height and width of frames, or one number for both.")
    grayscale: bool = Field(False, description="Frames as luma, one channel.")
    frame_stack: int = Field(
        1, ge=1, description="History length: frames of one observation, this one and those before it, as channels."
    )
    frameskip: int = Field(
        1, ge=1, description="Rows of one step; its actions lie side by side. Every row can begin a step in training."
    )
    max_trajectories: int | None = Field(
        None, ge=2, description="Use only so many trajectories, evenly spaced over the dataset; null: all."
    )
    val_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the trajectories held out for validation; null: what the dataset holds out itself,"
        " else 0.1.",
    )
    split_seed: int = Field(0, ge=0, description="Seed of the split by trajectory.")
    cache_dir: Path | None = Field(None, description="Where caches lie; null: jepa_ray in the user's cache folder.")

    @property
    def preparation(self) -> str | None:
        """A key by which observations or steps differ from the environment's own, if there is one."""
        changed = {
            "resize": self.resize is not None,
            "grayscale": self.grayscale,
            "frame_stack": self.frame_stack > 1,
            "frameskip": self.frameskip > 1,
        }
        return next((key for key, is_set in changed.items() if is_set), None)

    @field_validator("path")
    @classmethod
    def _no_secrets_in(cls, path: str | Path | None) -> str | Path | None:
        if isinstance(path, Path) and secrets.has_template(str(path)):
            raise ValueError("holds ${env:...}, but only a URI takes secrets: in a path nothing is filled in")
        if isinstance(path, str):
            secrets.check(path)
        return path

    @field_validator("resize", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.builtin is None):
            found = "neither is" if self.path is None else "both are: set builtin to null for the path"
            raise ValueError(f"exactly one of path and builtin must be set, and {found}")
        return self
