"""Which of a sweep's training checkpoints stay."""

from __future__ import annotations

import bisect

from jepa_ray.storage import Storage
from jepa_ray.sweep import CHECKPOINTS, checkpoint_name
from jepa_ray.sweep.output import results
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord

MIN_KEPT = 10  # of ended trials, at least


class CheckpointRetention:
    """Checkpoints of ended trials: the best stay, as many as planning and repeats may want; the rest make room."""

    def __init__(self, study: Study, store: Storage) -> None:
        self._study, self._store = study, store
        self._room = max(MIN_KEPT, study.spec.evaluation.plan_top_k, study.spec.search.finalists)
        self._kept: list[tuple[results.SortKey, int]] = []  # best first
        off = {name for record in study.records() for name in self._place(record)}
        for name in off.intersection(store.names(CHECKPOINTS)):
            store.delete(name)

    def ended(self, record: TrialRecord) -> None:
        """Put an ended trial's checkpoint on the retention, which may push the worst one off it."""
        for name in self._place(record):
            self._store.delete(name)

    def _place(self, record: TrialRecord) -> list[str]:
        """What is pushed off."""
        if record.status is Status.RUNNING or record.repeat_of is not None:
            return []
        bisect.insort(self._kept, (results.sort_key(self._study, record), record.number))
        off = [checkpoint_name(number) for _, number in self._kept[self._room :]]
        del self._kept[self._room :]
        return off
