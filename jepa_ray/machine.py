"""What this machine, or a node of a cluster, offers to train on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs."""

    cpus: float
    gpus: float

    @classmethod
    def offering(cls, resources: Mapping[str, float]) -> Machine:
        """A node of a Ray cluster, by what Ray says of its resources."""
        return cls(resources.get("CPU", 0), resources.get("GPU", 0))

    @classmethod
    def local(cls) -> Machine:
        """The CPUs this process may use, and the GPUs that the NVIDIA driver lists."""
        gpus = Path("/proc/driver/nvidia/gpus")
        return cls(len(os.sched_getaffinity(0)), len(list(gpus.iterdir())) if gpus.is_dir() else 0)
