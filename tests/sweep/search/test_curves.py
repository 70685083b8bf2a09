"""The sampler that uses learning curves, on synthetic ones, and its Gaussian process against a textbook's formulas."""

import math

import numpy as np
import optuna
import pytest

from jepa_ray.config import Dimension, Range
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.curves import CurveSampler, _Curves, _expected_improvement

GRID: dict[str, Dimension] = {key: [1, 2, 3, 4] for key in "abc"}
EPOCHS = 5


def study_of(dimensions: dict[str, Dimension], seed: int = 0, direction: str = "maximize") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=CurveSampler(dimensions, EPOCHS, seed), direction=direction)


def ask(study: optuna.Study, dimensions: dict[str, Dimension]) -> optuna.Trial:
    return study.ask(space.distributions(dimensions))


def peak(params: dict[str, int]) -> float:
    """The objective at the last epoch; the best point is (4, 3, 1)."""
    return -((params["a"] - 4) ** 2 + (params["b"] - 3) ** 2 + (params["c"] - 1) ** 2)


def trials_until_the_peak(study: optuna.Study, *, trained: int = EPOCHS, sign: int = 1) -> int:
    """How many trials of `trained` epochs it takes to reach the peak; a learning curve is a straight line."""
    while True:
        trial = ask(study, GRID)
        for epoch in range(1, trained + 1):
            trial.report(sign * (peak(trial.params) * epoch / EPOCHS), epoch)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        if peak(trial.params) == 0:
            return trial.number + 1


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_the_peak_is_found_in_a_third_of_the_trials_that_random_search_needs(direction: str, sign: int) -> None:
    """Random search without repetition takes 32.5 of the 64 points on average."""
    taken = [trials_until_the_peak(study_of(GRID, seed, direction), sign=sign) for seed in range(6)]
    assert np.mean(taken) < 32.5 / 3


def test_stopped_trials_are_used_as_well() -> None:
    """All trials are stopped after two of five epochs; there are no complete trials."""
    assert np.mean([trials_until_the_peak(study_of(GRID, seed), trained=2) for seed in range(6)]) < 32.5 / 2


def test_no_point_is_suggested_twice_after_the_random_ones() -> None:
    study = study_of(GRID)
    points = []
    for _ in range(40):
        trial = ask(study, GRID)
        trial.report(peak(trial.params), 1)
        points.append(space.identity(trial.params))
    assert len(set(points[5:]) - set(points[:5])) == 35


def test_the_same_results_and_seed_give_the_same_suggestions() -> None:
    def suggest() -> list[object]:
        study, suggested = study_of(GRID, seed=7), []
        for _ in range(12):
            trial = ask(study, GRID)
            trial.report(peak(trial.params), 1)
            suggested.append(trial.params)
        return suggested

    assert suggest() == suggest()


def test_a_trial_that_diverged_is_ignored() -> None:
    study = study_of(GRID)
    for number in range(12):
        trial = ask(study, GRID)
        trial.report(math.nan if number % 3 == 0 else peak(trial.params), 1)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len({space.identity(t.params) for t in study.trials[5:]}) == 7


def test_a_continuous_space_is_searched_too() -> None:
    dimensions: dict[str, Dimension] = {"x": Range(low=1e-5, high=1e-1, log=True), "kind": ["good", "bad"]}
    study = study_of(dimensions)
    for _ in range(20):
        trial = ask(study, dimensions)
        value = -abs(math.log10(trial.params["x"]) + 3) - (trial.params["kind"] == "bad")
        trial.report(value, EPOCHS)
        study.tell(trial, value)
    assert study.best_params["kind"] == "good"
    assert 10**-3.2 < study.best_params["x"] < 10**-2.8


def test_the_gaussian_process_agrees_with_a_textbook() -> None:
    """Rasmussen & Williams 2006, equations 2.25 and 2.26, with an explicit inverse."""
    rng = np.random.default_rng(0)
    inputs, at, values = rng.random((7, 3)), rng.random((4, 3)), rng.random(7)
    lengths, noise = np.array([0.5, 1.0, 2.0]), 0.1

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array([[math.exp(-0.5 * sum(((a - b) / lengths) ** 2)) for b in y] for a in x])

    inverse = np.linalg.inv(kernel(inputs, inputs) + noise**2 * np.eye(7))
    across, scale = kernel(at, inputs), values.std()
    mean, deviation = _Curves(inputs, values, lengths, noise).predict(at)
    np.testing.assert_allclose(mean, values.mean() + across @ inverse @ (values - values.mean()), rtol=1e-6)
    np.testing.assert_allclose(deviation, scale * np.sqrt(1 - np.diag(across @ inverse @ across.T)), rtol=1e-5)


def test_expected_improvement_is_the_mean_improvement_of_samples() -> None:
    mean, deviation, best = np.array([0.2, 0.5, 0.9]), np.array([0.3, 0.1, 0.2]), 0.6
    draws = mean + deviation * np.random.default_rng(0).standard_normal((200_000, 3))
    gained = np.maximum(draws - best, 0).mean(0)
    np.testing.assert_allclose(_expected_improvement(mean, deviation, best), gained, atol=1e-3)
