"""Stopping rules, against brackets worked out by hand and against Ray's own ASHA."""

import pytest

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.stopping import make_rule


def spec(metric: str = "val_rollout_mrr", mode: str = "max", **stopping: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {"training.ema_decay": [0.9, 0.99]},
            "objective": {"metric": metric, "mode": mode},
            "early_stopping": {"grace_epochs": 1, "max_epochs": 9, "reduction_factor": 3, **stopping},
        }
    )


def decide(config: SweepConfig, results: list[tuple[str, int, float]]) -> list[str]:
    """What the rule says of (trial, epoch, value), in the order of arrival."""
    rule, numbers = make_rule(config), {name: i for i, name in enumerate(dict.fromkeys(r[0] for r in results))}
    return [STOP if rule.judge(numbers[name], epoch, value) else GO for name, epoch, value in results]


GO, STOP = "go", "stop"


def test_a_rung_keeps_the_top_third() -> None:
    """At epoch 1, by arrival: the cut-off is the 2/3 quantile of what came before (linear interpolation)."""
    arrivals = [("a", 0.5), ("b", 0.4), ("c", 0.6), ("d", 0.52), ("e", 0.54)]
    # a: nothing to compare; b: 0.4 < 0.5; c: 0.6 >= 0.4667; d: cut-off of (0.4, 0.5, 0.6) is 0.5333; e: of
    # (0.4, 0.5, 0.52, 0.6) is 0.52
    assert decide(spec(), [(n, 1, v) for n, v in arrivals]) == [GO, STOP, GO, STOP, GO]


def test_between_rungs_nothing_is_stopped() -> None:
    assert decide(spec(), [("a", 1, 0.5), ("b", 1, 0.6), ("a", 2, 0.0), ("b", 2, 0.6)]) == [GO] * 4


def test_the_second_rung_is_at_three_epochs() -> None:
    results = [("a", 1, 0.1), ("b", 1, 0.2), ("b", 3, 0.9), ("a", 3, 0.3)]
    assert decide(spec(), results) == [GO, GO, GO, STOP]


def test_a_smaller_loss_survives() -> None:
    assert decide(spec("val_loss", "min"), [("a", 1, 0.5), ("b", 1, 0.6), ("c", 1, 0.1)]) == [GO, STOP, GO]


@pytest.mark.parametrize(("grace", "longest", "factor", "rungs"), [(1, 9, 3, [1, 3]), (2, 6, 3, [2]), (4, 4, 2, [])])
def test_the_plan_shows_the_rungs_that_stop(grace: int, longest: int, factor: int, rungs: list[int]) -> None:
    config = spec(grace_epochs=grace, max_epochs=longest, reduction_factor=factor)
    assert config.early_stopping.rungs() == rungs


def test_off_means_off() -> None:
    assert decide(spec(enabled=False), [("a", 1, 0.9), ("b", 1, 0.1)]) == [GO, GO]
