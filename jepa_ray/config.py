"""Every setting there is: a train config (one run) and a sweep spec (many runs).

Configs are checked once, here, and trusted afterwards. This module imports neither torch nor Ray, so
`--help` and `--dry-run` are instant. What the YAML files look like is shown in `configs/` and `sweeps/`.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from jepa_ray import dimensions, documents, secrets
from jepa_ray.dimensions import Dimension, Range
from jepa_ray.errors import ConfigError

Mode = Literal["min", "max"]
Metric = Literal[
    "train_loss",
    "val_loss",
    "val_cosine",
    "val_skill",
    "persistence_ratio",
    "action_gap",
    "val_rollout_mrr",
    "val_mrr_chance",
    "val_mrr_z",
    "val_mrr_within",
    "val_mrr_within_chance",
    "val_mrr_within_z",
    "val_mrr_copy",
    "val_mrr_ceiling",
    "rollout_probe_r2",
    "embedding_std",
    "effective_rank",
    "temporal_share",
    "ema_gap",
    "ema_param_gap",
    "samples_per_s",
    "epoch_s",
]
METRICS: tuple[str, ...] = get_args(Metric)
SMALLER_IS_BETTER = {"train_loss", "val_loss", "persistence_ratio", "epoch_s"}

# What is wrong with a metric as an objective: a model that knows nothing can have the best value of it.
FAKED_BY: dict[str, str] = {
    "train_loss": "collapse: a constant embedding has loss 0",
    "val_loss": "collapse: a constant embedding has loss 0",
    "val_cosine": "collapse: constant embeddings have cosine 1",
    "val_skill": "slow features: knowing the trajectory explains most of the variance",
    "persistence_ratio": "an encoder whose steps are noise: copies of noise are easy to beat",
    "action_gap": "an encoder that keeps nothing but the action's effect",
    "val_mrr_copy": "a smooth encoder: it does not look at the predictions",
    "embedding_std": "noise, and the LayerNorm that sets it",
    "effective_rank": "noise, which has full rank, and the embedding's width",
    "temporal_share": "noise",
    "ema_gap": "the ema_decay that sets it",
    "ema_param_gap": "the ema_decay that sets it",
    "samples_per_s": "the smallest model",
    "epoch_s": "the smallest model",
}

# The same for all models: no objective at all.
CONSTANT = {"val_mrr_chance", "val_mrr_within_chance", "val_mrr_ceiling"}


class _Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ------------------------------------------------------------------------------------- one run


class CnnConfig(_Section):
    """Section `model.cnn`: the CNN encoder."""

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64, 128), min_length=1, description="Output channels of the stride-2 convolutions, first to last."
    )


class VitConfig(_Section):
    """Section `model.vit`: the vision transformer encoder."""

    patch_size: int = Field(8, ge=1, description="Side of a square patch, in pixels; must divide the image.")
    width: int = Field(
        128,
        ge=1,
        description="Token width; raised to latent_dim_state where that is larger, so it is never the bottleneck.",
    )
    depth: int = Field(4, ge=1, description="Transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the token width.")


class MlpConfig(_Section):
    """Section `model.mlp`: the MLP encoder."""

    width: int = Field(256, ge=1, description="Units of a hidden layer; raised to latent_dim_state if larger.")
    depth: int = Field(2, ge=1, description="Hidden layers.")


WIDEST, DEEPEST = 1 << 16, 1 << 10  # beyond any model: a larger number is a mistake, or meant to fill the memory


class ModelConfig(_Section):
    """Section `model`: the parts of the JEPA and their sizes."""

    encoder_type: Literal["vit", "cnn", "mlp"] = Field("vit", description="State encoder; vit and cnn need pixels.")
    latent_dim_state: int = Field(
        128, ge=2, description="Width of the state embedding, in numbers: the model's bottleneck."
    )
    latent_dim_action: int = Field(64, ge=1, description="Width of the action embedding, in numbers.")
    transition_depth: int = Field(4, ge=1, description="Transformer blocks of the transition model.")
    transition_heads: int = Field(4, ge=1, description="Attention heads; must divide latent_dim_state.")
    transition_mlp_ratio: float = Field(4.0, gt=0, description="Width of a block's MLP over latent_dim_state.")
    transition_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the transition model's blocks.")
    cnn: CnnConfig = CnnConfig()
    vit: VitConfig = VitConfig()
    mlp: MlpConfig = MlpConfig()

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        widths = {
            "latent_dim_state": self.latent_dim_state,
            "latent_dim_action": self.latent_dim_action,
            "transition_mlp_ratio": self.transition_mlp_ratio,
            "cnn.channels": max(self.cnn.channels),
            "vit.width": self.vit.width,
            "mlp.width": self.mlp.width,
        }
        depths = {
            "transition_depth": self.transition_depth,
            "cnn.channels": len(self.cnn.channels),
            "vit.depth": self.vit.depth,
            "mlp.depth": self.mlp.depth,
        }
        for sizes, most, what in ((widths, WIDEST, "wide"), (depths, DEEPEST, "deep")):
            if large := next((key for key, size in sizes.items() if size > most), None):
                raise ValueError(f"{large} is {sizes[large]:g} {what}, but no model is larger than {most}")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.latent_dim_state % self.transition_heads:
            raise ValueError(
                f"latent_dim_state is {self.latent_dim_state}, but must be divisible by"
                f" transition_heads ({self.transition_heads})"
            )
        width = max(self.vit.width, self.latent_dim_state)
        if self.encoder_type == "vit" and width % self.vit.heads:
            raise ValueError(f"vit.heads is {self.vit.heads}, but must divide the token width ({width})")
        return self


Weight = Annotated[float, Field(ge=0)]  # of a loss term; 0 leaves it out


class LossConfig(_Section):
    """Section `training.loss`: terms beside the objective, each a weight; all of them can be swept."""

    rollout_steps: int = Field(1, ge=1, description="K: open-loop steps that the objective is averaged over.")
    variance: Weight = Field(0.0, description="Weight of VICReg's hinge on the std of each embedding dimension.")
    covariance: Weight = Field(0.0, description="Weight of VICReg's squared off-diagonal covariances.")
    sigreg: Weight = Field(
        0.0, description="Weight of SIGReg: the distance of the embeddings from an isotropic Gaussian."
    )
    sigreg_directions: int = Field(256, ge=1, description="Random directions that SIGReg tests, new at each step.")
    inverse_dynamics: Weight = Field(
        0.0, description="Weight of the error of the action told from two successive embeddings."
    )
    temporal_similarity: Weight = Field(0.0, description="Weight of the squared distance of successive embeddings.")


MOST = 10**6  # of what is counted one by one: trials, epochs


class TrainingConfig(_Section):
    """Section `training`: optimisation, budget and workers of one run."""

    objective: Literal["jepa", "generative"] = Field(
        "jepa", description="jepa: predict the next embedding; generative: decode the next observation."
    )
    loss: LossConfig = LossConfig()
    ema_decay: float = Field(0.995, ge=0, lt=1, description="Share of the target encoder that an optimiser step keeps.")
    ema_decay_final: float | None = Field(
        None, ge=0, le=1, description="If set, the decay moves on a cosine from ema_decay to this over the run."
    )
    learning_rate: float = Field(1e-4, gt=0, description="AdamW learning rate (peak, if a schedule is set).")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="After warm-up: constant, or cosine to 0."
    )
    warmup_epochs: float = Field(0.0, ge=0, description="Linear warm-up of the learning rate, in epochs.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW decoupled weight decay, on matrices only.")
    grad_clip_norm: float | None = Field(1.0, gt=0, description="Global gradient norm limit; null: no clipping.")
    batch_size: int = Field(32, ge=1, description="Transitions per optimiser step, over all workers together.")
    num_epochs: int = Field(100, ge=1, le=MOST, description="Passes over the training transitions.")
    patience: int | None = Field(
        15, ge=1, description="Stop after this many epochs without a better objective; null: never."
    )
    collapse_epochs: int | None = Field(
        10, ge=1, description="Stop a run that is still at chance after so many epochs; null: never."
    )
    rollout_horizon: int = Field(5, ge=1, description="K of val_rollout_mrr: open-loop steps, averaged over 1..K.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast forward and loss.")
    compile: bool = Field(False, description="torch.compile the model.")
    num_workers: int = Field(1, ge=1, description="DDP workers that share each batch.")
    cpus_per_worker: int = Field(1, ge=1, description="CPU threads of one worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of one worker; above 0 trains on cuda.")

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        batch, workers = self.batch_size, self.num_workers
        if batch % workers:
            below = batch - batch % workers
            options = " or ".join(str(b) for b in (below, below + workers) if b)
            raise ValueError(
                f"batch_size is {batch}, but must be divisible by the number of workers ({workers}): use {options}"
            )
        return self


MOST_SIMULATED = 256 << 30  # bytes


class TwoRoomsConfig(_Section):
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
        if size > MOST_SIMULATED:
            raise ValueError(
                f"trajectories x steps x image_size^2 are {size / 2**30:,.0f} GiB of frames, but at most"
                f" {MOST_SIMULATED // 2**30} GiB are simulated"
            )
        return self


NO_PLANNING_WITH = "planning takes the environment's frames and steps as they are: it does not go with"

Side = Annotated[int, Field(ge=1, le=4096)]  # of a frame, in pixels


_SCHEME = r"^[a-z][a-z0-9+.-]+://"
Uri = Annotated[str, Field(pattern=_SCHEME)]


def is_uri(place: str) -> bool:
    """Whether a place is named by a URI; `file:///shared` is a path as well."""
    return bool(re.match(_SCHEME, place)) and not place.startswith("file://")


class DataConfig(_Section):
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


class Objective(_Section):
    """Which metric decides, and in which direction."""

    metric: Metric = Field(
        "val_rollout_mrr", description="What is optimised; see EXPERIMENTS.md before choosing a loss."
    )
    mode: Mode = Field("max", description="Whether larger or smaller is better; unset: what the metric calls better.")

    @model_validator(mode="before")
    @classmethod
    def _own_mode(cls, values: Any) -> Any:
        if isinstance(values, dict) and "mode" not in values and values.get("metric") in SMALLER_IS_BETTER:
            return {**values, "mode": "min"}
        return values

    @field_validator("metric")
    @classmethod
    def _differs(cls, metric: str) -> str:
        if metric in CONSTANT:
            raise ValueError(
                f"{metric} is the chance level, the same for all models, but an objective must tell them apart"
            )
        return metric

    @property
    def warning(self) -> str | None:
        """What can fake the metric, if anything is known to."""
        how = FAKED_BY.get(self.metric)
        return f"objective {self.metric} can be faked by {how}; val_rollout_mrr cannot" if how else None

    def __str__(self) -> str:
        return f"{self.mode} {self.metric}"

    def better(self, a: float, b: float | None) -> bool:
        """Whether value `a` beats `b`; anything beats nothing."""
        return b is None or (a > b if self.mode == "max" else a < b)

    def best(self, values: Iterable[float]) -> float | None:
        """The best of `values`, None of none."""
        return max(values, default=None) if self.mode == "max" else min(values, default=None)


Secretive = Annotated[str, AfterValidator(secrets.check)]  # a URI, whose credentials are written ${env:NAME}
Title = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=250)]  # one line that a database can hold


class TrackingConfig(_Section):
    """Where MLflow writes."""

    uri: Secretive | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, a password in it written ${env:NAME}; null: $MLFLOW_TRACKING_URI, else sqlite"
        " under the output root.",
    )
    experiment: Title | None = Field(None, description="MLflow experiment; null: the name of the sweep or run.")
    wandb: Title | None = Field(None, description="A W&B project to log runs and trials to as well.")


class SweepTracking(TrackingConfig):
    """Where MLflow writes what a sweep finds."""

    registered_model: str | None = Field(
        "auto",
        min_length=1,
        max_length=250,
        pattern=r"^[^/:'\"`\\\x00-\x1f\x7f]*[^/:'\"`\\\x00-\x1f\x7f.]$",
        description="Name in MLflow's Model Registry that the best model gets a version under at the sweep's end, with"
        " the alias `best`; auto: the sweep's name; null: it is not registered.",
    )


def _is_a_folder_anywhere(name: str) -> str:
    """A folder of that name may lie on a share that Windows opens, too."""
    if name.partition(".")[0].upper() in DEVICES:
        raise ValueError(f"is {name}, but no folder can have the name of a device of Windows")
    return name


DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}
# A name becomes a folder: no separators, no dot at either end.
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?$", max_length=100),
    AfterValidator(_is_a_folder_anywhere),
]


def check_name(name: str) -> str:
    """A name from the command line, if it can be that of a run or sweep. Raises `ConfigError`."""
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        rule = "must be letters, digits, _, - and dots, 100 at most, begin with no dot or - and end with no dot"
        raise ConfigError(f"the name is {name!r}, but {rule}") from None


class ExperimentConfig(_Section):
    """Section `experiment`: name, seed, objective and tracking of one run."""

    name: Name = Field("jepa_training", description="Folder of the run under the output root.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, data order and dropout.")
    objective: Objective = Objective()
    tracking: TrackingConfig = TrackingConfig()


class TrainConfig(_Section):
    """One training run. `data` has no default: a run without data means nothing."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig
    experiment: ExperimentConfig = ExperimentConfig()

    def with_overrides(self, overrides: Mapping[str, Any], source: str = "override") -> TrainConfig:
        """A copy with dotted keys replaced, validated again. Raises `ConfigError`."""
        return _validate(TrainConfig, _override(self.model_dump(), overrides, source), source)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML- and checkpoint-safe values (str, int, float, bool, None, list, dict)."""
        return self.model_dump(mode="json")


# --------------------------------------------------------------------------------------- a sweep


class SearchConfig(_Section):
    """Section `search`: what to try next, and how often."""

    algorithm: Literal["tpe", "random", "grid", "qmc", "cma-es", "gp", "nsga-ii", "curves"] = Field(
        "tpe",
        description="Optuna sampler. tpe: for every space; random; grid: every point in order; qmc: an even cover"
        " (Sobol); cma-es: for two ranges or more, choices are drawn at random; gp: a Gaussian process, for few and"
        " dear trials; nsga-ii: a genetic algorithm, for several objectives; curves: reads every epoch of every"
        " trial, for few and dear trials, best with scheduler median (EXPERIMENTS.md).",
    )
    num_trials: int = Field(
        81, ge=1, le=MOST, description="Configurations to try; a finite space ends the sweep earlier."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler.")
    repeats: int = Field(1, ge=1, description="Runs of each finalist, each with a seed of its own; 1: no repeats.")
    finalists: int = Field(3, ge=1, description="Complete trials, the best ones, that are repeated.")
    enqueue_base: bool = Field(
        True, description="Try the base config's own values before anything else, where the space has them."
    )
    enqueue: list[Annotated[dict[str, Any], Field(min_length=1)]] = Field(
        [],
        description="Configurations to try next, in order: dotted key -> value; missing keys are the sampler's choice.",
    )
    warm_start: list[Path] = Field(
        [],
        description="Folders of earlier sweeps of the same objective, whose trials the sampler (tpe, gp) learns from;"
        " relative to the working directory.",
    )

    @model_validator(mode="after")
    def _queue_fits(self) -> Self:
        if len(self.enqueue) > self.num_trials:
            raise ValueError(
                f"enqueue has {len(self.enqueue)} configurations, but num_trials is {self.num_trials}: not all would"
                " be tried"
            )
        return self


Scheduler = Literal["asha", "hyperband", "median", "none"]


class EarlyStopping(_Section):
    """Section `early_stopping`: the budget of a trial, and the rule that ends one before it is spent."""

    enabled: bool = Field(True, description="false: every trial trains max_epochs; the same as scheduler none.")
    scheduler: Scheduler = Field("asha", description="asha, hyperband (brackets of it), median, or none.")
    grace_epochs: int = Field(2, ge=1, description="First rung: no trial is stopped before it.")
    max_epochs: int = Field(6, ge=1, le=MOST, description="Epochs of a trial that is never stopped.")
    reduction_factor: int = Field(3, ge=2, description="A rung of asha or hyperband keeps the best 1/reduction_factor.")

    @model_validator(mode="after")
    def _grace_fits(self) -> Self:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs is {self.grace_epochs}, but must not exceed max_epochs ({self.max_epochs})")
        return self

    @property
    def rule(self) -> Scheduler:
        """The rule in force."""
        return self.scheduler if self.enabled else "none"

    def rungs(self) -> list[int]:
        """Epochs below max_epochs at which a trial can be stopped.

        From grace_epochs on: each one with `median`, else grace * reduction^i; a bracket of `hyperband` uses some.
        """
        epochs = range(self.grace_epochs, self.max_epochs)
        if self.rule == "none":
            return []
        if self.rule == "median":
            return list(epochs)
        powers = (self.grace_epochs * self.reduction_factor**i for i in itertools.count())
        return list(itertools.takewhile(lambda epoch: epoch < self.max_epochs, powers))


class Resources(_Section):
    """Section `resources`: what a trial takes of the cluster."""

    workers_per_trial: int = Field(1, ge=1, description="DDP workers of one trial.")
    cpus_per_worker: int = Field(1, ge=1, description="CPUs (threads) of one worker.")
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs of one worker; a fraction shares a GPU, above 1 it is a whole number."
    )
    max_concurrent: int | Literal["auto"] = Field(
        "auto",
        description="Trials at once, 1 or more; auto: as many as the CPUs and GPUs allow, on a cluster as many as those"
        " of its nodes do at the time. On a cluster, what does not fit waits, and so tells an autoscaler what to add.",
    )
    max_failures: int = Field(
        2,
        ge=0,
        description="Retries of a trial, from its checkpoint, before it is FAILED; on a cluster, those after the loss"
        " of a node are not counted.",
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _share_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"is {value:g}, but must be a share of one GPU, or a whole number")
        return value

    @field_validator("max_concurrent")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"is {value}, but must be at least 1, or auto")
        return value


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


class PlanningConfig(_Section):
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


class EvaluationConfig(_Section):
    """Section `evaluation`: what the best trials are put to when all are done."""

    plan_top_k: int = Field(0, ge=0, description="Plan with so many of the best trials, and rank them by success.")
    planning: PlanningConfig = PlanningConfig()


Goal = Annotated[
    Annotated[Objective, Tag("one")] | Annotated[tuple[Objective, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, (list, tuple)) else "one"),
]
_TAGS = (*dimensions.TAGS, "one", "several")


class SweepConfig(_Section):
    """A sweep: a base run, the space around it, and the budget to search it with."""

    name: Name = Field(description="Folder of the sweep under `sweeps` of the output root, and its name in MLflow.")
    base: TrainConfig = Field(
        description="The run that trials vary: a train config's path beside the spec, or its sections here."
    )
    space: dict[str, Dimension] = Field(
        min_length=1,
        max_length=200,
        description="Dotted key -> list of choices, or a range; as a mapping it may have a condition.",
    )
    goal: Goal = Field(
        Objective(), alias="objective", description="What decides; of a list the first one, the others are trade-offs."
    )
    search: SearchConfig = SearchConfig()
    early_stopping: EarlyStopping = EarlyStopping()
    resources: Resources = Resources()
    evaluation: EvaluationConfig = EvaluationConfig()
    storage: Secretive | None = Field(
        None,
        min_length=1,
        description="Where the sweep's state lies: a path that all nodes see, or a URI that pyarrow or fsspec knows"
        " (s3://...); null: $JEPA_RAY_STORAGE, else the output root.",
    )
    tracking: SweepTracking = SweepTracking()

    @model_validator(mode="after")
    def _can_plan(self) -> Self:
        if self.evaluation.plan_top_k and self.base.data.builtin is None:
            raise ValueError(
                f"evaluation.plan_top_k is {self.evaluation.plan_top_k}, but a file has no environment to plan in:"
                " planning needs data.builtin"
            )
        if self.evaluation.plan_top_k and (key := self.base.data.preparation):
            raise ValueError(
                f"evaluation.plan_top_k is {self.evaluation.plan_top_k}, but {NO_PLANNING_WITH} data.{key}"
            )
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All objectives; the sampler is told of every one."""
        return (self.goal,) if isinstance(self.goal, Objective) else self.goal

    @property
    def objective(self) -> Objective:
        """The first objective: it ranks, stops, and chooses a trial's best epoch."""
        return self.objectives[0]

    @model_validator(mode="after")
    def _objectives_differ(self) -> Self:
        metrics = [objective.metric for objective in self.objectives]
        if twice := [metric for i, metric in enumerate(metrics) if metric in metrics[:i]]:
            raise ValueError(f"objective names {twice[0]} twice")
        return self

    @model_validator(mode="after")
    def _space_fits_base(self) -> Self:
        dimensions.check_conditions(self.space)
        for key, dimension in self.space.items():
            if owner := SET_BY_SPEC.get(key):
                raise ValueError(f"space.{key} cannot be swept: the spec's {owner} sets it")
            values = dimensions.samples(dimension)
            for value, context in itertools.product(values, dimensions.contexts(self.space, key)):
                config = self._checked({**context, key: value}, f"space.{key}")
                if isinstance(_lookup(config, key), BaseModel):
                    raise ValueError(f"space.{key} is a whole section: sweep one of its keys")
            if twice := [value for i, value in enumerate(values) if value in values[:i]]:
                raise ValueError(f"space.{key} names {twice[0]} twice")
        return self

    @model_validator(mode="after")
    def _enqueued_fit_space(self) -> Self:
        for i, wanted in enumerate(self.search.enqueue):
            place = f"search.enqueue.{i}"
            for key, value in wanted.items():
                if key not in self.space:
                    raise ValueError(f"{place} names {key}, but must name swept keys: {', '.join(self.space)}")
                try:
                    dimensions.resolve(self.space[key], value)
                except ValueError as error:
                    raise ValueError(f"{place}.{key} {error}") from None
                for parent, allowed in dimensions.conditions(self.space[key]).items():
                    if wanted.get(parent) not in allowed:
                        raise ValueError(f"{place} names {key}, which exists only where {parent} is one of {allowed}")
            self._checked(wanted, place)
        return self

    def _checked(self, overrides: Mapping[str, Any], place: str) -> TrainConfig:
        try:
            return self.trial_config(overrides)
        except ConfigError as error:
            raise ValueError(f"{place}: {error}") from None

    def trial_config(self, overrides: Mapping[str, Any]) -> TrainConfig:
        """The train config of one trial: base, this spec's budget and resources, then `overrides`."""
        fixed = {key: _lookup(self, owner) for key, owner in SET_BY_SPEC.items()}
        return self.base.with_overrides(fixed | dict(overrides), source=f"trial of sweep {self.name}")

    def with_data(self, place: str) -> SweepConfig:
        """The same sweep with its data elsewhere."""
        data = self.base.data.model_copy(update={"path": place if is_uri(place) else Path(place)})
        return self.model_copy(update={"base": self.base.model_copy(update={"data": data})})

    @property
    def registered_model(self) -> str | None:
        """The name that the best model is registered under, if it is."""
        return self.name if self.tracking.registered_model == "auto" else self.tracking.registered_model

    def to_dict(self) -> dict[str, Any]:
        """The resolved spec (base inlined), as plain values."""
        return self.model_dump(mode="json", by_alias=True)


