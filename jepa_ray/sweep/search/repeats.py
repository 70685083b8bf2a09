"""Repeats: when all configurations have been trained, the best ones are trained again with other seeds."""

from __future__ import annotations

from jepa_ray.sweep.ranking import rank_trials
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import Study


class Repeats:
    """The further runs of the finalists. Each begins only once, even if several sessions run the sweep."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._missing: list[tuple[TrialRecord, int]] | None = None  # finalist and seed; None: not known yet

    @property
    def exhausted(self) -> bool:
        """Whether all repeats have begun."""
        return self._study.spec.search.repeats == 1 or self._missing == []

    def ask(self) -> TrialRecord | None:
        """Begin the next repeat. None if all have begun, or while other trials run and the finalists are unknown."""
        if self._missing is None and not self.exhausted:
            self._missing = self._list_missing()
        return self._study.begin_repeat(*self._missing.pop(0)) if self._missing else None

    def _list_missing(self) -> list[tuple[TrialRecord, int]] | None:
        records, search = self._study.records(), self._study.spec.search
        if any(record.status is Status.RUNNING and record.repeat_of is None for record in records):
            return None
        begun = {(record.repeat_of, record.seed) for record in records}
        first_seed = self._study.spec.base.experiment.seed
        ranked = rank_trials(self._study, by_planning=False, by_repeats=False)
        finalists = [record for record in ranked if record.status is Status.COMPLETE][: search.finalists]
        # One seed for all finalists before the next seed: an interrupted sweep has compared them on equal terms.
        repeats = [(record, first_seed + i) for i in range(1, search.repeats) for record in finalists]
        return [(record, seed) for record, seed in repeats if (record.number, seed) not in begun]
