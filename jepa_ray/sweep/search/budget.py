"""What a sweep will take, worked out before anything starts. No torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from jepa_ray.config import Resources, SweepConfig, dimensions
from jepa_ray.config.dimensions import Range
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine
from jepa_ray.sweep.search import space

FOR_CONDITIONS = ("tpe", "random", "grid")  # the others draw a dimension that not every trial has at random
FOR_ONE_OBJECTIVE = ("cma-es", "curves")
MAX_CURVE_RESULTS = 3000  # its time grows with their cube
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


def plan(spec: SweepConfig, *machines: Machine, growing: bool = False) -> Plan:
    """The plan of a sweep. Raises `ConfigError` for resources that can never fit, and for what cannot be searched.

    Args:
        spec: the sweep.
        machines: what it runs on.
        growing: more machines may come, so that a `max_concurrent` that does not fit yet is none too many.
    """
    points = space.size(spec.space)
    _check_search(spec, finite=points is not None)
    trials = min(spec.search.num_trials, points or spec.search.num_trials)
    return Plan(
        points=points,
        trials=trials,
        repeats=min(trials, spec.search.finalists) * (spec.search.repeats - 1),
        rungs=spec.early_stopping.rungs(),
        max_epochs=spec.early_stopping.max_epochs,
        groups=_groups(spec.resources, machines, growing),
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
    if algorithm == "curves" and not finite and results > MAX_CURVE_RESULTS:
        raise ConfigError(
            f"{at} learns from every epoch, at most {MAX_CURVE_RESULTS:,}, and num_trials x max_epochs is {results:,}:"
            " use tpe"
        )
    if spec.search.warm_start and algorithm not in LEARN_FROM_OTHERS:
        raise ConfigError(
            f"search.warm_start is set, but {algorithm} learns nothing from other sweeps:"
            f" use {', '.join(LEARN_FROM_OTHERS)}"
        )


def fitting(wanted: Resources, machines: Iterable[Machine]) -> int:
    """How many groups fit at once: a worker needs one machine, the workers of a group may be on several."""
    return sum(_workers_on(machine, wanted) for machine in machines) // wanted.workers_per_trial


def _workers_on(machine: Machine, wanted: Resources) -> int:
    cpus = machine.cpus / wanted.cpus_per_worker
    if not wanted.gpus_per_worker:
        return math.floor(cpus + TINY)
    if wanted.gpus_per_worker < 1:  # a share is one of one GPU
        gpus = math.floor(machine.gpus) * math.floor(1 / wanted.gpus_per_worker + TINY)
    else:
        gpus = math.floor(machine.gpus / wanted.gpus_per_worker + TINY)
    return min(math.floor(cpus + TINY), gpus)


def _groups(wanted: Resources, machines: Sequence[Machine], growing: bool) -> int:
    most = fitting(wanted, machines)
    if growing and wanted.max_concurrent != "auto":
        return wanted.max_concurrent
    offered = {"cpus": sum(m.cpus for m in machines), "gpus": sum(m.gpus for m in machines)}
    if most == 0:
        _refuse(wanted, offered, len(machines), growing)
    if wanted.max_concurrent == "auto":
        return most
    if wanted.max_concurrent > most:
        raise ConfigError(
            f"resources.max_concurrent is {wanted.max_concurrent}, but only {most} trials fit at once"
            f" ({offered['cpus']:g} cpus, {offered['gpus']:g} gpus): use {most} or auto"
        )
    return wanted.max_concurrent


def _refuse(wanted: Resources, offered: Mapping[str, float], machines: int, growing: bool) -> NoReturn:
    """Say what keeps even one group from starting."""
    hint = ": a number as resources.max_concurrent waits for nodes" if growing else ": it could never start"
    for name, per_worker in (("cpus", wanted.cpus_per_worker), ("gpus", wanted.gpus_per_worker)):
        needed = per_worker * wanted.workers_per_trial
        if needed > offered[name] + TINY:
            raise ConfigError(
                f"resources: a trial needs {needed:g} {name} (workers_per_trial {wanted.workers_per_trial} x"
                f" {name}_per_worker {per_worker:g}), but there are {offered[name]:g}{hint}"
            )
    raise ConfigError(
        f"resources: a worker of {wanted.cpus_per_worker} cpu(s) and {wanted.gpus_per_worker:g} gpu(s) needs one node,"
        f" and fewer than workers_per_trial ({wanted.workers_per_trial}) of them fit on the {machines} node(s){hint}"
    )