# Keys of a train config that a sweep spec sets for all its trials -> where the spec says so.
SET_BY_SPEC = {
    "training.num_epochs": "early_stopping.max_epochs",
    "training.num_workers": "resources.workers_per_trial",
    "training.cpus_per_worker": "resources.cpus_per_worker",
    "training.gpus_per_worker": "resources.gpus_per_worker",
    "experiment.objective.metric": "objective.metric",
    "experiment.objective.mode": "objective.mode",
}


def _lookup(node: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        node = getattr(node, part)
    return node


# --------------------------------------------------------------------------- loading and saving


def load_train_config(path: Path, sets: Iterable[str] = ()) -> TrainConfig:
    """Read and check a train config; `sets` are `dotted.key=value` from the command line.

    A relative `data.path` is taken from the folder of the file, one of `sets` from the working directory. Raises
    `ConfigError`.
    """
    return _validate(TrainConfig, _override(_read_train(path), _anchored(parse_sets(sets)), "--set"), str(path))


def load_sweep_config(path: Path, sets: Iterable[str] = ()) -> SweepConfig:
    """Read and check a sweep spec, its `base` resolved (a path beside the spec, or inline).

    `sets` may name any key of the spec, `base.` keys included. Raises `ConfigError`.
    """
    spec = documents.read(path)
    base = spec.get("base")
    if isinstance(base, str):
        spec["base"] = _read_train(_beside(path, base))
    elif isinstance(base, dict):
        _anchor_data_path(base, path)
    return _validate(SweepConfig, _override(spec, _anchored(parse_sets(sets)), "--set"), str(path))


def planning_config(overrides: Mapping[str, Any]) -> PlanningConfig:
    """How to plan, by the keys of `planning`. Raises `ConfigError`."""
    return _validate(PlanningConfig, dict(overrides), "--set")


def two_rooms_config(overrides: Mapping[str, Any]) -> TwoRoomsConfig:
    """The simulation that the keys of `data.two_rooms` describe. Raises `ConfigError`."""
    return _validate(TwoRoomsConfig, dict(overrides), "--set")


DEEPEST_KEY = 20  # dots of a dotted key: more than any config has


def parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1e-3"]` -> `{"a.b": 0.001}`; values are YAML. Raises `ConfigError`."""
    parsed = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals or not key or key.count(".") > DEEPEST_KEY:
            raise ConfigError(f"--set {shortened(item)}: must read dotted.key=value")
        try:
            parsed[key] = documents.parse(value)
        except ValueError:
            raise ConfigError(f"--set {item}: the value is not valid YAML") from None
    return parsed


def dump_yaml(values: Mapping[str, Any]) -> str:
    """`values` as block-style YAML, keys in their own order."""
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=100)


