"""Optuna's samplers, configured for sweeps of some dozens of trials.

`plan_budget` refuses a spec whose sampler cannot search its space.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

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
from optuna.trial import FrozenTrial

from jepa_ray.config import SweepConfig, dimensions
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.search.curves import CurveSampler


def make_sampler(spec: SweepConfig, done: int) -> BaseSampler:
    """The sampler that a spec names.

    Args:
        spec: the sweep's spec.
        done: how many trials earlier sessions began; the random numbers of a new session must differ from theirs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _MAKERS[spec.search.algorithm](spec, spec.search.seed + done)


class _CmaEs(CmaEsSampler):
    """Checks the pickled optimizer that Optuna stores in the study before it is loaded: anyone may write the file."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {key: part for key, part in trial.system_attrs.items() if key.startswith(self._attr_key_optimizer)}
            if parts:
                _check_optimizer(self._concat_optimizer_attrs(parts), trial.number)
                break
        return super()._restore_optimizer(completed_trials)


def _check_optimizer(state: str, number: int) -> None:
    try:
        _OptimizerOnly(io.BytesIO(bytes.fromhex(state))).load()
    except Exception as error:
        raise ConfigError(
            f"optuna.db: the sampler's state in Optuna's trial {number} is not a CMA-ES optimizer ({error}), and is not"
            " loaded: start over with --fresh"
        ) from None


class _OptimizerOnly(pickle.Unpickler):
    """Unpickles numbers, arrays of numbers and the optimizer that holds them, and no other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in OPTIMIZER_PARTS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


# All classes and functions in the pickle of a CMA-ES optimizer. The module `core` of numpy 1 is `_core` in numpy 2.
OPTIMIZER_PARTS = {
    ("cmaes._cma", "CMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random.mtrand", "RandomState"),
}


def _tpe(spec: SweepConfig, seed: int) -> BaseSampler:
    conditional = any(dimensions.conditions(dimension) for dimension in spec.space.values())
    return TPESampler(seed=seed, multivariate=True, group=conditional, constant_liar=True)


def _random(spec: SweepConfig, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _qmc(spec: SweepConfig, seed: int) -> BaseSampler:
    """Scrambled Sobol points. Optuna counts them in the study, so every session continues the sequence of the seed."""
    return QMCSampler(
        scramble=True,
        seed=spec.search.seed,
        independent_sampler=RandomSampler(seed=seed),
        warn_independent_sampling=False,
    )


def _cma_es(spec: SweepConfig, seed: int) -> BaseSampler:
    """Uses complete trials only: the value of a pruned trial is the result of fewer epochs."""
    return _CmaEs(seed=seed, warn_independent_sampling=False)


def _gp(spec: SweepConfig, seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _nsga_ii(spec: SweepConfig, seed: int) -> BaseSampler:
    """With Optuna's generation of 50, most sweeps would draw all of their trials at random."""
    generation = max(4, min(50, spec.search.num_trials // 5))
    return NSGAIISampler(population_size=generation, seed=seed)


def _curves(spec: SweepConfig, seed: int) -> BaseSampler:
    return CurveSampler(spec.space, spec.early_stopping.max_epochs, seed)


_MAKERS: dict[str, Callable[[SweepConfig, int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "grid": _random,  # never draws a point: `Search` fixes every value
    "qmc": _qmc,
    "cma-es": _cma_es,
    "gp": _gp,
    "nsga-ii": _nsga_ii,
    "curves": _curves,
}
