"""One training run: sections `model`, `training`, `experiment`, and the config that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jepa_ray.config.catalogue import CONSTANT, FAKED_BY, SMALLER_IS_BETTER, Metric, Mode
from jepa_ray.config.data import DataConfig
from jepa_ray.config.fields import MAX_COUNT, Name, OneLine, Section, UriWithSecrets
from jepa_ray.config.validation import override, validate


class CnnConfig(Section):
    """Section `model.cnn`: the CNN encoder."""

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (32, 64, 128), min_length=1, description="Output channels of the stride-2 convolutions, first to last."
    )


class VitConfig(Section):
    """Section `model.vit`: the vision transformer encoder."""

    patch_size: int = Field(8, ge=1, description="Side of a square patch, in pixels; must divide the image.")
    width: int = Field(
        128,
        ge=1,
        description="Token width; raised to latent_dim_state where that is larger, so it is never the bottleneck.",
    )
    depth: int = Field(4, ge=1, description="Transformer blocks.")
    heads: int = Field(4, ge=1, description="Attention heads; must divide the token width.")


class MlpConfig(Section):
    """Section `model.mlp`: the MLP encoder."""

    width: int = Field(256, ge=1, description="Units of a hidden layer; raised to latent_dim_state if larger.")
    depth: int = Field(2, ge=1, description="Hidden layers.")


MAX_WIDTH, MAX_DEPTH = 1 << 16, 1 << 10  # beyond any model: a larger number is a mistake, or meant to fill the memory


class ModelConfig(Section):
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
        for sizes, most, what in ((widths, MAX_WIDTH, "wide"), (depths, MAX_DEPTH, "deep")):
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


class LossConfig(Section):
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


class TrainingConfig(Section):
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
    num_epochs: int = Field(100, ge=1, le=MAX_COUNT, description="Passes over the training transitions.")
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


class Objective(Section):
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


class TrackingConfig(Section):
    """Where MLflow writes."""

    uri: UriWithSecrets | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, a password in it written ${env:NAME}; null: $MLFLOW_TRACKING_URI, else sqlite"
        " under the output root.",
    )
    experiment: OneLine | None = Field(None, description="MLflow experiment; null: the name of the sweep or run.")
    wandb: OneLine | None = Field(None, description="A W&B project to log runs and trials to as well.")


class ExperimentConfig(Section):
    """Section `experiment`: name, seed, objective and tracking of one run."""

    name: Name = Field("jepa_training", description="Folder of the run under the output root.")
    seed: int = Field(0, ge=0, description="Seed of initialisation, data order and dropout.")
    objective: Objective = Objective()
    tracking: TrackingConfig = TrackingConfig()


class TrainConfig(Section):
    """One training run. `data` has no default: a run without data means nothing."""

    takes_secrets = ("data.path", "experiment.tracking.uri")

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig
    experiment: ExperimentConfig = ExperimentConfig()

    def with_overrides(self, overrides: Mapping[str, Any], source: str = "override") -> TrainConfig:
        """A copy with dotted keys replaced, validated again. Raises `ConfigError`."""
        return validate(TrainConfig, override(self.model_dump(), overrides, source), source)

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML- and checkpoint-safe values (str, int, float, bool, None, list, dict)."""
        return self.model_dump(mode="json")
