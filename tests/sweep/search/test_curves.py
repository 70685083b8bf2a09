"""The sampler that reads learning curves, on planted ones; its process against the textbook's formulas."""

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
    """Best at (4, 3, 1)."""
    return -((params["a"] - 4) ** 2 + (params["b"] - 3) ** 2 + (params["c"] - 1) ** 2)


def trials_until_the_peak(study: optuna.Study, *, told: int = EPOCHS, sign: int = 1) -> int:
    """Trials that show `told` epochs each: lines that end at the peak's height."""
    while True:
        trial = ask(study, GRID)
        for epoch in range(1, told + 1):
            trial.report(sign * (peak(trial.params) * epoch / EPOCHS), epoch)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        if peak(trial.params) == 0:
            return trial.number + 1


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_a_peak_is_found_in_a_third_of_the_trials_of_chance(direction: str, sign: int) -> None:
    """Drawn without repeats, the 64 points take 32.5 trials in the mean."""
    taken = [trials_until_the_peak(study_of(GRID, seed, direction), sign=sign) for seed in range(6)]
    assert np.mean(taken) < 32.5 / 3


def test_stopped_trials_teach_as_well() -> None:
    """All trials are stopped after two of five epochs, and none is ever complete."""
    assert np.mean([trials_until_the_peak(study_of(GRID, seed), told=2) for seed in range(6)]) < 32.5 / 2


def test_no_point_is_asked_for_twice_after_the_first() -> None:
    study = study_of(GRID)
    asked = []
    for _ in range(40):
        trial = ask(study, GRID)
        trial.report(peak(trial.params), 1)
        asked.append(space.identity(trial.params))
    assert len(set(asked[5:]) - set(asked[:5])) == 35


def test_the_same_books_and_seed_ask_for_the_same() -> None:
    def asked() -> list[object]:
        study, numbers = study_of(GRID, seed=7), []
        for _ in range(12):
            trial = ask(study, GRID)
            trial.report(peak(trial.params), 1)
            numbers.append(trial.params)
        return numbers

    assert asked() == asked()


def test_a_trial_that_diverged_teaches_nothing_and_breaks_nothing() -> None:
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


def test_the_process_is_the_textbooks() -> None:
    """Rasmussen & Williams 2006, equations 2.25 and 2.26, by inverting the matrix."""
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


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    mean, deviation, best = np.array([0.2, 0.5, 0.9]), np.array([0.3, 0.1, 0.2]), 0.6
    draws = mean + deviation * np.random.default_rng(0).standard_normal((200_000, 3))
    gained = np.maximum(draws - best, 0).mean(0)
    np.testing.assert_allclose(_expected_improvement(mean, deviation, best), gained, atol=1e-3)
