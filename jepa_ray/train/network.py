"""Which network the workers of a group find each other on."""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


def use_the_nodes_interface() -> None:
    """Have gloo use the interface that Ray knows this node by, unless somebody chose one.

    By itself it takes the address of the machine's own name, which on Debian is 127.0.1.1: workers of other nodes
    would look for it on themselves.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault(INTERFACE, name)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's, on the right interface."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_the_nodes_interface)
        super().on_start(worker_group, backend_config)


class OnTheNodesNetwork(TorchConfig):
    """How Ray Train sets up the process group."""

    @property
    def backend_cls(self) -> type:
        return _Backend
