"""How many trials run at once: on a machine a fixed number, on a cluster as many as fit on the nodes that are there."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray

from jepa_ray.config import Resources
from jepa_ray.machine import Machine
from jepa_ray.sweep.search.budget import fitting

DRIVES_A_GROUP = 2.0**30  # bytes: its trial, mailbox and controller; without a true figure Ray puts all on one node
LOOK_S = 1.0  # between two looks at the cluster
RECENT_S = 60.0  # a trial that fails so soon after a node was lost is not to blame


def nodes() -> dict[str, Machine]:
    """The nodes of the connected cluster that are alive, by Ray's id."""
    alive = (node for node in ray.nodes() if node["Alive"])
    return {node["NodeID"]: Machine.offering(node["Resources"]) for node in alive}


def away_from_head() -> dict[str, str]:
    """Labels of nodes to put what drives a group on: not a head where nobody trains, which would hold all of them."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in alive if "node:__internal_head__" in node["Resources"]]
    idle = [node["NodeID"] for node in heads if not node["Resources"].get("CPU") and len(alive) > len(heads)]
    return {"ray.io/node-id": f"!{idle[0]}"} if idle else {}


class Capacity:
    """Follows a cluster: nodes that join are used, and nodes that leave are no trial's fault.

    Args:
        resources: what a trial takes. A number as `max_concurrent` is a fixed limit: what does not fit yet
            waits, and so tells an autoscaler what to add.
        look: where the nodes are seen; tests put others here.
    """

    def __init__(self, resources: Resources, look: Callable[[], dict[str, Machine]] = nodes) -> None:
        self._resources, self._look = resources, look
        self._nodes = look()
        self._seen = time.monotonic()
        self._lost: float | None = None  # when the last one was

    def __call__(self) -> int:
        """Trials that may run now."""
        if self._resources.max_concurrent != "auto":
            return self._resources.max_concurrent
        self._refresh()
        return fitting(self._resources, self._nodes.values())

    @property
    def busy(self) -> str | None:
        """What keeps even one trial from starting now, if others hold the cluster; it waits."""
        free, whole = Machine.offering(ray.available_resources()), Machine.offering(ray.cluster_resources())
        if fitting(self._resources, [free]):
            return None
        free_of_all = f"{free.cpus:g} of {whole.cpus:g} cpus, {free.gpus:g} of {whole.gpus:g} gpus"
        return f"the cluster has no room now, {free_of_all} are free"

    def lost_a_node(self) -> bool:
        """Whether a node left within the last minute."""
        self._refresh(0.0)
        return self._lost is not None and time.monotonic() - self._lost < RECENT_S

    def _refresh(self, interval: float = LOOK_S) -> None:
        now = time.monotonic()
        if now - self._seen < interval:
            return
        alive = self._look()
        if self._nodes.keys() - alive.keys():
            self._lost = now
        self._nodes, self._seen = alive, now
