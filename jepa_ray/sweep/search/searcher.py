"""The search: which trial to train next. Optuna suggests; no point of a finite space is trained twice.

`TuneSearcher` is the interface to Ray Tune. Ray's own Optuna searcher reports stopped trials as complete, suggests the
same point of a finite space several times and never closes failed trials, so it is not used.
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
from jepa_ray.config.dimensions import Params, Space
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.repeats import Repeats
from jepa_ray.sweep.search.samplers import make_sampler
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import Study

_REQUESTED = "wanted"  # attribute of an Optuna trial: its place among the configurations that the spec requests
_MAX_DRAWS = 100  # random points before all points are listed: in a large space almost every point is new


@dataclass(frozen=True)
class Suggestion:
    """A trial that is to be trained."""

    number: int
    overrides: Params  # dotted keys of a train config
    repeat: bool = False  # whether it repeats a finalist

    @classmethod
    def of(cls, record: TrialRecord, spec: SweepConfig) -> Suggestion:
        """The suggestion to train, or to continue, a trial of the study."""
        seed = {} if record.seed is None else {"experiment.seed": record.seed}
        return cls(record.number, space.decode(spec.space, record.params) | seed, record.repeat_of is not None)


class Search:
    """Suggests trials in this order.

    1. The trials that an earlier session left unfinished.
    2. The configurations that the spec requests: the base config's, then those of `search.enqueue`.
    3. The sampler's choice.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.spec
        self._space_size = space.size(self._spec.space)
        self._distributions = space.distributions(self._spec.space)
        records = study.records()
        self._unfinished = [record for record in records if record.status is Status.RUNNING]
        self._begun = sum(record.repeat_of is None for record in records)
        self._seen = {space.identity(record.params) for record in records}
        self._requested = self._list_requested()
        study.optuna.sampler = make_sampler(self._spec, done=len(records))

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to suggest: the budget of trials, or the space, is used up."""
        used_up = self._begun >= self._spec.search.num_trials or len(self._seen) == self._space_size
        return used_up and not self._unfinished

    def ask(self) -> Suggestion | None:
        """The next trial; in a finite space, its point is new. None when exhausted."""
        if self.exhausted:
            return None
        if self._unfinished:
            return Suggestion.of(self._unfinished.pop(0), self._spec)
        record = self._study.begin(self._suggest_new().number)
        self._begun += 1
        self._seen.add(space.identity(record.params))
        return Suggestion.of(record, self._spec)

    def _suggest_new(self) -> Trial:
        """A suggestion of Optuna's; a duplicate is discarded, and another point takes its place."""
        index, fixed = self._next_request()
        if index is None and self._spec.search.algorithm == "grid":
            fixed = next(self._unseen({}))
        trial = self._suggest(fixed)
        if index is not None:
            trial.set_user_attr(_REQUESTED, index)
        if self._space_size and space.identity(trial.params) in self._seen:
            self._study.discard(trial.number)
            return self._suggest(self._choose_unseen(fixed, random.Random(trial.number)))
        return trial

    def _suggest(self, fixed: Params) -> Trial:
        """A trial in which the sampler has chosen every dimension that exists and is not fixed."""
        if fixed:
            self._study.optuna.enqueue_trial(fixed)
        trial = self._study.optuna.ask()
        for key, distribution in self._distributions.items():
            if space.active(self._spec.space[key], trial.params):
                _suggest_dimension(trial, key, distribution)
        return trial

    def _next_request(self) -> tuple[int | None, Params]:
        """Place and values of the next requested configuration that is new; (None, {}) if nothing is left."""
        while self._requested:
            index, values = self._requested.pop(0)
            if space.identity(values) not in self._seen:
                return index, values
        return None, {}

    def _list_requested(self) -> list[tuple[int, Params]]:
        """The base config (0) and the enqueued configurations (1, 2, ...) that no session has begun yet."""
        spec = self._spec
        base = space.base_point(spec) if spec.search.enqueue_base else None
        requests = [base, *(space.encode(spec.space, values) for values in spec.search.enqueue)]
        begun = {trial.user_attrs.get(_REQUESTED) for trial in self._study.optuna.get_trials(deepcopy=False)}
        return [(index, values) for index, values in enumerate(requests) if values and index not in begun]

    def _choose_unseen(self, fixed: Params, rng: random.Random) -> Params:
        """A random point that is new; one with the fixed values, if there is any."""
        draws = (space.draw(self._restrict_space(fixed), rng) for _ in range(_MAX_DRAWS))
        if unseen := next((point for point in draws if space.identity(point) not in self._seen), None):
            return unseen
        return rng.choice(list(self._unseen(fixed)) or list(self._unseen({})))

    def _unseen(self, fixed: Params) -> Iterator[Params]:
        """The new points with the fixed values, in the order of the space."""
        points = space.points(self._restrict_space(fixed))
        return (point for point in points if space.identity(point) not in self._seen)

    def _restrict_space(self, fixed: Params) -> Space:
        return {**self._spec.space, **{key: [value] for key, value in fixed.items()}}


def _suggest_dimension(trial: Trial, key: str, distribution: BaseDistribution) -> None:
    """Have the sampler choose one dimension; Optuna's `ask` takes no conditions, so it cannot choose all at once."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(key, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    else:
        trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


class TuneSearcher(Searcher):
    """The search as Ray Tune's searcher. It has no state to save: a resumed sweep reads the study.

    Args:
        study: the sweep's study.
        limit: returns how many trials may run at once at the moment.
    """

    def __init__(self, study: Study, limit: Callable[[], int] = lambda: sys.maxsize) -> None:
        self._spec, self._limit = study.spec, limit
        self._running: set[str] = set()  # Ray Tune's trial IDs
        super().__init__(metric=self._spec.objective.metric, mode=self._spec.objective.mode)
        self._search, self._repeats = Search(study), Repeats(study)

    @property
    def exhausted(self) -> bool:
        """Whether every trial and every repeat has been suggested."""
        return self._search.exhausted and self._repeats.exhausted

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, `{"number", "overrides", "repeat"}`; None while it has to wait for other trials."""
        if len(self._running) >= self._limit() and not self.exhausted:
            return None
        suggestion = self._search.ask()
        if suggestion is None and (repeat := self._repeats.ask()):
            suggestion = Suggestion.of(repeat, self._spec)
        if suggestion:
            self._running.add(trial_id)
            return dataclasses.asdict(suggestion)
        return Searcher.FINISHED if self.exhausted else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the recorder writes results, those of stopped trials included."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room for another trial; the recorder closes this one once it knows the error."""
        self._running.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the state is in the study."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the state is in the study."""
