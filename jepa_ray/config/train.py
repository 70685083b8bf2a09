"""The train config: the sections `model`, `training` and `experiment`, and the config that contains them."""

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
        (32, 64, 128), min_length=1, description="Output channels of the stride-2 convolutions, from first to last."
    )


class VitConfig(Section):
    """Section `model.vit`: the vision transformer encoder."""

    patch_size: int = Field(
        8, ge=1, description="Side of the square patches, in pixels; must divide the height and width of the image."
    )
    width: int = Field(
        128,
        ge=1,
        description="Token width. If latent_dim_state is larger, it is used instead, so that tokens are never the"
        " bottleneck.",
    )
    depth: int = Field(4, ge=1, description="Number of transformer blocks.")
    heads: int = Field(4, ge=1, description="Number of attention heads; must divide the token width.")


class MlpConfig(Section):
    """Section `model.mlp`: the MLP encoder."""

    width: int = Field(
        256, ge=1, description="Units per hidden layer. If latent_dim_state is larger, it is used instead."
    )
    depth: int = Field(2, ge=1, description="Number of hidden layers.")


MAX_WIDTH, MAX_DEPTH = 1 << 16, 1 << 10  # larger models are refused, since building one would fill the memory


class ModelConfig(Section):
    """Section `model`: the parts of the JEPA and their sizes."""

    encoder_type: Literal["vit", "cnn", "mlp"] = Field(
        "vit", description="Type of the state encoder; vit and cnn need pixels."
    )
    latent_dim_state: int = Field(
        128, ge=2, description="Dimension of the state embedding, which is the bottleneck of the model."
    )
    latent_dim_action: int = Field(64, ge=1, description="Dimension of the action embedding.")
    transition_depth: int = Field(4, ge=1, description="Number of transformer blocks in the transition model.")
    transition_heads: int = Field(
        4, ge=1, description="Number of attention heads in the transition model; must divide latent_dim_state."
    )
    transition_mlp_ratio: float = Field(
        4.0, gt=0, description="Width of the MLP in a block, as a multiple of latent_dim_state."
    )
    transition_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout rate in the blocks of the transition model."
    )
    cnn: CnnConfig = CnnConfig()
    vit: VitConfig = VitConfig()
    mlp: MlpConfig = MlpConfig()

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        widths = {
            "latent_dim_state": self.latent_dim_state,
            "latent_dim_action": self.latent_dim_action,
            "transition_mlp_ratio x latent_dim_state": self.transition_mlp_ratio * self.latent_dim_state,
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
        for sizes, limit, what in ((widths, MAX_WIDTH, "wide"), (depths, MAX_DEPTH, "deep")):
            if large := next((key for key, size in sizes.items() if size > limit), None):
                raise ValueError(f"{large} is {sizes[large]:g} {what}, but must be at most {limit}")
        return self

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.latent_dim_state % self.transition_heads:
            raise ValueError(
                f"latent_dim_state is {self.latent_dim_state}, but must be divisible by"
                f" transition_heads ({self.transition_heads})"
            )
        width = max(self.vit.width, self.latent_dim_state)
        if self.encoder_type == "vit" and width % self.vit.heads:
            raise ValueError(f"vit.heads is {self.vit.heads}, but must divide the token width ({width})")
        return self


Weight = Annotated[float, Field(ge=0)]  # of a loss term; with weight 0 it is not computed


class LossConfig(Section):
    """Section `training.loss`: the weights of loss terms that are added to the objective. All keys can be swept."""

    rollout_steps: int = Field(
        1, ge=1, description="K, the number of open-loop steps that the objective is averaged over."
    )
    variance: Weight = Field(
        0.0, description="Weight of VICReg's hinge loss on the standard deviation of each embedding dimension."
    )
    covariance: Weight = Field(
        0.0, description="Weight of VICReg's squared off-diagonal covariances of the embedding dimensions."
    )
    sigreg: Weight = Field(
        0.0, description="Weight of SIGReg, the distance of the embeddings' distribution from an isotropic Gaussian."
    )
    sigreg_directions: int = Field(
        256, ge=1, description="Number of random directions that SIGReg tests; new ones are drawn at each step."
    )
    inverse_dynamics: Weight = Field(
        0.0, description="Weight of the error of predicting the action from two successive embeddings."
    )
    temporal_similarity: Weight = Field(
        0.0, description="Weight of the squared distance between successive embeddings."
    )


class TrainingConfig(Section):
    """Section `training`: the optimisation, length and workers of one run."""

    objective: Literal["jepa", "generative"] = Field(
        "jepa", description="jepa: predict the next embedding; generative: decode the next observation."
    )
    loss: LossConfig = LossConfig()
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="Fraction of the target encoder's parameters that an optimiser step keeps."
    )
    ema_decay_final: float | None = Field(
        None, ge=0, le=1, description="If set, the decay follows a cosine from ema_decay to this value over the run."
    )
    learning_rate: float = Field(1e-4, gt=0, description="Learning rate of AdamW; with a schedule, its peak.")
    lr_schedule: Literal["constant", "cosine"] = Field(
        "constant", description="Learning rate after warm-up: constant, or a cosine decay to 0."
    )
    warmup_epochs: float = Field(0.0, ge=0, description="Length of the linear warm-up of the learning rate, in epochs.")
    weight_decay: float = Field(1e-4, ge=0, description="Decoupled weight decay of AdamW, applied to matrices only.")
    grad_clip_norm: float | None = Field(1.0, gt=0, description="Limit of the global gradient norm; null: no clipping.")
    batch_size: int = Field(32, ge=1, description="Transitions per optimiser step, summed over all workers.")
    num_epochs: int = Field(100, ge=1, le=MAX_COUNT, description="Number of passes over the training transitions.")
    patience: int | None = Field(
        15, ge=1, description="Stop after this many epochs without a better objective; null: never."
    )
    collapse_epochs: int | None = Field(
        10, ge=1, description="Stop a run that is still at chance after this many epochs; null: never."
    )
    rollout_horizon: int = Field(
        5, ge=1, description="K of val_rollout_mrr, which is averaged over open-loop roll-outs of 1 to K steps."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="fp32: full precision; bf16: autocast of the forward pass and the loss."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    num_workers: int = Field(1, ge=1, description="Number of DDP workers that share each batch.")
    cpus_per_worker: int = Field(1, ge=1, description="CPU threads per worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs per worker; above 0, training runs on CUDA.")

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        batch, workers = self.batch_size, self.num_workers
        if batch % workers:
            below = batch - batch % workers
            options = " or ".join(str(b) for b in (below, below + workers) if b)
            raise ValueError(
                f"batch_size is {batch}, but must be divisible by the number of workers ({workers}): use {options}"
            )
        return self


class Objective(Section):
    """Section `experiment.objective`: the metric to optimize, and its direction."""

    metric: Metric = Field(
        "val_rollout_mrr", description="The metric to optimize. EXPERIMENTS.md shows why it should not be a loss."
    )
    mode: Mode = Field(
        "max", description="max: larger is better; min: smaller is better; not set: the metric's own direction."
    )

    @model_validator(mode="before")
    @classmethod
    def _set_default_mode(cls, values: Any) -> Any:
        if isinstance(values, dict) and "mode" not in values and values.get("metric") in SMALLER_IS_BETTER:
            return {**values, "mode": "min"}
        return values

    @field_validator("metric")
    @classmethod
    def _refuse_constant(cls, metric: str) -> str:
        if metric in CONSTANT:
            raise ValueError(
                f"{metric} is the same for all models, but an objective must distinguish them: use val_rollout_mrr"
            )
        return metric

    @property
    def warning(self) -> str | None:
        """A warning if a model that has learned nothing can reach the best value of the metric, otherwise None."""
        how = FAKED_BY.get(self.metric)
        return f"objective {self.metric} can be faked by {how}; val_rollout_mrr cannot" if how else None

    def __str__(self) -> str:
        return f"{self.mode} {self.metric}"

    def better(self, a: float, b: float | None) -> bool:
        """Whether the value `a` is better than `b`. Every value is better than None."""
        return b is None or (a > b if self.mode == "max" else a < b)

    def best(self, values: Iterable[float]) -> float | None:
        """The best of `values`; None if there are no values."""
        return max(values, default=None) if self.mode == "max" else min(values, default=None)


class TrackingConfig(Section):
    """Section `experiment.tracking`: where runs are logged."""

    uri: UriWithSecrets | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, in which a password is written as ${env:NAME}; null: $MLFLOW_TRACKING_URI if"
        " it is set, otherwise an SQLite database in the output root.",
    )
    experiment: OneLine | None = Field(
        None, description="Name of the MLflow experiment; null: the name of the sweep or run."
    )
    wandb: OneLine | None = Field(None, description="W&B project in which runs and trials are logged too; null: none.")


