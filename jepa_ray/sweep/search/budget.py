"""The budget of a sweep, worked out from its spec before anything starts. No torch, no Ray."""

from __future__ import annotations

from jepa_ray.config import Budget, SweepConfig, dimensions
from jepa_ray.config.dimensions import Range
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.search import space

# Algorithms whose samplers know conditional dimensions; the others would draw such a dimension at random.
CONDITIONAL_ALGORITHMS = ("tpe", "random", "grid")
SINGLE_OBJECTIVE_ALGORITHMS = ("cma-es", "curves")
# Algorithms that use warm-start trials; cma-es and nsga-ii only use trials that they suggested themselves.
WARM_START_ALGORITHMS = ("tpe", "gp")
MAX_CURVE_RESULTS = 3000  # epochs of all trials that the sampler `curves` can use: its time grows with their cube


def plan_budget(spec: SweepConfig) -> Budget:
    """The trials and epochs that a spec allows. Raises `ConfigError` if its algorithm cannot search its space."""
    points = space.size(spec.space)
    _check_algorithm(spec)
    trials = min(spec.search.num_trials, points or spec.search.num_trials)
    return Budget(
        points=points,
        trials=trials,
        repeats=min(trials, spec.search.finalists) * (spec.search.repeats - 1),
        rungs=spec.early_stopping.rungs(),
        max_epochs=spec.early_stopping.max_epochs,
    )


def _check_algorithm(spec: SweepConfig) -> None:
    """Refuse what Optuna's sampler would search badly or not at all, mostly without a message."""
    algorithm = spec.search.algorithm
    at = f"search.algorithm is {algorithm}, but"
    conditional = [key for key, dimension in spec.space.items() if dimensions.conditions(dimension)]
    ranges = [key for key, dimension in spec.space.items() if isinstance(dimension, Range)]
    continuous = [key for key, dimension in spec.space.items() if dimensions.values(dimension) is None]
    if algorithm == "grid" and continuous:
        raise ConfigError(f"{at} {continuous[0]} is a continuous range: give it a step or choices")
    if conditional and algorithm not in CONDITIONAL_ALGORITHMS:
        raise ConfigError(f"{at} {conditional[0]} has a condition: use {', '.join(CONDITIONAL_ALGORITHMS)}")
    if algorithm == "cma-es" and len(ranges) < 2:
        raise ConfigError(
            f"{at} it needs at least two ranges ({{low, high}}), and the space has {len(ranges)}: write ranges"
            " instead of choices, or use tpe"
        )
    if algorithm in SINGLE_OBJECTIVE_ALGORITHMS and len(spec.objectives) > 1:
        raise ConfigError(f"{at} it takes one objective, not {len(spec.objectives)}: use nsga-ii or tpe")
    results = spec.search.num_trials * spec.early_stopping.max_epochs
    if algorithm == "curves" and continuous and results > MAX_CURVE_RESULTS:
        raise ConfigError(
            f"{at} it can use the results of at most {MAX_CURVE_RESULTS:,} epochs, and search.num_trials x"
            f" early_stopping.max_epochs is {results:,}: lower one of them, or use tpe"
        )
    if spec.search.warm_start and algorithm not in WARM_START_ALGORITHMS:
        raise ConfigError(
            f"search.warm_start is set, but {algorithm} does not use trials of other sweeps:"
            f" use {', '.join(WARM_START_ALGORITHMS)}"
        )
