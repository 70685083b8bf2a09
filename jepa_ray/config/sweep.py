"""The sweep spec: a base train config, the search space around it, and the budget of the search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Discriminator, Field, Tag, field_validator, model_validator

from jepa_ray.config import dimensions
from jepa_ray.config.dimensions import Dimension
from jepa_ray.config.fields import MAX_COUNT, ModelName, Name, Section, UriWithSecrets, is_uri, lookup
from jepa_ray.config.planning import NO_PLANNING_WITH, PlanningConfig
from jepa_ray.config.train import Objective, TrackingConfig, TrainConfig
from jepa_ray.errors import ConfigError


class SweepTracking(TrackingConfig):
    """Section `tracking`: where the results of a sweep are logged."""

    registered_model: ModelName | None = Field(
        "auto",
        description="Name of the model in MLflow's Model Registry. At the end of the sweep, the best model is"
        " registered as a new version with the alias `best`. auto: the name of the sweep; null: it is not registered.",
    )


class SearchConfig(Section):
    """Section `search`: the sampler, the number of trials, and the repeats of the best ones."""

    algorithm: Literal["tpe", "random", "grid", "qmc", "cma-es", "gp", "nsga-ii", "curves"] = Field(
        "tpe",
        description="Optuna sampler. tpe: suits every space; random: independent random points; grid: all points in"
        " order; qmc: covers the space evenly (Sobol); cma-es: needs at least two ranges, and samples choices at"
        " random; gp: a Gaussian process, for a few expensive trials; nsga-ii: a genetic algorithm, for several"
        " objectives; curves: learns from every epoch of every trial, for a few expensive trials, best with the"
        " scheduler median (EXPERIMENTS.md).",
    )
    num_trials: int = Field(
        81,
        ge=1,
        le=MAX_COUNT,
        description="Number of trials; a sweep ends earlier when all points of a finite space have been tried.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampler.")
    repeats: int = Field(1, ge=1, description="Runs of each finalist, each with its own seed; 1: no repeats.")
    finalists: int = Field(3, ge=1, description="Number of finalists: the best complete trials, which are repeated.")
    enqueue_base: bool = Field(True, description="Try the values of the base config first, if they are in the space.")
    enqueue: list[Annotated[dict[str, Any], Field(min_length=1)]] = Field(
        [],
        description="Configurations to try next, in this order, each a mapping from dotted key to value. The sampler"
        " chooses the values of missing keys.",
    )
    warm_start: list[Path] = Field(
        [],
        description="Folders of earlier sweeps with the same objective. The sampler (tpe or gp) learns from their"
        " trials. Relative paths are relative to the working directory.",
    )

    @model_validator(mode="after")
    def _check_enqueue(self) -> Self:
        if len(self.enqueue) > self.num_trials:
            raise ValueError(
                f"enqueue has {len(self.enqueue)} configurations, but num_trials is {self.num_trials}: remove some, or"
                " raise num_trials"
            )
        return self


StoppingRuleName = Literal["asha", "hyperband", "median", "none"]


class EarlyStopping(Section):
    """Section `early_stopping`: the epochs of a trial, and the stopping rule that ends unpromising trials early."""

    enabled: bool = Field(True, description="false: every trial trains for max_epochs, as with scheduler none.")
    scheduler: StoppingRuleName = Field(
        "asha", description="Stopping rule: asha, hyperband (several brackets of asha), median, or none."
    )
    grace_epochs: int = Field(2, ge=1, description="The first rung: no trial is stopped before this epoch.")
    max_epochs: int = Field(6, ge=1, le=MAX_COUNT, description="Epochs of a trial that is not stopped early.")
    reduction_factor: int = Field(
        3, ge=2, description="At each rung, asha and hyperband keep the best 1/reduction_factor of the trials."
    )

    @model_validator(mode="after")
    def _check_grace(self) -> Self:
        if self.grace_epochs > self.max_epochs:
            raise ValueError(f"grace_epochs is {self.grace_epochs}, but must not exceed max_epochs ({self.max_epochs})")
        return self

    @property
    def rule(self) -> StoppingRuleName:
        """The stopping rule that is used."""
        return self.scheduler if self.enabled else "none"

    def rungs(self) -> list[int]:
        """The epochs below max_epochs at which a trial can be stopped.

        With `median`, all epochs from grace_epochs on; otherwise grace_epochs * reduction_factor^i, of which each
        bracket of `hyperband` uses some.
        """
        epochs = range(self.grace_epochs, self.max_epochs)
        if self.rule == "none":
            return []
        if self.rule == "median":
            return list(epochs)
        powers = (self.grace_epochs * self.reduction_factor**i for i in itertools.count())
        return list(itertools.takewhile(lambda epoch: epoch < self.max_epochs, powers))


class Resources(Section):
    """Section `resources`: the CPUs and GPUs of a trial, and how many trials run at once."""

    workers_per_trial: int = Field(1, ge=1, description="DDP workers per trial.")
    cpus_per_worker: int = Field(1, ge=1, description="CPUs (threads) per worker.")
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs per worker: a fraction of one GPU, or a whole number of GPUs."
    )
    max_concurrent: int | Literal["auto"] = Field(
        "auto",
        description="Maximum number of trials that run at once; auto: as many as the CPUs and GPUs allow, on a cluster"
        " those of its present nodes. On a cluster, trials that do not fit wait, and so make an autoscaler add nodes.",
    )
    max_failures: int = Field(
        2,
        ge=0,
        description="Number of times that a trial is retried from its checkpoint before it is FAILED. On a cluster,"
        " retries after the loss of a node are not counted.",
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"is {value:g}, but must be a fraction of one GPU, or a whole number")
        return value

    @field_validator("max_concurrent")
    @classmethod
    def _check_max_concurrent(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"is {value}, but must be at least 1, or auto")
        return value


class EvaluationConfig(Section):
    """Section `evaluation`: planning with the best trials, after all trials have ended."""

    plan_top_k: int = Field(
        0,
        ge=0,
        description="Number of the best trials to plan with; they are ranked by their planning score. 0: no planning.",
    )
    planning: PlanningConfig = PlanningConfig()


ObjectiveSpec = Annotated[
    Annotated[Objective, Tag("one")] | Annotated[tuple[Objective, ...], Field(min_length=1), Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, (list, tuple)) else "one"),
]


class SweepConfig(Section):
    """The sweep spec: a base train config, the search space around it, and the budget of the search."""

    takes_secrets = ("storage", "tracking.uri", "base.data.path", "base.experiment.tracking.uri")

    name: Name = Field(
        description="Name of the sweep: its folder is `sweeps/NAME` in the output root, and its MLflow experiment has"
        " this name.",
    )
    base: TrainConfig = Field(
        description="The train config that the trials vary: its path relative to the spec, or its sections."
    )
    space: dict[str, Dimension] = Field(
        min_length=1,
        max_length=200,
        description="Search space: for each swept dotted key a list of choices, a range, or a mapping with a"
        " condition.",
    )
    objective_spec: ObjectiveSpec = Field(
        Objective(),
        alias="objective",
        description="The metric to optimize. In a list, the first metric ranks the trials; the others are trade-offs.",
    )
    search: SearchConfig = SearchConfig()
    early_stopping: EarlyStopping = EarlyStopping()
    resources: Resources = Resources()
    evaluation: EvaluationConfig = EvaluationConfig()
    storage: UriWithSecrets | None = Field(
        None,
        min_length=1,
        description="Where the state of the sweep is stored: a path that all nodes can reach, or a URI that pyarrow or"
        " fsspec can open (s3://...); null: $JEPA_RAY_STORAGE if it is set, otherwise the output root.",
    )
    tracking: SweepTracking = SweepTracking()

    @model_validator(mode="after")
    def _check_planning(self) -> Self:
        if self.evaluation.plan_top_k and self.base.data.builtin is None:
            raise ValueError(
                f"evaluation.plan_top_k is {self.evaluation.plan_top_k}, but the data is a file, without an environment"
                " to plan in: set base.data.builtin, or evaluation.plan_top_k to 0"
            )
        if self.evaluation.plan_top_k and (key := self.base.data.first_preparation_key):
            raise ValueError(
                f"evaluation.plan_top_k is {self.evaluation.plan_top_k}, but {NO_PLANNING_WITH}"
                f" base.data.{key}; remove it, or set evaluation.plan_top_k to 0"
            )
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """All objectives. The sampler learns from each of them."""
        return (self.objective_spec,) if isinstance(self.objective_spec, Objective) else self.objective_spec

    @property
    def objective(self) -> Objective:
        """The first objective: it ranks and stops trials, and selects the best epoch of each trial."""
        return self.objectives[0]

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        metrics = [objective.metric for objective in self.objectives]
        if twice := [metric for i, metric in enumerate(metrics) if metric in metrics[:i]]:
            raise ValueError(f"objective names {twice[0]} twice: remove one of them")
        return self

    @model_validator(mode="after")
    def _check_space(self) -> Self:
        dimensions.check_conditions(self.space)
        for key, dimension in self.space.items():
            if owner := SET_BY_SPEC.get(key):
                raise ValueError(f"space.{key} cannot be swept, since {owner} of the spec sets it")
            values = dimensions.samples(dimension)
            for value, context in itertools.product(values, dimensions.contexts(self.space, key)):
                config = self._check_trial({**context, key: value}, f"space.{key}")
                if isinstance(lookup(config, key), BaseModel):
                    raise ValueError(f"space.{key} is a section, but must be a key: sweep one of the keys in it")
            if twice := [value for i, value in enumerate(values) if value in values[:i]]:
                raise ValueError(f"space.{key} names {twice[0]} twice: remove one of them")
        return self

    @model_validator(mode="after")
    def _check_enqueued(self) -> Self:
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
                        raise ValueError(f"{place} names {key}, which exists only if {parent} is one of {allowed}")
            self._check_trial(wanted, place)
        return self

    def _check_trial(self, overrides: Mapping[str, Any], place: str) -> TrainConfig:
        try:
            return self.trial_config(overrides)
        except ConfigError as error:
            raise ValueError(f"{place}: {error}") from None

    def trial_config(self, overrides: Mapping[str, Any]) -> TrainConfig:
        """The train config of one trial: the base, with the budget and resources of this spec, and then `overrides`."""
        fixed = {key: lookup(self, owner) for key, owner in SET_BY_SPEC.items()}
        return self.base.with_overrides(fixed | dict(overrides), source=f"trial of sweep {self.name}")

    def with_data(self, place: str) -> SweepConfig:
        """The same sweep with another data path or URI."""
        data = self.base.data.model_copy(update={"path": place if is_uri(place) else Path(place)})
        return self.model_copy(update={"base": self.base.model_copy(update={"data": data})})

    @property
    def registered_model(self) -> str | None:
        """The name under which the best model is registered; None if it is not registered."""
        return self.name if self.tracking.registered_model == "auto" else self.tracking.registered_model

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, with its base inlined."""
        return self.model_dump(mode="json", by_alias=True)


# Keys of a train config that a sweep spec sets for all of its trials -> the key of the spec that sets them.
SET_BY_SPEC = {
    "training.num_epochs": "early_stopping.max_epochs",
    "training.num_workers": "resources.workers_per_trial",
    "training.cpus_per_worker": "resources.cpus_per_worker",
    "training.gpus_per_worker": "resources.gpus_per_worker",
    "experiment.objective.metric": "objective.metric",
    "experiment.objective.mode": "objective.mode",
}
