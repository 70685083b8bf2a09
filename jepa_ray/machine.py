"""What this machine, or a cluster, offers to train on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """CPUs and GPUs."""

    cpus: float
    gpus: float

    @classmethod
    def local(cls) -> Machine:
        """The CPUs this process may use, and the GPUs that the NVIDIA driver lists."""
        gpus = Path("/proc/driver/nvidia/gpus")
        return cls(len(os.sched_getaffinity(0)), len(list(gpus.iterdir())) if gpus.is_dir() else 0)
