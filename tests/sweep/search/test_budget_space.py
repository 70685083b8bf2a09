from __future__ import annotations

import itertools
from typing import Any

import pytest
from helpers.studies import make_spec
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jepa_ray.config import Resources, SweepConfig
from jepa_ray.config.dimensions import Choices, Dimension, Range
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine
from jepa_ray.sweep.concurrency import choose_concurrency
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.budget import plan_budget

RATE = "training.learning_rate"
DEPTH = "model.transition_depth"


def spec(swept: dict[str, Any] | None = None, **sections: Any) -> SweepConfig:
    return make_spec(space=swept or {DEPTH: [2, 4]}, **{"search": {}, "early_stopping": {}, **sections})


def dimension(**keys: Any) -> Range:
    return Range.model_validate(keys)


def listed(dim: Dimension) -> list[Any]:
    return [point["k"] for point in space.points({"k": dim})]


# ------------------------------------------------------------------------------------------- space


@pytest.mark.parametrize(
    ("dim", "values", "distribution"),
    [
        ([64, 128, 256], [64, 128, 256], CategoricalDistribution([64, 128, 256])),
        (["cnn", "vit"], ["cnn", "vit"], CategoricalDistribution(["cnn", "vit"])),
        ([[8, 16], [16, 32]], ["[8, 16]", "[16, 32]"], CategoricalDistribution(["[8, 16]", "[16, 32]"])),
        ([None, 1.0], [None, 1.0], CategoricalDistribution([None, 1.0])),
        (dimension(low=1, high=4, int=True), [1, 2, 3, 4], IntDistribution(1, 4)),
        (dimension(low=1, high=10, step=3, int=True), [1, 4, 7, 10], IntDistribution(1, 10, step=3)),
        (dimension(low=2, high=5, log=True, int=True), [2, 3, 4, 5], IntDistribution(2, 5, log=True)),
        (dimension(low=0, high=1, step=0.25), [0, 0.25, 0.5, 0.75, 1], FloatDistribution(0, 1, step=0.25)),
    ],
)
def test_finite_dimension_lists_its_values(dim: Dimension, values: list[Any], distribution: Any) -> None:
    assert listed(dim) == values
    assert space.size({"k": dim}) == len(values)
    assert space.distributions({"k": dim}) == {"k": distribution}


@pytest.mark.parametrize(
    ("dim", "distribution"),
    [
        (dimension(low=1e-5, high=1e-3, log=True), FloatDistribution(1e-5, 1e-3, log=True)),
        (dimension(low=0.5, high=0.9), FloatDistribution(0.5, 0.9)),
    ],
)
def test_continuous_dimension_has_no_size(dim: Dimension, distribution: Any) -> None:
    assert space.distributions({"k": dim}) == {"k": distribution}
    assert space.size({"k": dim}) is None
    assert space.size({"a": [1, 2], "k": dim}) is None


def test_integer_values_are_ints() -> None:
    for value in listed(dimension(low=1, high=3, int=True)):
        assert type(value) is int


def test_steps_that_do_not_meet_high_stay_below_it() -> None:
    assert listed(dimension(low=1, high=9, step=3, int=True)) == [1, 4, 7]
    assert listed(dimension(low=0, high=1, step=0.4)) == [0, 0.4, 0.8]


@settings(deadline=None, max_examples=200)
@given(
    low=st.integers(0, 20).map(lambda n: n / 10),
    step=st.integers(1, 10).map(lambda n: n / 10),
    count=st.integers(1, 12),
    integer=st.booleans(),
)
def test_every_point_is_one_that_optuna_can_draw(low: float, step: float, count: int, integer: bool) -> None:
    """A point that is above `high` by a rounding error is outside the user's range, and Optuna does not know it."""
    if integer:
        low, step = round(low * 10), round(step * 10)
    high = round(low + step * count, 10)
    assume(high > low)
    dim = dimension(low=low, high=high, step=step, int=integer)
    distribution = space.distributions({"k": dim})["k"]
    values = listed(dim)
    assert len(values) == count + 1
    for value in values:
        assert low <= value <= high
        assert distribution._contains(distribution.to_internal_repr(value))


def test_points_are_the_product_with_the_last_key_fastest() -> None:
    swept: dict[str, Dimension] = {"a": [1, 2], "b": dimension(low=3, high=5, int=True), "c": ["x", "y"]}
    expected = [{"a": a, "b": b, "c": c} for a in (1, 2) for b in (3, 4, 5) for c in ("x", "y")]
    assert list(space.points(swept)) == expected
    assert space.size(swept) == len(expected) == 12


def test_points_are_generated_one_by_one() -> None:
    huge: dict[str, Dimension] = {key: list(range(100)) for key in "abcdef"}
    assert space.size(huge) == 100**6
    assert next(iter(space.points(huge))) == dict.fromkeys("abcdef", 0)


def test_a_choice_that_is_listed_twice_is_refused_or_counted_once() -> None:
    """Otherwise a grid search over 3 points, of which only 2 exist, would never be exhausted."""
    try:
        swept = spec({DEPTH: [2, 4, 2]}).space
    except ValueError:
        return
    assert space.size(swept) == 2


