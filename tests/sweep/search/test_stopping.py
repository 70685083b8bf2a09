"""Stopping rules: one contract for all, examples computed by hand for each, and ASHA compared with Ray's own."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from helpers.studies import make_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.search.stopping import Hyperband, StopDecision, StoppingRule, bracket_sizes, make_stopping_rule

Result = tuple[int, int, float]  # trial, epoch, value


def spec(metric: str = "val_rollout_mrr", mode: str = "max", **stopping: object) -> SweepConfig:
    early_stopping = {"grace_epochs": 1, "max_epochs": 9, "reduction_factor": 3, **stopping}
    return make_spec(objective={"metric": metric, "mode": mode}, early_stopping=early_stopping)


def decide(config: SweepConfig, results: list[tuple[str, int, float]]) -> list[str]:
    """The decisions of the rule about (trial, epoch, value), in the order of arrival."""
    rule, numbers = make_stopping_rule(config), {name: i for i, name in enumerate(dict.fromkeys(r[0] for r in results))}
    return [STOP if rule.judge(numbers[name], epoch, value) else GO for name, epoch, value in results]


GO, STOP = "go", "stop"


# --------------------------------------------------------------------------------- the contract

# Few distinct values, so that there are ties.
curves = st.lists(st.lists(st.integers(0, 12).map(lambda i: i / 10), min_size=9, max_size=9), min_size=1, max_size=14)


def play(rule: StoppingRule, values: list[list[float]], order: int) -> Iterator[tuple[Result, StopDecision | None]]:
    """Results of trials that train nine epochs or until the rule stops them, in a random order, and its decisions."""
    epochs = dict.fromkeys(range(len(values)), 0)
    while epochs:
        order = order * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        number = sorted(epochs)[(order >> 33) % len(epochs)]
        epochs[number] += 1
        result = number, epochs[number], values[number][epochs[number] - 1]
        if epochs[number] == 9:  # Ray Tune reports a trial's own last result, but asks for no decision
            rule.tell(*result)
            stop = None
        else:
            stop = rule.judge(*result)
        if stop or epochs[number] == 9:
            del epochs[number]
        yield result, stop


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median", "none"])
class TestEveryRule:
    @settings(max_examples=40, deadline=None)
    @given(curves, st.integers(0, 2**32), st.integers(0, 126), st.randoms(use_true_random=False))
    def test_a_rule_that_is_rebuilt_from_the_study_decides_like_an_undisturbed_one(
        self, scheduler: str, mode: str, values: list[list[float]], order: int, cut: int, random: object
    ) -> None:
        config = spec(mode=mode, scheduler=scheduler, reduction_factor=2, grace_epochs=2)
        stream = list(play(make_stopping_rule(config), values, order))
        before, after = stream[:cut], stream[cut:]
        random.shuffle(before)  # type: ignore[attr-defined]
        rebuilt = make_stopping_rule(config)
        for result, _ in before:
            rebuilt.tell(*result)
        for result, stop in after:
            if result[1] == 9:
                rebuilt.tell(*result)
            else:
                assert rebuilt.judge(*result) == stop

    @settings(max_examples=40, deadline=None)
    @given(curves, st.integers(0, 2**32))
    def test_a_known_result_stops_nothing_and_changes_nothing(
        self, scheduler: str, mode: str, values: list[list[float]], order: int
    ) -> None:
        config = spec(mode=mode, scheduler=scheduler)
        rule, stream = make_stopping_rule(config), list(play(make_stopping_rule(config), values, order))
        for (number, epoch, value), stop in stream:
            if epoch < 9:
                assert rule.judge(number, epoch, value) == stop
            else:
                rule.tell(number, epoch, value)
            assert rule.judge(number, epoch, value) is None

    @settings(max_examples=40, deadline=None)
    @given(curves, st.integers(0, 2**32))
    def test_stops_only_at_its_rungs_and_only_trials_that_are_worse_than_the_cutoff(
        self, scheduler: str, mode: str, values: list[list[float]], order: int
    ) -> None:
        config = spec(mode=mode, scheduler=scheduler)
        for (_, epoch, _), stop in play(make_stopping_rule(config), values, order):
            if stop:
                assert epoch == stop.epoch
                assert epoch in config.early_stopping.rungs()
                assert config.objective.better(stop.cutoff, stop.value)

    def test_the_best_trial_is_never_stopped(self, scheduler: str, mode: str) -> None:
        better = 1 if mode == "max" else -1
        results = [(f"{i}", epoch, better * 0.1 * i) for epoch in range(1, 9) for i in range(8)]
        assert decide(spec(mode=mode, scheduler=scheduler), results)[7::8] == [GO] * 8

    def test_the_worst_of_many_is_stopped_at_the_first_rung(self, scheduler: str, mode: str) -> None:
        better = 1 if mode == "max" else -1
        results = [(f"{i}", 1, -better * 0.1 * i) for i in range(9)]
        assert decide(spec(mode=mode, scheduler=scheduler), results)[8] == (GO if scheduler == "none" else STOP)


# ----------------------------------------------------------------------------------------- asha


def test_a_rung_keeps_the_top_third() -> None:
    """At epoch 1, by arrival: the cut-off is the 2/3 quantile of the earlier values (linear interpolation)."""
    arrivals = [("a", 0.5), ("b", 0.4), ("c", 0.6), ("d", 0.52), ("e", 0.54)]
    # a: nothing to compare; b: 0.4 < 0.5; c: 0.6 >= 0.4667; d: cut-off of (0.4, 0.5, 0.6) is 0.5333; e: of
    # (0.4, 0.5, 0.52, 0.6) is 0.52
    assert decide(spec(), [(n, 1, v) for n, v in arrivals]) == [GO, STOP, GO, STOP, GO]


def test_between_rungs_no_trial_is_stopped() -> None:
    assert decide(spec(), [("a", 1, 0.5), ("b", 1, 0.6), ("a", 2, 0.0), ("b", 2, 0.6)]) == [GO] * 4


def test_the_second_rung_is_at_three_epochs() -> None:
    results = [("a", 1, 0.1), ("b", 1, 0.2), ("b", 3, 0.9), ("a", 3, 0.3)]
    assert decide(spec(), results) == [GO, GO, GO, STOP]


def test_a_smaller_loss_survives() -> None:
    assert decide(spec("val_loss", "min"), [("a", 1, 0.5), ("b", 1, 0.6), ("c", 1, 0.1)]) == [GO, STOP, GO]


def test_a_stop_gives_its_reason() -> None:
    rule = make_stopping_rule(spec())
    rule.tell(0, 1, 0.5)
    assert str(rule.judge(1, 1, 0.4)) == (
        "stopped at epoch 1: 0.4 is worse than 0.5, the cut-off of the best 1/3 of the 1 trial before it"
    )


@settings(max_examples=100, deadline=None)
@given(curves, st.integers(0, 2**32), st.sampled_from([2, 3, 4]), st.integers(1, 3), st.sampled_from(["max", "min"]))
def test_asha_decides_like_the_one_of_ray(
    values: list[list[float]], order: int, factor: int, grace: int, mode: str
) -> None:
    config = spec(mode=mode, reduction_factor=factor, grace_epochs=grace)
    theirs = ASHAScheduler("epoch", "m", mode, max_t=9, grace_period=grace, reduction_factor=factor)
    trials = [SimpleNamespace(trial_id=str(number)) for number in range(len(values))]
    for trial in trials:
        theirs.on_trial_add(None, trial)
    for (number, epoch, value), stop in play(make_stopping_rule(config), values, order):
        action = theirs.on_trial_result(None, trials[number], {"epoch": epoch, "m": value})
        assert (action == TrialScheduler.STOP) == (stop is not None or epoch == 9)


# ------------------------------------------------------------------------------------ hyperband


def test_brackets_have_the_sizes_of_the_paper() -> None:
    """Li et al. 2018, table 1: R = 81 and eta = 3 give 81, 34, 15, 8 and 5 configurations."""
    assert bracket_sizes(rungs=4, reduction=3) == [81, 34, 15, 8, 5]


def test_the_number_of_a_trial_determines_its_bracket() -> None:
    """Rungs at 1 and 3: nine trials can stop at both, five only at the second, three at none; then again."""
    hyperband = Hyperband([1, 3], reduction=3, sign=1)
    assert [hyperband.bracket(n) for n in range(20)] == [0] * 9 + [1] * 5 + [2] * 3 + [0] * 3


def test_brackets_decide_independently() -> None:
    """Trials 0, 1 and 17 share a bracket; 9 and 10 are in one whose first rung is epoch 3, 14 in one without rungs."""
    rule = make_stopping_rule(spec(scheduler="hyperband"))
    arrivals = [
        (0, 1, 0.5),
        (1, 1, 0.4),
        (9, 1, 0.1),
        (14, 1, 0.1),
        (17, 1, 0.3),
        (9, 3, 0.2),
        (10, 3, 0.1),
        (14, 3, 0.0),
    ]
    stopped = [(number, epoch) for number, epoch, value in arrivals if rule.judge(number, epoch, value)]
    assert stopped == [(1, 1), (17, 1), (10, 3)]


def test_the_reason_of_a_stop_names_the_bracket() -> None:
    rule = make_stopping_rule(spec(scheduler="hyperband"))
    rule.tell(9, 3, 0.5)
    assert str(rule.judge(10, 3, 0.4)).endswith(
        "0.5, the cut-off of the best 1/3 of the 1 trial before it in bracket 2 of 3"
    )


# --------------------------------------------------------------------------------------- median


def test_the_best_so_far_is_compared_with_the_median_of_means() -> None:
    rule = make_stopping_rule(spec(scheduler="median"))
    for number, (first, second) in enumerate([(0.125, 0.375), (0.25, 0.75), (0.5, 1.0)]):
        rule.tell(number, 1, first)
        rule.tell(number, 2, second)
    assert rule.judge(3, 1, 0.25) is None  # as good as the median of 0.125, 0.25 and 0.5
    assert rule.judge(3, 2, 0.5) is None  # the means over two epochs are 0.25, 0.5 and 0.75
    assert rule.judge(4, 1, 0.5) is None
    assert rule.judge(4, 2, 0.0) is None  # worse now, but its best is above the median of 0.25, 0.375, 0.5, 0.75
    assert rule.judge(5, 1, 0.25) is None
    # the means of trials 0 to 4: 0.25, 0.5, 0.75, 0.375, 0.25
    assert rule.judge(5, 2, 0.3125) == StopDecision(
        2, 0.3125, 0.375, "the median of the means of 5 other trials over epochs 1 to 2"
    )


def test_means_include_the_epochs_before_the_first_rung() -> None:
    rule = make_stopping_rule(spec(scheduler="median", grace_epochs=2))
    rule.tell(0, 1, 1.0)
    rule.tell(0, 2, 0.0)
    assert rule.judge(1, 1, 0.0) is None
    assert rule.judge(1, 2, 0.25) == StopDecision(
        2, 0.25, 0.5, "the median of the means of 1 other trial over epochs 1 to 2"
    )


def test_only_trials_that_reached_the_epoch_count() -> None:
    rule = make_stopping_rule(spec(scheduler="median"))
    rule.tell(0, 1, 0.9)
    rule.tell(1, 1, 0.1)
    rule.tell(1, 2, 0.1)
    rule.tell(2, 1, 0.0)
    assert rule.judge(2, 2, 0.2) is None  # trial 0, whose mean was 0.9, is not among the others


# --------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("scheduler", "rungs"), [("asha", [2, 4]), ("hyperband", [2, 4]), ("median", [2, 3, 4, 5, 6, 7]), ("none", [])]
)
def test_the_budget_lists_the_epochs_at_which_trials_can_stop(scheduler: str, rungs: list[int]) -> None:
    config = spec(scheduler=scheduler, grace_epochs=2, max_epochs=8, reduction_factor=2)
    assert plan_budget(config).rungs == rungs


@pytest.mark.parametrize(("grace", "longest", "factor", "rungs"), [(1, 9, 3, [1, 3]), (2, 6, 3, [2]), (4, 4, 2, [])])
def test_rungs_below_the_budget(grace: int, longest: int, factor: int, rungs: list[int]) -> None:
    config = spec(grace_epochs=grace, max_epochs=longest, reduction_factor=factor)
    assert config.early_stopping.rungs() == rungs


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_disabled_early_stopping_stops_nothing(scheduler: str) -> None:
    config = spec(enabled=False, scheduler=scheduler)
    assert config.early_stopping.rungs() == []
    assert decide(config, [("a", 1, 0.9), ("b", 1, 0.1)]) == [GO, GO]


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"early_stopping\.scheduler"):
        spec(scheduler="pbt")
