"""How many trials fit on a cluster, whose nodes come and go while a sweep runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from jepa_ray.config import Resources
from jepa_ray.machine import Machine
from jepa_ray.sweep.concurrency import max_groups

# Memory that is reserved for a group's driver processes (trial actor, mailbox, Ray Train's controller). With a much
# smaller value, Ray would put the driver processes of all groups on one node.
GROUP_DRIVER_BYTES = 2.0**30
REFRESH_INTERVAL_S = 1.0  # between two requests for the list of nodes
EXCUSED_S = 60.0  # a trial that fails within this time after a node was lost is retried without counting the failure


def list_nodes() -> dict[str, Machine]:
    """The living nodes of the connected cluster, by Ray's ID."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return {node["NodeID"]: Machine.offering(node["Resources"]) for node in alive}


def avoid_idle_head() -> dict[str, str]:
    """A label selector that keeps the groups' driver processes off a head node without CPUs, which has no room for all.

    Empty if the head node has CPUs for training, or if there is no other node.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in alive if "node:__internal_head__" in node["Resources"]]
    idle = [node["NodeID"] for node in heads if not node["Resources"].get("CPU") and len(alive) > len(heads)]
    return {"ray.io/node-id": f"!{idle[0]}"} if idle else {}


class Capacity:
    """Follows a cluster: new nodes are used, and the loss of a node does not count as a trial's failure.

    Args:
        resources: what a trial takes. A number as `max_concurrent` is a fixed limit: trials that do not fit yet wait
            for resources, and so an autoscaler learns what to add.
        list_nodes: returns the living nodes; tests pass a function of their own.
    """

    def __init__(self, resources: Resources, list_nodes: Callable[[], dict[str, Machine]] = list_nodes) -> None:
        self._resources, self._list_nodes = resources, list_nodes
        self._nodes = list_nodes()
        self._refreshed = time.monotonic()
        self._last_loss: float | None = None  # when the last loss was noticed, by `time.monotonic`

    def __call__(self) -> int:
        """The number of trials that may run now."""
        if self._resources.max_concurrent != "auto":
            return self._resources.max_concurrent
        self._refresh()
        return max_groups(self._resources, self._nodes.values())

    def describe_shortage(self) -> str | None:
        """Why not even one trial can start now; None if one can."""
        free, whole = Machine.offering(ray.available_resources()), Machine.offering(ray.cluster_resources())
        if max_groups(self._resources, [free]):
            return None
        free_of_all = f"{free.cpus:g} of {whole.cpus:g} cpus, {free.gpus:g} of {whole.gpus:g} gpus"
        return f"no trial can start yet: {free_of_all} are free"

    def lost_a_node(self) -> bool:
        """Whether a node left within the last `EXCUSED_S` seconds."""
        self._refresh(0.0)
        return self._last_loss is not None and time.monotonic() - self._last_loss < EXCUSED_S

    def _refresh(self, interval: float = REFRESH_INTERVAL_S) -> None:
        now = time.monotonic()
        if now - self._refreshed < interval:
            return
        alive = self._list_nodes()
        if self._nodes.keys() - alive.keys():
            self._last_loss = now
        self._nodes, self._refreshed = alive, now
