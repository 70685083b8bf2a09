"""System metrics of the driver's machine: utilization, and free memory and disk.

MLflow's own monitor is not used: it writes from its own thread, and stops forever when the server fails to answer once.
The metrics have MLflow's names, so that its UI shows them as system metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil

INTERVAL_S = 10.0


class MachineMetrics:
    """A thread that measures every `INTERVAL_S` seconds, until `stop` is called.

    Args:
        disk: a path on the disk that is measured.
        record: receives the values by MLflow's names (percent, megabytes); it is called in the measuring thread.
    """

    def __init__(self, disk: Path, record: Callable[[dict[str, float]], None]) -> None:
        self._disk, self._record = disk, record
        self._begun = psutil.net_io_counters()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="system metrics", daemon=True).start()

    def stop(self) -> None:
        """Stop measuring."""
        self._over.set()

    def _watch(self) -> None:
        psutil.cpu_percent()  # the first call of a thread only starts its first interval
        while not self._over.wait(INTERVAL_S):
            self._record(self._measure())

    def _measure(self) -> dict[str, float]:
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(self._disk)), psutil.net_io_counters()
        used = memory.total - memory.available
        found = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": used / 1e6,
            "system_memory_usage_percentage": 100 * used / memory.total,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / 1e6,
            "network_receive_megabytes": (network.bytes_recv - self._begun.bytes_recv) / 1e6,
            "network_transmit_megabytes": (network.bytes_sent - self._begun.bytes_sent) / 1e6,
        }
        return {f"system/{name}": round(value, 1) for name, value in found.items()}
