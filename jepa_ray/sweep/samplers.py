"""Optuna's samplers, each as a sweep of some dozens of trials needs it. What one cannot search, `plan` refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from jepa_ray import dimensions
from jepa_ray.config import SweepConfig
from jepa_ray.sweep.curves import CurveSampler


def make_sampler(spec: SweepConfig, done: int) -> BaseSampler:
    """The sampler that a spec names.

    `done` trials were suggested in earlier sessions: their random numbers must not come again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[spec.search.algorithm](spec, spec.search.seed + done)


def _tpe(spec: SweepConfig, seed: int) -> BaseSampler:
    conditional = any(dimensions.conditions(dimension) for dimension in spec.space.values())
    return TPESampler(seed=seed, multivariate=True, group=conditional, constant_liar=True)


def _random(spec: SweepConfig, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(spec: SweepConfig, seed: int) -> BaseSampler:
    """Scrambled Sobol points. The study counts them, so every session goes on with the one sequence of the seed."""
    return QMCSampler(
        scramble=True,
        seed=spec.search.seed,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


def _cma_es(spec: SweepConfig, seed: int) -> BaseSampler:
    """Learns from complete trials alone: a pruned one's value is of fewer epochs."""
    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _gp(spec: SweepConfig, seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _nsga_ii(spec: SweepConfig, seed: int) -> BaseSampler:
    """Optuna's generation of 50 would be drawn at random in most sweeps from the first trial to the last."""
    generation = max(4, min(50, spec.search.num_trials // 5))
    return NSGAIISampler(population_size=generation, seed=seed)


def _curves(spec: SweepConfig, seed: int) -> BaseSampler:
    return CurveSampler(spec.space, spec.early_stopping.max_epochs, seed)


_MAKERS: dict[str, Callable[[SweepConfig, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "grid": _random,  # of which nothing is left to chance: `Search` queues its points
    "qmc": _qmc,
    "cma-es": _cma_es,
    "gp": _gp,
    "nsga-ii": _nsga_ii,
    "curves": _curves,
}
