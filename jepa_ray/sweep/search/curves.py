"""A sampler that uses learning curves: it predicts a configuration's last epoch from every epoch of every trial.

A Gaussian process over (configuration, epoch) is conditioned on every recorded value, also on those of stopped and of
running trials. The next trial is the one with the largest expected improvement at its last epoch (Jones et al. 1998;
for learning curves, Swersky et al. 2014). Choices that are all numbers are sorted, and equally far apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from jepa_ray.config.dimensions import Dimension
from jepa_ray.sweep.search import space

Array = NDArray[np.float64]
LENGTHS = (0.35, 0.7, 1.2, 2.5)  # length scales of a dimension, whose values are scaled to [0, 1]
CURVE_LENGTHS = (0.7, 1.5, 3.0)  # length scales of the logarithm of the epoch
NOISES = (0.03, 0.1, 0.2)  # standard deviations of the noise, relative to that of all values
STARTUP = 5  # the first trials, which are random
REFIT = 5  # length scales and noise are chosen again after this many trials
DRAWS = 200  # random candidates in a space with more than MAX_LISTED points
MAX_LISTED = 2000  # in a space with at most this many points, every new point is a candidate


class CurveSampler(BaseSampler):
    """Suggests the configuration with the largest expected improvement at the last epoch.

    Args:
        dimensions: the spec's space.
        epochs: the number of epochs of a trial that is not stopped.
        seed: for the first trials and for random candidates.
    """

    def __init__(self, dimensions: dict[str, Dimension], epochs: int, seed: int) -> None:
        self._distributions, self._epochs = space.distributions(dimensions), epochs
        size = space.size(dimensions)
        self._points = list(space.points(dimensions)) if size and size <= MAX_LISTED else None
        self._random = RandomSampler(seed=seed)
        self._curves: _Curves | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate with the largest expected improvement; {} for the first trials, so that Optuna draws them."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and t.params]
        observed = [t for t in others if t.intermediate_values and _all_finite(t.intermediate_values.values())]
        candidates = self._unseen(study, trial, {space.identity(t.params) for t in others})
        if len(others) < STARTUP or not observed or not candidates:
            return {}
        sign = -1 if study.direction.name == "MINIMIZE" else 1
        return candidates[int(np.argmax(self._improvement(candidates, observed, others, sign)))]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _unseen(self, study: Study, trial: FrozenTrial, seen: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """The candidates: all points of a small space, otherwise random ones; without those that were tried."""
        draws = self._points or [
            {k: self._random.sample_independent(study, trial, k, d) for k, d in self._distributions.items()}
            for _ in range(DRAWS)
        ]
        return [point for point in draws if space.identity(point) not in seen]

    def _improvement(
        self, candidates: list[dict[str, Any]], observed: list[FrozenTrial], others: list[FrozenTrial], sign: int
    ) -> Array:
        """The expected improvement (candidates,) of each candidate at its last epoch."""
        inputs = np.vstack([self._inputs([t.params], list(t.intermediate_values)) for t in observed])
        values = np.array([sign * value for t in observed for value in t.intermediate_values.values()])
        if self._curves is None or len(others) % REFIT == 0:
            self._curves = _Curves.fit(inputs, values)
        curves = self._curves.given(inputs, values)
        # A running trial is assumed to end at its predicted value, so that its neighbours look less promising.
        if running := [t.params for t in others if t.state is TrialState.RUNNING]:
            ends = self._inputs(running, [self._epochs])
            curves = curves.given(np.vstack([inputs, ends]), np.append(values, curves.predict(ends)[0]))
        mean, deviation = curves.predict(self._inputs(candidates, [self._epochs]))
        return _expected_improvement(mean, deviation, float(values.max()))

    def _inputs(self, points: list[dict[str, Any]], epochs: list[int]) -> Array:
        """One row per point and epoch (points * epochs, columns), epochs varying fastest; last column: log epoch."""
        rows = [[x for key, d in self._distributions.items() for x in _encode(d, point[key])] for point in points]
        return np.column_stack([np.repeat(rows, len(epochs), axis=0), np.tile(np.log(epochs), len(points))])


def _all_finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))


def _encode(distribution: BaseDistribution, value: Any) -> list[float]:
    """A value scaled to [0, 1], as one column; choices that are not all numbers get one column each."""
    if not isinstance(distribution, CategoricalDistribution):
        low, high, at = (math.log(x) if distribution.log else x for x in (distribution.low, distribution.high, value))
        return [(at - low) / (high - low) if high > low else 0.0]
    choices = distribution.choices
    if all(isinstance(c, (int, float)) for c in choices):
        return [sorted(choices).index(value) / max(1, len(choices) - 1)]
    return [math.sqrt(0.5) * (value == choice) for choice in choices]


class _Curves:
    """A Gaussian process with one length scale per column (dimensions, log epoch) and one noise level.

    Args:
        inputs: (observations, columns).
        values: (observations,), larger is better.
        lengths: length scales (columns,).
        noise: standard deviation, relative to that of `values`.
    """

    def __init__(self, inputs: Array, values: Array, lengths: Array, noise: float) -> None:
        self._inputs, self._lengths, self._noise = inputs, lengths, noise
        self._mean, self._scale = float(values.mean()), float(values.std()) + 1e-9
        # The Cholesky factor (observations, observations) of the covariance, and the whitened values (observations,).
        self._root = np.linalg.cholesky(self._kernel(inputs) + noise**2 * np.eye(len(inputs)))
        self._white = np.linalg.solve(self._root, (values - self._mean) / self._scale)

    @classmethod
    def fit(cls, inputs: Array, values: Array) -> _Curves:
        """The process with the most likely length scales and noise, chosen one after the other from a few values."""
        chosen = [0.7] * (inputs.shape[1] - 1) + [1.5, 0.1]
        options = [LENGTHS] * (inputs.shape[1] - 1) + [CURVE_LENGTHS, NOISES]
        for i, choices in enumerate(options):
            tried = [[*chosen[:i], choice, *chosen[i + 1 :]] for choice in choices]
            chosen = max(tried, key=lambda t: cls(inputs, values, np.array(t[:-1]), t[-1]).likelihood)
        return cls(inputs, values, np.array(chosen[:-1]), chosen[-1])

    def given(self, inputs: Array, values: Array) -> _Curves:
        """The process with the same length scales and noise for other observations."""
        return _Curves(inputs, values, self._lengths, self._noise)

    @property
    def likelihood(self) -> float:
        """Log marginal likelihood, up to a constant."""
        return float(-0.5 * self._white @ self._white - np.log(np.diag(self._root)).sum())

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the noiseless values at (points, columns), each (points,)."""
        across = np.linalg.solve(self._root, self._kernel(at).T)
        deviation = np.sqrt(np.maximum(1 - (across**2).sum(0), 1e-9))
        return self._mean + self._scale * (across.T @ self._white), self._scale * deviation

    def _kernel(self, at: Array) -> Array:
        """The squared-exponential kernel of (points, columns) and the observations: (points, observations)."""
        a, b = at / self._lengths, self._inputs / self._lengths
        return np.exp(-0.5 * np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))


def _expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """E[max(0, value - best)] of normally distributed values with these means and deviations, each (points,)."""
    z = (mean - best) / deviation
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return deviation * (z * below + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))
