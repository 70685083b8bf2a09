"""What is written together, and the thread that writes."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

MAX_METRICS, MAX_OTHERS = 800, 100  # of a batch: MLflow takes 1000 of all kinds, and 100 parameters or tags


@dataclass
class RunUpdate:
    """Entries of one run that are written together."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # name, value, time in ms, step
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, other: RunUpdate) -> None:
        """Take in what came later."""
        self.metrics += other.metrics
        self.params |= other.params
        self.tags |= other.tags

    def parts(self) -> Iterator[RunUpdate]:
        """The same in pieces that MLflow takes."""
        params, tags = list(self.params.items()), list(self.tags.items())
        count = max(math.ceil(len(self.metrics) / MAX_METRICS), math.ceil(max(len(params), len(tags)) / MAX_OTHERS))
        for i in range(count):
            some, others = (slice(i * most, (i + 1) * most) for most in (MAX_METRICS, MAX_OTHERS))
            yield RunUpdate(self.metrics[some], dict(params[others]), dict(tags[others]))


class Writer:
    """A thread that does one thing after another. After a failure it does nothing more: what follows fails alike.

    It is a daemon, so that a process which is told to end does not wait for a server that is gone.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Do it when all before is done."""
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
