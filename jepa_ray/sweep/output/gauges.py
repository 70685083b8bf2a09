"""A sweep in figures that Ray exports to Prometheus: its dashboard's Metrics page and Grafana can draw them.

`ray_jepa_ray_best_objective`, `_trials` by status, `_samples_per_second` and `_idle_seconds` by group; each is tagged
with the sweep's name.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from ray.util.metrics import Gauge

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.search.space import Params
from jepa_ray.sweep.storage.study import Status, TrialRecord


class SweepGauges:
    """Told of every event by the recorder, as the view is. Needs a Ray session."""

    def __init__(self, spec: SweepConfig, done: list[TrialRecord]) -> None:
        self._spec, self._running = spec, 0
        self._ended = Counter(record.status for record in done)
        self._best: float | None = None
        self._since: dict[str, float] = {}  # when a group's last epoch ended, or it was first heard of
        self._idle: defaultdict[str, float] = defaultdict(float)
        self._objective = self._gauge("best_objective", f"Best {spec.objective.metric} so far", "metric")
        self._trials = self._gauge("trials", "Trials by status", "status")
        self._speed = self._gauge("samples_per_second", "Training speed of the last epoch", "group")
        self._waited = self._gauge("idle_seconds", "Time that a group spent on anything but epochs", "group")
        for record in done:
            for row in record.history:
                self._improve(row)
        self._count()

    def _gauge(self, name: str, description: str, by: str) -> Gauge:
        gauge = Gauge(f"jepa_ray_{name}", description, ("sweep", by))
        gauge.set_default_tags({"sweep": self._spec.name})
        return gauge

    def trial_started(self, number: int, params: Params) -> None:
        """A group begins, or continues, a trial."""
        self._running += 1
        self._count()

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None = None) -> None:
        """A trial finished an epoch in `group`; None: it was told from a checkpoint."""
        self._improve(metrics)
        if group is None:
            return
        now = time.monotonic()
        begun = now - metrics["epoch_s"]
        self._idle[group] += max(0.0, begun - self._since.get(group, begun))
        self._since[group] = now
        self._speed.set(metrics["samples_per_s"], {"group": group})
        self._waited.set(self._idle[group], {"group": group})

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running -= 1
        self._ended[record.status] += 1
        self._count()

    def retried(self, number: int, error: str) -> None:
        """A group died; the trial, which will be started again, continues in another one."""
        self._running -= 1
        self._count()

    def _count(self) -> None:
        self._trials.set(self._running, {"status": str(Status.RUNNING)})
        for status in (Status.COMPLETE, Status.PRUNED, Status.FAILED):
            self._trials.set(self._ended[status], {"status": str(status)})

    def _improve(self, metrics: Mapping[str, float]) -> None:
        objective = self._spec.objective
        if objective.better(metrics[objective.metric], self._best):
            self._best = metrics[objective.metric]
            self._objective.set(self._best, {"metric": objective.metric})