CONDITIONAL = {
    "model.vit.depth": {
        "choices": [1, 2],
        "when": {"model.encoder_type": "vit"},
    },  # before its parent
    "model.encoder_type": ["vit", "mlp", "cnn"],
    "model.vit.width": {"choices": [64, 128], "when": {"model.vit.depth": [2], "model.encoder_type": ["vit"]}},
    "model.mlp.width": {"low": 64, "high": 128, "int": True, "step": 64, "when": {"model.encoder_type": ["mlp"]}},
    DEPTH: [2, 4, 6],
}


def test_conditional_space_has_the_points_that_exist() -> None:
    encoders = [
        {"model.encoder_type": "vit", "model.vit.depth": 1},
        {"model.encoder_type": "vit", "model.vit.depth": 2, "model.vit.width": 64},
        {"model.encoder_type": "vit", "model.vit.depth": 2, "model.vit.width": 128},
        {"model.encoder_type": "mlp", "model.mlp.width": 64},
        {"model.encoder_type": "mlp", "model.mlp.width": 128},
        {"model.encoder_type": "cnn"},
    ]
    swept = spec(CONDITIONAL).space
    assert list(space.points(swept)) == [{**encoder, DEPTH: depth} for encoder in encoders for depth in (2, 4, 6)]
    assert space.size(swept) == 18


def test_size_of_a_large_conditional_space_is_not_counted_point_by_point() -> None:
    keys = ["model.vit.heads", "model.vit.width", "model.mlp.width", "model.mlp.depth", "model.latent_dim_action"]
    swept: dict[str, Any] = {key: dimension(low=1, high=1000, int=True) for key in keys}
    swept |= {"model.encoder_type": ["vit", "mlp"]}
    swept["model.vit.heads"] = dimension(low=1, high=1000, int=True, when={"model.encoder_type": "vit"})
    assert space.size(swept) == 1000**4 + 1000**5


def test_a_continuous_dimension_with_a_condition_makes_the_space_infinite() -> None:
    assert space.size({"a": [1, 2], "k": dimension(low=0.5, high=0.9, when={"a": 1})}) is None


def test_a_condition_on_a_list_or_a_step_holds_for_the_values_that_optuna_returns() -> None:
    swept: dict[str, Dimension] = {
        "a": dimension(low=0, high=1, step=0.1),
        "b": [[8], [16]],
        "c": Choices(choices=[1], when={"a": [0.3], "b": [[8]]}),
    }
    assert space.active(swept["c"], {"a": 0.30000000000000004, "b": "[8]"})
    assert not space.active(swept["c"], {"a": 0.4, "b": "[8]"})
    assert not space.active(swept["c"], {"a": 0.3, "b": "[16]"})


# ------------------------------------------------------------------------------------- concurrency


