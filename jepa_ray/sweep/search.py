"""The search: what to try next. Optuna suggests; nothing of a finite space is tried twice; Ray Tune asks through here.

Ray Tune's own Optuna searcher tells stopped trials as complete, tries points of a finite space twice and leaves
failed trials running; hence this one.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.search import Searcher

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import space
from jepa_ray.sweep.repeats import Repeats
from jepa_ray.sweep.study import Status, Study, TrialRecord


@dataclass(frozen=True)
class Suggestion:
    """A trial to be trained."""

    number: int
    overrides: space.Params  # as a train config takes them
    repeat: bool = False  # of a finalist

    @classmethod
    def of(cls, record: TrialRecord, spec: SweepConfig) -> Suggestion:
        """To begin or continue a trial that is in the books."""
        seed = {} if record.seed is None else {"experiment.seed": record.seed}
        return cls(record.number, space.decode(spec.space, record.params) | seed, record.repeat_of is not None)


class Search:
    """Suggestions from a study's sampler, first of all those that an earlier session left unfinished."""

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.spec
        self._space_size = space.size(self._spec.space)
        self._distributions = space.distributions(self._spec.space)
        records = study.records()
        self._unfinished = [record for record in records if record.status is Status.RUNNING]
        self._seen = {space.identity(record.params) for record in records}
        # A resumed search must not replay the random numbers that made its first suggestions.
        study.optuna.sampler = _sampler(self._spec, self._spec.search.seed + len(records))

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to suggest: the budget of trials, or the space, is used up."""
        budget = self._spec.search.num_trials
        return not self._unfinished and len(self._seen) >= min(budget, self._space_size or budget)

    def ask(self) -> Suggestion | None:
        """The next trial, never tried before on a finite space; None when exhausted."""
        if self.exhausted:
            return None
        if self._unfinished:
            return Suggestion.of(self._unfinished.pop(0), self._spec)
        if self._spec.search.algorithm == "grid":
            self._enqueue_unseen()
        trial = self._study.optuna.ask(self._distributions)
        if self._space_size and space.identity(trial.params) in self._seen:
            self._study.strike(trial.number)
            self._enqueue_unseen(pick=trial.number)
            trial = self._study.optuna.ask(self._distributions)
        self._seen.add(space.identity(trial.params))
        return Suggestion(trial.number, space.decode(self._spec.space, trial.params))

    def _enqueue_unseen(self, pick: int = 0) -> None:
        """Queue a point that was not tried: the first one, or one that the number `pick` selects."""
        unseen = [point for point in space.points(self._spec.space) if space.identity(point) not in self._seen]
        self._study.optuna.enqueue_trial(unseen[pick * _KNUTH % len(unseen)])


_KNUTH = 2654435761  # a multiplicative hash: spreads consecutive numbers over the unseen points


def _sampler(spec: SweepConfig, seed: int) -> BaseSampler:
    if spec.search.algorithm == "tpe":
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return RandomSampler(seed=seed)


class TuneSearcher(Searcher):
    """What Ray Tune sees of the search. Keeps no state of its own: a resumed sweep finds it in the study."""

    def __init__(self, study: Study) -> None:
        self._spec = study.spec
        super().__init__(metric=self._spec.objective.metric, mode=self._spec.objective.mode)
        self._search, self._repeats = Search(study), Repeats(study)

    @property
    def exhausted(self) -> bool:
        """Whether everything was handed out."""
        return self._search.exhausted and self._repeats.exhausted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, `{"number", "overrides", "repeat"}`; None while finalists are not known yet."""
        asked = self._search.ask()
        if asked is None and (repeat := self._repeats.ask()):
            asked = Suggestion.of(repeat, self._spec)
        if asked:
            return dataclasses.asdict(asked)
        return Searcher.FINISHED if self.exhausted else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the recorder writes results, those of stopped trials included."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the recorder closes the books, when it knows the error."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""
