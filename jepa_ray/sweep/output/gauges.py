"""Gauges of a running sweep, which Ray exports to Prometheus: for the dashboard's Metrics page and for Grafana.

`ray_jepa_ray_best_objective`, `ray_jepa_ray_trials` by status, and by worker group `ray_jepa_ray_samples_per_second`
and `ray_jepa_ray_idle_seconds`. Each is tagged with the sweep's name.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from ray.util.metrics import Gauge

from jepa_ray.config import SweepConfig
from jepa_ray.config.dimensions import Params
from jepa_ray.sweep.storage.records import Status, TrialRecord


class SweepGauges:
    """Receives the same events from the recorder as the view. Needs a Ray session."""

    def __init__(self, spec: SweepConfig, done: list[TrialRecord]) -> None:
        self._spec, self._running = spec, 0
        self._ended = Counter(record.status for record in done)
        self._best: float | None = None
        self._last_end: dict[str, float] = {}  # end of each group's last epoch, in seconds of the monotonic clock
        self._idle: defaultdict[str, float] = defaultdict(float)
        self._objective_gauge = self._gauge("best_objective", f"Best {spec.objective.metric} so far", "metric")
        self._trials_gauge = self._gauge("trials", "Trials by status", "status")
        self._speed_gauge = self._gauge("samples_per_second", "Training speed of the last epoch", "group")
        self._idle_gauge = self._gauge("idle_seconds", "Time that a group did not spend on epochs", "group")
        for record in done:
            for row in record.history:
                self._improve(row)
        self._count()

    def _gauge(self, name: str, description: str, tag: str) -> Gauge:
        gauge = Gauge(f"jepa_ray_{name}", description, ("sweep", tag))
        gauge.set_default_tags({"sweep": self._spec.name})
        return gauge

    def trial_started(self, number: int, params: Params) -> None:
        """A worker group starts or continues a trial."""
        self._running += 1
        self._count()

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None = None) -> None:
        """A trial completed an epoch in `group`; None if the result was read from a checkpoint."""
        self._improve(metrics)
        if group is None:
            return
        now = time.monotonic()
        start = now - metrics["epoch_s"]
        self._idle[group] += max(0.0, start - self._last_end.get(group, start))
        self._last_end[group] = now
        self._speed_gauge.set(metrics["samples_per_s"], {"group": group})
        self._idle_gauge.set(self._idle[group], {"group": group})

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running -= 1
        self._ended[record.status] += 1
        self._count()

    def retried(self, number: int, error: str) -> None:
        """The worker group of a trial died; another one will start the trial again."""
        self._running -= 1
        self._count()

    def _count(self) -> None:
        self._trials_gauge.set(self._running, {"status": str(Status.RUNNING)})
        for status in (Status.COMPLETE, Status.PRUNED, Status.FAILED):
            self._trials_gauge.set(self._ended[status], {"status": str(status)})

    def _improve(self, metrics: Mapping[str, float]) -> None:
        objective = self._spec.objective
        if objective.better(metrics[objective.metric], self._best):
            self._best = metrics[objective.metric]
            self._objective_gauge.set(self._best, {"metric": objective.metric})
