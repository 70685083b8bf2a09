"""The search: what to try next. Optuna suggests; nothing of a finite space is tried twice; Ray Tune asks through here.

Ray Tune's own Optuna searcher tells stopped trials as complete, tries points of a finite space twice and leaves
failed trials running; hence this one.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import Trial
from ray.tune.search import Searcher

from jepa_ray.config import SweepConfig
from jepa_ray.config.dimensions import Space
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.repeats import Repeats
from jepa_ray.sweep.search.samplers import make_sampler
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord


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
    """Suggestions, in this order: what an earlier session left unfinished, what the spec wants first, the sampler's."""

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.spec
        self._space_size = space.size(self._spec.space)
        self._distributions = space.distributions(self._spec.space)
        records = study.records()
        self._unfinished = [record for record in records if record.status is Status.RUNNING]
        self._asked = sum(record.repeat_of is None for record in records)
        self._seen = {space.identity(record.params) for record in records}
        self._wanted = self._wanted_first()
        study.optuna.sampler = make_sampler(self._spec, done=len(records))

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to suggest: the budget of trials, or the space, is used up."""
        used_up = self._asked >= self._spec.search.num_trials or len(self._seen) == self._space_size
        return used_up and not self._unfinished

    def ask(self) -> Suggestion | None:
        """The next trial, never tried before on a finite space; None when exhausted."""
        if self.exhausted:
            return None
        if self._unfinished:
            return Suggestion.of(self._unfinished.pop(0), self._spec)
        record = self._study.begin(self._draw().number)
        self._asked += 1
        self._seen.add(space.identity(record.params))
        return Suggestion.of(record, self._spec)

    def _draw(self) -> Trial:
        index, wanted = self._next_wanted()
        if index is None and self._spec.search.algorithm == "grid":
            wanted = next(self._unseen({}))
        trial = self._suggested(wanted)
        if index is not None:
            trial.set_user_attr(_WANTED, index)
        if self._space_size and space.identity(trial.params) in self._seen:
            self._study.discard(trial.number)
            return self._suggested(self._instead(trial.number, wanted))
        return trial

    def _suggested(self, fixed: space.Params) -> Trial:
        """A trial of Optuna's: the sampler's choice of every dimension that exists and is not fixed."""
        if fixed:
            self._study.optuna.enqueue_trial(fixed)
        trial = self._study.optuna.ask()
        for key, distribution in self._distributions.items():
            if space.active(self._spec.space[key], trial.params):
                _suggest(trial, key, distribution)
        return trial

    def _next_wanted(self) -> tuple[int | None, space.Params]:
        """What the spec wants next that was not tried: its place in the spec, and the values that it fixes."""
        while self._wanted:
            index, wanted = self._wanted.pop(0)
            if space.identity(wanted) not in self._seen:
                return index, wanted
        return None, {}

    def _wanted_first(self) -> list[tuple[int, space.Params]]:
        """The base (0) and the enqueued configurations (1, 2, ...) that no session has asked for yet."""
        spec = self._spec
        base = space.base_point(spec) if spec.search.enqueue_base else None
        wanted = [base, *(space.encode(spec.space, values) for values in spec.search.enqueue)]
        done = {trial.user_attrs.get(_WANTED) for trial in self._study.optuna.get_trials(deepcopy=False)}
        return [(index, values) for index, values in enumerate(wanted) if values and index not in done]

    def _instead(self, number: int, wanted: space.Params) -> space.Params:
        """An unseen point in the place of trial `number`, a repeat; one with the wanted values, if any is left."""
        rng = random.Random(number)
        some = (space.draw(self._narrowed(wanted), rng) for _ in range(_DRAWS))
        if found := next((point for point in some if space.identity(point) not in self._seen), None):
            return found
        return rng.choice(list(self._unseen(wanted)) or list(self._unseen({})))

    def _unseen(self, wanted: space.Params) -> Iterator[space.Params]:
        """The points with the wanted values that were not tried, in the order of the space."""
        every = space.points(self._narrowed(wanted))
        return (point for point in every if space.identity(point) not in self._seen)

    def _narrowed(self, wanted: space.Params) -> Space:
        return {**self._spec.space, **{key: [value] for key, value in wanted.items()}}


_WANTED = "wanted"  # marks the trials that the spec asked for
_DRAWS = 100  # of a point at random, before all are listed: a large space has unseen points everywhere


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> None:
    """Optuna's `ask` takes no conditions, so each dimension is suggested by itself."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(key, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


class TuneSearcher(Searcher):
    """What Ray Tune sees of the search. Keeps no state of its own: a resumed sweep finds it in the study."""

    def __init__(self, study: Study, limit: Callable[[], int] = lambda: sys.maxsize) -> None:
        """`limit`: trials that may run at once, now."""
        self._spec, self._limit = study.spec, limit
        self._running: set[str] = set()
        super().__init__(metric=self._spec.objective.metric, mode=self._spec.objective.mode)
        self._search, self._repeats = Search(study), Repeats(study)

    @property
    def exhausted(self) -> bool:
        """Whether everything was handed out."""
        return self._search.exhausted and self._repeats.exhausted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, `{"number", "overrides", "repeat"}`; None while it has to wait for others."""
        if len(self._running) >= self._limit() and not self.exhausted:
            return None
        asked = self._search.ask()
        if asked is None and (repeat := self._repeats.ask()):
            asked = Suggestion.of(repeat, self._spec)
        if asked:
            self._running.add(trial_id)
            return dataclasses.asdict(asked)
        return Searcher.FINISHED if self.exhausted else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the recorder writes results, those of stopped trials included."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room for another; the recorder closes the books, when it knows the error."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""
