"""A sweep: a base run, the space around it, and the budget to search it with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from jepa_ray.config import dimensions
from jepa_ray.config.dimensions import Dimension
from jepa_ray.config.fields import MAX_COUNT, Name, Section, UriWithSecrets, is_uri, lookup
from jepa_ray.config.planning import NO_PLANNING_WITH, PlanningConfig
from jepa_ray.config.train import Objective, TrackingConfig, TrainConfig
from jepa_ray.errors import ConfigError


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


class SearchConfig(Section):
    """Section `search`: what to try next, and how often."""

    algorithm: Literal["tpe", "random", "grid", "qmc", "cma-es", "gp", "nsga-ii", "curves"] = Field(
        "tpe",
        description="Optuna sampler. tpe: for every space; random; grid: every point in order; qmc: an even cover"
        " (Sobol); cma-es: for two ranges or more, choices are drawn at random; gp: a Gaussian process, for few and"
        " dear trials; nsga-ii: a genetic algorithm, for several objectives; curves: reads every epoch of every"
        " trial, for few and dear trials, best with scheduler median (EXPERIMENTS.md).",
    )
    num_trials: int = Field(
        81, ge=1, le=MAX_COUNT, description="Configurations to try; a finite space ends the sweep earlier."
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


StoppingRuleName = Literal["asha", "hyperband", "median", "none"]


class EarlyStopping(Section):
    """Section `early_stopping`: the budget of a trial, and the rule that ends one before it is spent."""

    enabled: bool = Field(True, description="false: every trial trains max_epochs; the same as scheduler none.")
    scheduler: StoppingRuleName = Field("asha", description="asha, hyperband (brackets of it), median, or none.")
    grace_epochs: int = Field(2, ge=1, description="First rung: no trial is stopped before it.")
    max_epochs: int = Field(6, ge=1, le=MAX_COUNT, description="Epochs of a trial that is never stopped.")
    reduction_factor: int = Field(3, ge=2, description="A rung of asha or hyperband keeps the best 1/reduction_factor.")

    @model_validator(mode="after")
    def _grace_fits(self) -> Self:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs is {self.grace_epochs}, but must not exceed max_epochs ({self.max_epochs})")
        return self

    @property
    def rule(self) -> StoppingRuleName:
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


class Resources(Section):
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


class EvaluationConfig(Section):
    """Section `evaluation`: what the best trials are put to when all are done."""

    plan_top_k: int = Field(0, ge=0, description="Plan with so many of the best trials, and rank them by success.")
    planning: PlanningConfig = PlanningConfig()


ObjectiveSpec = Annotated[
    Annotated[Objective, Tag("one")] | Annotated[tuple[Objective, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, (list, tuple)) else "one"),
]


class SweepConfig(Section):
    """A sweep: a base run, the space around it, and the budget to search it with."""

    takes_secrets = ("storage", "tracking.uri", "base.data.path", "base.experiment.tracking.uri")

    name: Name = Field(description="Folder of the sweep under `sweeps` of the output root, and its name in MLflow.")
    base: TrainConfig = Field(
        description="The run that trials vary: a train config's path beside the spec, or its sections here."
    )
    space: dict[str, Dimension] = Field(
        min_length=1,
        max_length=200,
        description="Dotted key -> list of choices, or a range; as a mapping it may have a condition.",
    )
    objective_spec: ObjectiveSpec = Field(
        Objective(), alias="objective", description="What decides; of a list the first one, the others are trade-offs."
    )
    search: SearchConfig = SearchConfig()
    early_stopping: EarlyStopping = EarlyStopping()
    resources: Resources = Resources()
    evaluation: EvaluationConfig = EvaluationConfig()
    storage: UriWithSecrets | None = Field(
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
        return (self.objective_spec,) if isinstance(self.objective_spec, Objective) else self.objective_spec

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
                if isinstance(lookup(config, key), BaseModel):
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
        fixed = {key: lookup(self, owner) for key, owner in SET_BY_SPEC.items()}
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
