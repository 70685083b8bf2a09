"""How many worker groups, and so trials, run at once on given machines. No torch, no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

from jepa_ray.config import Resources
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine

TOLERANCE = 1e-9  # of quotients: five shares of 0.2 GPUs are one GPU, although 1 // 0.2 is 4 in floating point


def max_groups(resources: Resources, machines: Iterable[Machine]) -> int:
    """How many groups fit at once. A worker needs a single machine; the workers of a group may be on several."""
    return sum(_workers_on(machine, resources) for machine in machines) // resources.workers_per_trial


def _workers_on(machine: Machine, resources: Resources) -> int:
    """How many workers fit on one machine."""
    by_cpus = math.floor(machine.cpus / resources.cpus_per_worker + TOLERANCE)
    if not resources.gpus_per_worker:
        return by_cpus
    if resources.gpus_per_worker < 1:  # a share belongs to one GPU: it cannot be put together from two
        by_gpus = math.floor(machine.gpus) * math.floor(1 / resources.gpus_per_worker + TOLERANCE)
    else:
        by_gpus = math.floor(machine.gpus / resources.gpus_per_worker + TOLERANCE)
    return min(by_cpus, by_gpus)


def choose_concurrency(resources: Resources, machines: Sequence[Machine], *, growing: bool = False) -> int:
    """How many groups the sweep starts at once.

    Args:
        resources: what a trial takes, and the spec's `max_concurrent`.
        machines: what the sweep runs on.
        growing: more machines may join, so a number as `max_concurrent` is accepted even if it does not fit yet.

    Raises:
        ConfigError: not even one group fits, or fewer than `max_concurrent` do.
    """
    if growing and resources.max_concurrent != "auto":
        return resources.max_concurrent
    fitting = max_groups(resources, machines)
    if fitting == 0:
        _refuse(resources, machines, growing=growing)
    if resources.max_concurrent == "auto":
        return fitting
    if resources.max_concurrent > fitting:
        cpus, gpus = _total(machines)
        raise ConfigError(
            f"resources.max_concurrent is {resources.max_concurrent}, but only {fitting} trials fit at once"
            f" ({cpus:g} cpus, {gpus:g} gpus): use {fitting} or auto"
        )
    return resources.max_concurrent


def _total(machines: Sequence[Machine]) -> tuple[float, float]:
    """CPUs and GPUs of all machines."""
    return sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)


def _refuse(resources: Resources, machines: Sequence[Machine], *, growing: bool) -> NoReturn:
    """Raise `ConfigError`, which names the resource that not even one group has enough of."""
    wait = "set resources.max_concurrent to a number, and the sweep waits for nodes" if growing else None
    per_worker = ("cpus", resources.cpus_per_worker), ("gpus", resources.gpus_per_worker)
    for (name, share), available in zip(per_worker, _total(machines), strict=True):
        needed = share * resources.workers_per_trial
        if needed > available + TOLERANCE:
            raise ConfigError(
                f"resources: a trial needs {needed:g} {name} (workers_per_trial {resources.workers_per_trial} x"
                f" {name}_per_worker {share:g}), but there are {available:g}:"
                f" {wait or f'lower workers_per_trial or {name}_per_worker'}"
            )
    fitting = sum(_workers_on(machine, resources) for machine in machines)
    raise ConfigError(
        f"resources: each worker ({resources.cpus_per_worker} CPUs, {resources.gpus_per_worker:g} GPUs) must fit on one"
        f" node, but only {fitting} of the {resources.workers_per_trial} workers of a trial fit:"
        f" {wait or 'lower workers_per_trial, cpus_per_worker or gpus_per_worker'}"
    )
