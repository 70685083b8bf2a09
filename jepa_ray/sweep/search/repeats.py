"""Repeats: when all configurations are tried, the best ones are trained again with other seeds."""

from __future__ import annotations

from jepa_ray.sweep.output import results
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord


class Repeats:
    """The further runs of the finalists, each begun once, also over several sessions."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._missing: list[tuple[TrialRecord, int]] | None = None  # known when all other trials are over

    @property
    def exhausted(self) -> bool:
        """Whether all repeats were begun."""
        return self._study.spec.search.repeats == 1 or self._missing == []

    def ask(self) -> TrialRecord | None:
        """The next repeat; None if there is none, or none yet: finalists are known when all trials are over."""
        if self._missing is None and not self.exhausted:
            self._missing = self._find()
        return self._study.begin_repeat(*self._missing.pop(0)) if self._missing else None

    def _find(self) -> list[tuple[TrialRecord, int]] | None:
        records, search = self._study.records(), self._study.spec.search
        if any(record.status is Status.RUNNING and record.repeat_of is None for record in records):
            return None
        begun = {(record.repeat_of, record.seed) for record in records}
        first = self._study.spec.base.experiment.seed
        ranked = results.rank_trials(self._study, by_planning=False, by_repeats=False)
        finalists = [record for record in ranked if record.status is Status.COMPLETE][: search.finalists]
        # A seed for every finalist before the next seed: an interrupted sweep has compared them fairly.
        wanted = [(record, first + i) for i in range(1, search.repeats) for record in finalists]
        return [(record, seed) for record, seed in wanted if (record.number, seed) not in begun]