def _read_train(path: Path) -> dict[str, Any]:
    values = documents.read(path)
    _anchor_data_path(values, path)
    return values


def _anchor_data_path(values: dict[str, Any], config: Path) -> None:
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _beside_unless_uri(config, data["path"])


def _anchored(sets: dict[str, Any]) -> dict[str, Any]:
    """`sets` with their data paths made absolute: the config is saved, and read again from elsewhere."""
    paths = {key: sets[key] for key in ("data.path", "base.data.path") if isinstance(sets.get(key), str)}
    return sets | {key: _beside_unless_uri(Path("config"), name) for key, name in paths.items()}


def _beside_unless_uri(config: Path, name: str) -> str:
    return name if is_uri(name) else str(_beside(config, name.removeprefix("file://")))


def _beside(config: Path, name: str) -> Path:
    if "\0" in name:
        raise ConfigError(f"{config}: {shortened(repr(name))} is no path: it holds a zero byte")
    # not Path's own expanduser and resolve: they raise for users and circles of links that are not there
    return Path(os.path.realpath(config.parent / os.path.expanduser(name)))  # noqa: PTH111


def _override(values: dict[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`values` with dotted keys replaced; a key that passes through a scalar is an error."""
    result: dict[str, Any] = _copy_dicts(values)
    for dotted, value in overrides.items():
        # A sweep's space is itself keyed by dotted paths: what follows `space.` is one key.
        head, _, rest = dotted.partition(".")
        *parents, leaf = [head, rest] if head == "space" and rest else dotted.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{source}: {dotted}: {parent} is a value, not a section")
        node[leaf] = value
    return result


def _copy_dicts(value: Any) -> Any:
    return {k: _copy_dicts(v) for k, v in value.items()} if isinstance(value, dict) else value


M = TypeVar("M", bound=BaseModel)


def _validate(model: type[M], values: dict[str, Any], source: str) -> M:
    _refuse_secrets_elsewhere(model, values, source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(model, error)}") from None


TAKES_SECRETS = ("tracking.uri", "storage", "data.path")


def _refuse_secrets_elsewhere(model: type[BaseModel], values: dict[str, Any], source: str) -> None:
    """`${env:...}` is filled in where it is used: elsewhere it would stay as it is, and nobody would notice."""
    below = {TrainConfig: ("", "experiment."), SweepConfig: ("", "base.", "base.experiment.")}.get(model, ())
    taking = {f"{place}{key}" for place in below for key in TAKES_SECRETS}
    for key, value in _texts(values):
        if key not in taking and secrets.has_template(value):
            raise ConfigError(
                f"{source}: {shortened(key)} holds ${{env:...}}, but only {', '.join(TAKES_SECRETS)} take secrets:"
                " nothing would fill it in"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, and its dotted key; keys are texts, too."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            dotted = f"{key}.{name}".lstrip(".")
            yield from _texts(name if isinstance(name, str) else "", f"a key of {key or 'the document'}")
            yield from _texts(part, dotted)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, key)


def shortened(text: str, most: int = 200) -> str:
    """At most so many characters of a text that is shown in an error."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one line: key, value, rule; and how many more there are."""
    problems = error.errors(include_url=False)
    first, rest = problems[0], len({p["loc"] for p in problems}) - 1
    loc = tuple(part for i, part in enumerate(first["loc"]) if not (i in (1, 2) and part in _TAGS))
    key = shortened(".".join(str(part) for part in loc))
    if first["type"] == "extra_forbidden":
        text = f"unknown key {key}{_nearest(model, loc)}"
    elif first["type"] == "missing":
        text = f"{key} is missing"
    elif first["type"] == "value_error":
        text = (f"{key}: " if key else "") + str(first["ctx"]["error"])
    else:
        rule = first["msg"][0].lower() + first["msg"][1:]
        text = f"{key} is {shortened(repr(first['input']))}, but {rule.replace('input should', 'must')}"
    return text + (f" (and {rest} more)" if rest > 0 else "")


def _nearest(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Suggest the known key most like the last part of `loc`."""
    in_range = model is SweepConfig and loc[0] == "space" and len(loc) == 3
    node: Any = Range if in_range else model
    for part in () if in_range else (part for part in loc[:-1] if isinstance(part, str)):
        known = {field.alias or name: field for name, field in getattr(node, "model_fields", {}).items()}
        node = _first_model(known[part].annotation) if part in known else None
    fields = getattr(node, "model_fields", {})
    names = [field.alias or name for name, field in fields.items()]
    close = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.0)
    return f": did you mean {'.'.join(map(str, (*loc[:-1], close[0])))}?" if close else ""


def _first_model(annotation: Any) -> Any:
    """The model that an annotation is, or the first one inside it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _first_model(part))), None)