class ExperimentConfig(Section):
    """Section `experiment`: name, seed, checkpoints, objective and tracking of one run."""

    name: Name = Field("jepa_training", description="Name of the run, and of its folder in the output root.")
    seed: int = Field(0, ge=0, description="Seed of the initialisation, the order of the data and dropout.")
    checkpoint_every: int | None = Field(
        None,
        ge=1,
        description="Keep the checkpoint of every N-th epoch, besides those of the best and the last epoch; null: keep"
        " only these two.",
    )
    keep_checkpoints: int | None = Field(
        5,
        ge=1,
        description="With checkpoint_every: how many of these checkpoints of a run or trial to keep, the newest ones;"
        " null: all of them.",
    )
    objective: Objective = Objective()
    tracking: TrackingConfig = TrackingConfig()


class TrainConfig(Section):
    """The config of one training run. Only `data` has no default."""

    takes_secrets = ("data.path", "experiment.tracking.uri")

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig
    experiment: ExperimentConfig = ExperimentConfig()

    def with_overrides(self, overrides: Mapping[str, Any], source: str = "override") -> TrainConfig:
        """A validated copy with dotted keys replaced. Raises `ConfigError`, which names `source`."""
        return validate(TrainConfig, override(self.model_dump(), overrides, source), source)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values for YAML files and checkpoints: str, int, float, bool, None, list, dict."""
        return self.model_dump(mode="json")