@pytest.mark.parametrize(
    ("resources", "machine", "groups"),
    [
        ({}, Machine(2, 0), 2),
        ({}, Machine(7.9, 0), 7),
        ({"cpus_per_worker": 3}, Machine(8, 0), 2),
        ({"workers_per_trial": 2, "cpus_per_worker": 2}, Machine(8, 0), 2),
        ({"workers_per_trial": 2}, Machine(3, 0), 1),
        ({"gpus_per_worker": 1}, Machine(16, 4), 4),
        ({"gpus_per_worker": 1, "workers_per_trial": 2}, Machine(16, 5), 2),
        ({"gpus_per_worker": 1}, Machine(3, 8), 3),  # limited by the cpus
        ({"gpus_per_worker": 0.5}, Machine(16, 1), 2),
        ({"gpus_per_worker": 0.25, "workers_per_trial": 2}, Machine(16, 2), 4),
        ({"gpus_per_worker": 0.2}, Machine(16, 1), 5),  # 1 // 0.2 is 4
        ({"gpus_per_worker": 0.1}, Machine(16, 1), 10),  # 1 // 0.1 is 9
        ({"max_concurrent": 1}, Machine(8, 0), 1),
        ({"max_concurrent": 8}, Machine(8, 0), 8),
    ],
)
def test_groups_are_as_many_as_the_scarcest_resource_allows(
    resources: dict[str, Any], machine: Machine, groups: int
) -> None:
    assert choose_concurrency(Resources.model_validate(resources), [machine]) == groups


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"cpus_per_worker": 9}, "a trial needs 9 cpus (workers_per_trial 1 x cpus_per_worker 9), but there are 8"),
        ({"workers_per_trial": 16}, "a trial needs 16 cpus (workers_per_trial 16 x cpus_per_worker 1)"),
        ({"gpus_per_worker": 1}, "a trial needs 1 gpus (workers_per_trial 1 x gpus_per_worker 1), but there are 0"),
        ({"gpus_per_worker": 0.5}, "a trial needs 0.5 gpus"),
    ],
)
def test_resources_that_never_fit_are_refused(resources: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose_concurrency(Resources.model_validate(resources), [Machine(8, 0)])
    assert message in str(caught.value)
    name = "gpus" if "gpus_per_worker" in resources else "cpus"
    assert str(caught.value).endswith(f": lower workers_per_trial or {name}_per_worker")


def test_more_trials_at_once_than_fit_are_refused_with_the_number_that_fits() -> None:
    with pytest.raises(ConfigError, match=r"max_concurrent is 5, but only 4 trials fit at once.*use 4 or auto"):
        choose_concurrency(Resources(cpus_per_worker=2, max_concurrent=5), [Machine(8, 0)])


# ------------------------------------------------------------------------------------------ budget


def test_grid_on_a_continuous_space_is_refused() -> None:
    swept = {RATE: {"low": 1e-5, "high": 1e-3, "log": True}}
    with pytest.raises(
        ConfigError, match=rf"search\.algorithm is grid, but {RATE} is a continuous range: give it a step or choices"
    ):
        plan_budget(spec(swept, search={"algorithm": "grid"}))
    assert plan_budget(spec(swept, search={"algorithm": "tpe", "num_trials": 7})).trials == 7


def test_curves_is_refused_on_a_continuous_space_with_too_many_epochs() -> None:
    swept = {RATE: {"low": 1e-5, "high": 1e-3, "log": True}}
    stopping = {"grace_epochs": 1, "max_epochs": 9, "reduction_factor": 3}
    with pytest.raises(ConfigError) as refused:
        plan_budget(spec(swept, search={"algorithm": "curves", "num_trials": 400}, early_stopping=stopping))
    assert str(refused.value) == (
        "search.algorithm is curves, but it can use the results of at most 3,000 epochs, and search.num_trials x"
        " early_stopping.max_epochs is 3,600: lower one of them, or use tpe"
    )


@pytest.mark.parametrize(("num_trials", "trials"), [(1, 1), (5, 5), (6, 6), (81, 6)])
def test_trials_are_at_most_the_points_of_a_finite_space(num_trials: int, trials: int) -> None:
    budget = plan_budget(spec({DEPTH: [1, 2, 3], RATE: [1e-3, 1e-4]}, search={"num_trials": num_trials}))
    assert (budget.points, budget.trials) == (6, trials)


def test_worst_case_is_every_trial_to_its_end() -> None:
    stopping = {"grace_epochs": 1, "max_epochs": 9, "reduction_factor": 3}
    budget = plan_budget(spec(early_stopping=stopping, search={"num_trials": 2}))
    assert (budget.rungs, budget.max_epochs, budget.worst_case_epochs) == ([1, 3], 9, 18)


def test_disabled_early_stopping_has_no_rungs() -> None:
    assert plan_budget(spec(early_stopping={"enabled": False})).rungs == []


def test_documented_grid_has_81_points() -> None:
    swept = {
        "training.ema_decay": [0.99, 0.995, 0.999],
        RATE: [1e-5, 1e-4, 1e-3],
        "model.latent_dim_state": [64, 128, 256],
        DEPTH: [2, 4, 6],
    }
    budget = plan_budget(spec(swept))
    assert budget.points == budget.trials == 81
    assert len(set(itertools.chain(*(tuple(p.values()) for p in space.points(spec(swept).space))))) == 12


RANGES = {
    RATE: {"low": 1e-5, "high": 1e-3, "log": True},
    DEPTH: {"low": 1, "high": 4, "int": True},
    "model.latent_dim_state": [64, 128],
}
TWO = [{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]


@pytest.mark.parametrize(
    ("swept", "algorithm", "sections", "message"),
    [
        ({DEPTH: [1, 2]}, "cma-es", {}, r"cma-es, but it needs at least two ranges .* and the space has 0"),
        ({DEPTH: {"low": 1, "high": 4}}, "cma-es", {}, "and the space has 1: write ranges instead of choices"),
        (RANGES, "cma-es", {"objective": TWO}, "cma-es, but it takes one objective, not 2: use nsga-ii or tpe"),
        *(
            (CONDITIONAL, name, {}, f"{name}, but model.vit.depth has a condition: use tpe, random, grid")
            for name in ("qmc", "cma-es", "gp", "nsga-ii")
        ),
        *(
            (RANGES, name, {"warm_start": ["x"]}, f"{name} does not use trials of other sweeps: use tpe, gp")
            for name in ("random", "qmc", "cma-es", "nsga-ii")
        ),
    ],
)
def test_a_space_that_the_sampler_cannot_search_is_refused(
    swept: dict[str, Any], algorithm: str, sections: dict[str, Any], message: str
) -> None:
    search = {"algorithm": algorithm, "warm_start": sections.get("warm_start", [])}
    config = spec(swept, search=search, **{k: v for k, v in sections.items() if k != "warm_start"})
    with pytest.raises(ConfigError, match=message):
        plan_budget(config)


@pytest.mark.parametrize("algorithm", ["tpe", "random", "qmc", "cma-es", "gp", "nsga-ii"])
def test_a_space_that_the_sampler_can_search_is_accepted(algorithm: str) -> None:
    assert plan_budget(spec(RANGES, search={"algorithm": algorithm})).points is None
