"""The network interface over which the workers of a group connect to each other."""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"  # gloo's environment variable


def choose_interface() -> None:
    """Make gloo use the interface with the address under which Ray knows this node, unless `INTERFACE` is set.

    By default gloo uses the address of the machine's host name. On Debian that is 127.0.1.1, which on every other node
    is that node itself.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            os.environ.setdefault(INTERFACE, name)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's backend, with the interface chosen on every worker first."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class NodeNetworkConfig(TorchConfig):
    """Makes Ray Train set up the process group on the network that connects the nodes."""

    @property
    def backend_cls(self) -> type:
        return _Backend
