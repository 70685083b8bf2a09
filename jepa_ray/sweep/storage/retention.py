"""Which of a sweep's training checkpoints stay."""

from __future__ import annotations

import bisect

from jepa_ray.storage import Storage
from jepa_ray.sweep import CHECKPOINTS, checkpoint_name
from jepa_ray.sweep.output import results
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord

KEPT = 10  # of ended trials, at least


class Shelf:
    """Checkpoints of ended trials: the best stay, as many as planning and repeats may want; the rest make room."""

    def __init__(self, study: Study, store: Storage) -> None:
        self._study, self._store = study, store
        self._room = max(KEPT, study.spec.evaluation.plan_top_k, study.spec.search.finalists)
        self._kept: list[tuple[results.Place, int]] = []  # best first
        off = {name for record in study.records() for name in self._shelve(record)}
        for name in off.intersection(store.names(CHECKPOINTS)):
            store.delete(name)

    def ended(self, record: TrialRecord) -> None:
        """Put an ended trial's checkpoint on the shelf, which may push the worst one off it."""
        for name in self._shelve(record):
            self._store.delete(name)

    def _shelve(self, record: TrialRecord) -> list[str]:
        """What is pushed off."""
        if record.status is Status.RUNNING or record.repeat_of is not None:
            return []
        bisect.insort(self._kept, (results.place(self._study, record), record.number))
        off = [checkpoint_name(number) for _, number in self._kept[self._room :]]
        del self._kept[self._room :]
        return off
