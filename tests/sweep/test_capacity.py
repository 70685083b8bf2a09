"""How many trials run at once: nodes come, go, and differ."""

import itertools
from collections.abc import Iterable

import pytest

from jepa_ray.config import Resources, SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine
from jepa_ray.sweep import capacity as room
from jepa_ray.sweep.capacity import Capacity
from jepa_ray.sweep.search.budget import fitting, plan

FOUR, TWO, GPU, HEAD = Machine(4, 0), Machine(2, 0), Machine(8, 2), Machine(0, 0)


def wanted(workers: int = 1, cpus: int = 1, gpus: float = 0, most: int | str = "auto") -> Resources:
    values = {"workers_per_trial": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus, "max_concurrent": most}
    return Resources.model_validate(values)


@pytest.mark.parametrize(
    ("resources", "machines", "groups"),
    [
        (wanted(), [FOUR, TWO, HEAD], 6),
        (wanted(cpus=4), [FOUR, TWO], 1),  # a worker is on one node,
        (wanted(cpus=3), [TWO, TWO], 0),
        (wanted(workers=2, cpus=2), [TWO, TWO], 1),  # a group may be on two
        (wanted(workers=4), [FOUR, TWO], 1),
        (wanted(gpus=1), [GPU, FOUR], 2),
        (wanted(gpus=0.25), [GPU], 8),
        (wanted(gpus=0.4), [GPU], 4),  # two to a GPU, and no fifth of one half each
        (wanted(gpus=0.2, cpus=2), [GPU], 4),
        (wanted(gpus=2), [Machine(8, 3), Machine(8, 1)], 1),
    ],
)
def test_groups_that_fit(resources: Resources, machines: Iterable[Machine], groups: int) -> None:
    assert fitting(resources, machines) == groups


def sweep(**resources: object) -> SweepConfig:
    values = {"name": "unit", "base": {"data": {"builtin": "two_rooms"}}, "space": {"training.ema_decay": [0.9, 0.99]}}
    return SweepConfig.model_validate({**values, "resources": resources})


class TestPlan:
    def test_what_needs_one_large_node_is_refused_on_small_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"a worker of 3 cpu\(s\) .* on the 2 node\(s\): it could never start"):
            plan(sweep(cpus_per_worker=3), TWO, TWO)

    def test_a_cluster_may_grow_to_what_the_spec_says(self) -> None:
        assert plan(sweep(max_concurrent=50), TWO, growing=True).groups == 50
        with pytest.raises(ConfigError, match="only 2 trials fit at once"):
            plan(sweep(max_concurrent=50), TWO)

    def test_a_cluster_without_room_says_what_would_wait_for_it(self) -> None:
        with pytest.raises(ConfigError, match=r"needs 1 cpus .* but there are 0: a number as resources.max_concurrent"):
            plan(sweep(), HEAD, growing=True)

    @pytest.mark.parametrize("gpus", [1.5, 2.25])
    def test_more_than_one_gpu_is_a_whole_number(self, gpus: float) -> None:
        with pytest.raises(ValueError, match="a share of one GPU, or a whole number"):
            wanted(gpus=gpus)


class TestCapacity:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = itertools.count(0, 10)  # every look is ten seconds after the last
        monkeypatch.setattr(room.time, "monotonic", lambda: next(self.now))

    def follow(self, **resources: object) -> Capacity:
        self.nodes = {"head": HEAD, "a": TWO, "b": FOUR}
        return Capacity(wanted(**resources), lambda: dict(self.nodes))  # type: ignore[arg-type]

    def test_nodes_that_join_are_used_and_those_that_leave_are_not(self) -> None:
        capacity = self.follow()
        assert capacity() == 6
        self.nodes["c"] = TWO
        assert capacity() == 8
        del self.nodes["b"]
        assert capacity() == 4
        self.nodes = {"head": HEAD}
        assert capacity() == 0

    def test_a_number_is_a_limit_whatever_is_there(self) -> None:
        assert self.follow(most=3)() == 3

    def test_a_node_that_left_excuses_failures_for_a_minute(self) -> None:
        capacity = self.follow()
        self.nodes["c"] = TWO
        assert not capacity.lost_a_node()
        del self.nodes["a"]
        assert capacity.lost_a_node()
        assert capacity.lost_a_node()
        for _ in range(6):
            next(self.now)
        assert not capacity.lost_a_node()

    def test_a_node_that_was_replaced_between_two_looks_was_lost_all_the_same(self) -> None:
        capacity = self.follow()
        del self.nodes["a"]
        self.nodes["c"] = TWO
        assert capacity.lost_a_node()
