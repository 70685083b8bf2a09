"""Which of a sweep's training checkpoints stay."""

from __future__ import annotations

import bisect
from pathlib import Path

from jepa_ray.sweep import checkpoint_path, results
from jepa_ray.sweep.study import Status, Study, TrialRecord

KEPT = 10  # of ended trials, at least


class Shelf:
    """Checkpoints of ended trials: the best stay, as many as planning and repeats may want; the rest make room."""

    def __init__(self, study: Study, folder: Path) -> None:
        self._study, self._folder = study, folder
        self._room = max(KEPT, study.spec.evaluation.plan_top_k, study.spec.search.finalists)
        self._kept: list[tuple[results.Place, int]] = []  # best first
        for record in study.records():
            self.ended(record)

    def ended(self, record: TrialRecord) -> None:
        """Put an ended trial's checkpoint on the shelf, which may push the worst one off it."""
        if record.status is Status.RUNNING or record.repeat_of is not None:
            return
        bisect.insort(self._kept, (results.place(self._study, record), record.number))
        for _, number in self._kept[self._room :]:
            checkpoint_path(self._folder, number).unlink(missing_ok=True)
        del self._kept[self._room :]
