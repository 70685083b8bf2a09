"""Which of a sweep's checkpoints are kept."""

from __future__ import annotations

import bisect

from jepa_ray.storage import Storage
from jepa_ray.sweep import CHECKPOINTS, checkpoint_name, epochs_folder
from jepa_ray.sweep.ranking import SortKey, sort_key
from jepa_ray.sweep.storage.disk import count_retained_trials
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import Study


class CheckpointRetention:
    """Deletes the checkpoints of ended trials that are not among the best; repeats keep theirs.

    Args:
        study: decides which trials are the best.
        store: the sweep's storage. Checkpoints that an earlier session should have deleted are deleted at once.
    """

    def __init__(self, study: Study, store: Storage) -> None:
        self._study, self._store = study, store
        self._room = count_retained_trials(study.spec)
        self._has_periodic = study.spec.base.experiment.checkpoint_every is not None
        self._retained: list[tuple[SortKey, int]] = []  # sort key and number, best first
        dropped = {number for record in study.records() for number in self._place(record)}
        files = store.names(CHECKPOINTS, recursive=True)
        stored = {*files, *(name.rpartition("/")[0] for name in files)}
        for number in sorted(dropped):
            if stored.intersection((checkpoint_name(number), epochs_folder(number))):
                self._drop(number)

    def ended(self, record: TrialRecord) -> None:
        """Rank an ended trial, and delete the checkpoints of the trial that is no longer among the best."""
        for number in self._place(record):
            self._drop(number)

    def _place(self, record: TrialRecord) -> list[int]:
        """Add an ended trial to those whose checkpoints are kept; returns the trials that it displaces."""
        if record.status is Status.RUNNING or record.repeat_of is not None:
            return []
        bisect.insort(self._retained, (sort_key(self._study, record), record.number))
        displaced = [number for _, number in self._retained[self._room :]]
        del self._retained[self._room :]
        return displaced

    def _drop(self, number: int) -> None:
        """Delete a trial's training checkpoint and its periodic checkpoints."""
        self._store.delete(checkpoint_name(number))
        if self._has_periodic:  # in an object store, deleting a folder takes a request even if it does not exist
            self._store.delete_folder(epochs_folder(number))
