"""The CPUs and GPUs of this machine, or of a node of a cluster."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")  # one entry per GPU; only on Linux with NVIDIA's driver


@dataclass(frozen=True)
class Machine:
    """Numbers of CPUs and GPUs that trials can use."""

    cpus: float
    gpus: float

    @classmethod
    def offering(cls, resources: Mapping[str, float]) -> Machine:
        """A node of a Ray cluster, from the resources that Ray reports for it."""
        return cls(resources.get("CPU", 0), resources.get("GPU", 0))

    @classmethod
    def local(cls) -> Machine:
        """The CPUs that this process may use, and the GPUs that the NVIDIA driver lists."""
        return cls(count_usable_cpus(), len(list(NVIDIA_GPUS.iterdir())) if NVIDIA_GPUS.is_dir() else 0)


def count_usable_cpus() -> int:
    """The number of CPUs that this process may use; all CPUs of the machine where the system cannot tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = getattr(os, "process_cpu_count", os.cpu_count)  # Python 3.13
    return count() or 1


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. Names other than localhost are not resolved: they may change."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
