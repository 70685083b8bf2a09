"""What a sweep will take, worked out before anything starts. No torch, no Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jepa_ray import dimensions
from jepa_ray.config import SweepConfig
from jepa_ray.dimensions import Range
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine
from jepa_ray.sweep import space

FOR_CONDITIONS = ("tpe", "random", "grid")  # the others draw a dimension that not every trial has at random
FOR_ONE_OBJECTIVE = ("cma-es", "curves")
MOST_CURVE_RESULTS = 3000  # its time grows with their cube
LEARN_FROM_OTHERS = ("tpe", "gp")  # cma-es and nsga-ii learn only from trials that they suggested themselves

TINY = 1e-9  # 5 x 0.2 GPUs are one GPU, whatever floats say


@dataclass(frozen=True)
class Plan:
    """The budget of a sweep."""

    points: int | None  # of a finite space
    trials: int  # at most
    repeats: int  # of the finalists, beside the trials
    rungs: list[int]
    max_epochs: int  # of one trial
    groups: int  # trials at once

    @property
    def runs(self) -> int:
        """Trials and repeats."""
        return self.trials + self.repeats

    @property
    def worst_case_epochs(self) -> int:
        """Epochs if no trial is stopped early."""
        return self.runs * self.max_epochs


def plan(spec: SweepConfig, machine: Machine) -> Plan:
    """The plan of a sweep. Raises `ConfigError` for resources that can never fit, and for what cannot be searched."""
    points = space.size(spec.space)
    _check_search(spec, finite=points is not None)
    trials = min(spec.search.num_trials, points or spec.search.num_trials)
    return Plan(
        points=points,
        trials=trials,
        repeats=min(trials, spec.search.finalists) * (spec.search.repeats - 1),
        rungs=spec.early_stopping.rungs(),
        max_epochs=spec.early_stopping.max_epochs,
        groups=_groups(spec, machine),
    )


def _check_search(spec: SweepConfig, *, finite: bool) -> None:
    """Refuse a search that Optuna's sampler would do badly or not at all, mostly without a word."""
    algorithm = spec.search.algorithm
    at = f"search.algorithm is {algorithm}, but"
    conditional = [key for key, dimension in spec.space.items() if dimensions.conditions(dimension)]
    ranges = [key for key, dimension in spec.space.items() if isinstance(dimension, Range)]
    if algorithm == "grid" and not finite:
        raise ConfigError(f"{at} the space has a continuous dimension: give it a step or choices")
    if conditional and algorithm not in FOR_CONDITIONS:
        raise ConfigError(f"{at} {conditional[0]} has a condition: use {', '.join(FOR_CONDITIONS)}")
    if algorithm == "cma-es" and len(ranges) < 2:
        raise ConfigError(
            f"{at} needs two ranges ({{low, high}}) or more, and the space has {len(ranges)}: write ranges"
            " instead of choices, or use tpe"
        )
    if algorithm in FOR_ONE_OBJECTIVE and len(spec.objectives) > 1:
        raise ConfigError(f"{at} takes one objective, not {len(spec.objectives)}: use nsga-ii or tpe")
    results = spec.search.num_trials * spec.early_stopping.max_epochs
    if algorithm == "curves" and not finite and results > MOST_CURVE_RESULTS:
        raise ConfigError(
            f"{at} learns from every epoch, at most {MOST_CURVE_RESULTS:,}, and num_trials x max_epochs is {results:,}:"
            " use tpe"
        )
    if spec.search.warm_start and algorithm not in LEARN_FROM_OTHERS:
        raise ConfigError(
            f"search.warm_start is set, but {algorithm} learns nothing from other sweeps:"
            f" use {', '.join(LEARN_FROM_OTHERS)}"
        )


def _groups(spec: SweepConfig, machine: Machine) -> int:
    wanted = spec.resources
    fits = []
    for name, per_worker, offered in (
        ("cpus", wanted.cpus_per_worker, machine.cpus),
        ("gpus", wanted.gpus_per_worker, machine.gpus),
    ):
        needed = per_worker * wanted.workers_per_trial
        if needed > offered + TINY:
            raise ConfigError(
                f"resources: a trial needs {needed:g} {name} (workers_per_trial {wanted.workers_per_trial} x"
                f" {name}_per_worker {per_worker:g}), but there are {offered:g}: it could never start"
            )
        if needed:
            fits.append(math.floor(offered / needed + TINY))
    most = min(fits)
    if wanted.max_concurrent == "auto":
        return most
    if wanted.max_concurrent > most:
        raise ConfigError(
            f"resources.max_concurrent is {wanted.max_concurrent}, but only {most} trials fit at once"
            f" ({machine.cpus:g} cpus, {machine.gpus:g} gpus): use {most} or auto"
        )
    return wanted.max_concurrent
