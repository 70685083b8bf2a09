"""How many trials run at once on nodes that join, leave and differ in size."""

import itertools
from collections.abc import Iterable

import pytest

from jepa_ray.config import Resources
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine
from jepa_ray.sweep import capacity as capacity_module
from jepa_ray.sweep.capacity import Capacity
from jepa_ray.sweep.concurrency import choose_concurrency, max_groups

FOUR, TWO, GPU, HEAD = Machine(4, 0), Machine(2, 0), Machine(8, 2), Machine(0, 0)


def resources(workers: int = 1, cpus: int = 1, gpus: float = 0, max_concurrent: int | str = "auto") -> Resources:
    values = {"workers_per_trial": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus}
    return Resources.model_validate({**values, "max_concurrent": max_concurrent})


@pytest.mark.parametrize(
    ("needed", "machines", "groups"),
    [
        (resources(), [FOUR, TWO, HEAD], 6),
        (resources(cpus=4), [FOUR, TWO], 1),  # a worker needs one node
        (resources(cpus=3), [TWO, TWO], 0),
        (resources(workers=2, cpus=2), [TWO, TWO], 1),  # a group may be on two nodes
        (resources(workers=4), [FOUR, TWO], 1),
        (resources(gpus=1), [GPU, FOUR], 2),
        (resources(gpus=0.25), [GPU], 8),
        (resources(gpus=0.4), [GPU], 4),  # two per GPU, and no fifth one from the rest of both
        (resources(gpus=0.2, cpus=2), [GPU], 4),
        (resources(gpus=2), [Machine(8, 3), Machine(8, 1)], 1),
    ],
)
def test_number_of_groups_that_fit(needed: Resources, machines: Iterable[Machine], groups: int) -> None:
    assert max_groups(needed, machines) == groups


class TestChooseConcurrency:
    def test_a_worker_that_needs_a_large_node_is_refused_on_small_ones(self) -> None:
        refusal = (
            r"resources: each worker \(3 CPUs, 0 GPUs\) must fit on one node, but only 0 of the 1 workers of a trial"
            r" fit: lower workers_per_trial, cpus_per_worker or gpus_per_worker$"
        )
        with pytest.raises(ConfigError, match=refusal):
            choose_concurrency(resources(cpus=3), [TWO, TWO])

    def test_a_growing_cluster_accepts_more_groups_than_fit_now(self) -> None:
        assert choose_concurrency(resources(max_concurrent=50), [TWO], growing=True) == 50
        with pytest.raises(ConfigError, match="only 2 trials fit at once"):
            choose_concurrency(resources(max_concurrent=50), [TWO])

    def test_the_error_on_a_full_cluster_names_the_key_that_makes_the_sweep_wait(self) -> None:
        with pytest.raises(ConfigError, match=r"needs 1 cpus .* there are 0: set resources.max_concurrent to a number"):
            choose_concurrency(resources(), [HEAD], growing=True)

    @pytest.mark.parametrize("gpus", [1.5, 2.25])
    def test_more_than_one_gpu_must_be_a_whole_number(self, gpus: float) -> None:
        with pytest.raises(ValueError, match="a fraction of one GPU, or a whole number"):
            resources(gpus=gpus)


class TestCapacity:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = itertools.count(0, 10)  # each reading is ten seconds after the one before
        monkeypatch.setattr(capacity_module.time, "monotonic", lambda: next(self.now))

    def follow(self, max_concurrent: int | str = "auto") -> Capacity:
        self.nodes = {"head": HEAD, "a": TWO, "b": FOUR}
        return Capacity(resources(max_concurrent=max_concurrent), lambda: dict(self.nodes))

    def test_the_limit_follows_the_nodes(self) -> None:
        capacity = self.follow()
        assert capacity() == 6
        self.nodes["c"] = TWO
        assert capacity() == 8
        del self.nodes["b"]
        assert capacity() == 4
        self.nodes = {"head": HEAD}
        assert capacity() == 0

    def test_a_full_cluster_is_described(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(capacity_module.ray, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 1.0})
        monkeypatch.setattr(capacity_module.ray, "available_resources", lambda: {"CPU": 0.0, "GPU": 1.0})
        assert self.follow().describe_shortage() == "no trial can start yet: 0 of 6 cpus, 1 of 1 gpus are free"

    def test_a_number_is_a_fixed_limit(self) -> None:
        assert self.follow(max_concurrent=3)() == 3

    def test_the_loss_of_a_node_excuses_failures_for_a_minute(self) -> None:
        capacity = self.follow()
        self.nodes["c"] = TWO
        assert not capacity.lost_a_node()
        del self.nodes["a"]
        assert capacity.lost_a_node()
        assert capacity.lost_a_node()
        for _ in range(6):
            next(self.now)
        assert not capacity.lost_a_node()

    def test_a_node_that_was_replaced_between_two_refreshes_counts_as_lost(self) -> None:
        capacity = self.follow()
        del self.nodes["a"]
        self.nodes["c"] = TWO
        assert capacity.lost_a_node()
