"""Batches of updates, and the thread that writes them."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

# Entries of one batch: metrics, and parameters or tags. MLflow accepts 1000 in total, and 100 parameters or tags.
MAX_METRICS, MAX_OTHERS = 800, 100


@dataclass
class RunUpdate:
    """Metrics, parameters and tags of one run that are written together."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # name, value, time in ms, step
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, other: RunUpdate) -> None:
        """Add a later update of the same run."""
        self.metrics += other.metrics
        self.params |= other.params
        self.tags |= other.tags

    def batches(self) -> Iterator[RunUpdate]:
        """Split the update into batches that MLflow accepts."""
        params, tags = list(self.params.items()), list(self.tags.items())
        count = max(math.ceil(len(self.metrics) / MAX_METRICS), math.ceil(max(len(params), len(tags)) / MAX_OTHERS))
        for i in range(count):
            metrics, others = (slice(i * size, (i + 1) * size) for size in (MAX_METRICS, MAX_OTHERS))
            yield RunUpdate(self.metrics[metrics], dict(params[others]), dict(tags[others]))


class Writer:
    """A thread that runs jobs one after another. After a failure, all later jobs fail with the same error.

    It is a daemon, so that a process that is asked to exit does not wait for an unavailable server.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Run a job after all earlier jobs."""
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        return future

    def _work(self) -> None:
        failure: Exception | None = None
        while True:
            future, job = self._jobs.get()
            try:
                if failure:
                    raise failure
                future.set_result(job())
            except Exception as error:
                failure = error
                future.set_exception(error)
