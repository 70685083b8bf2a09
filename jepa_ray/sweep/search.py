"""The search: Optuna decides what to try next, and its study is the record of everything that was tried.

Ray Tune's own Optuna searcher tells stopped trials as complete, tries points of a finite space twice and leaves
failed trials running; so Tune gets a thin searcher of ours, and `Study` keeps the books. The study lies
in `optuna.db` under the sweep's name, where Optuna's own dashboard can open it.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import space


class Status(enum.StrEnum):
    """How a trial stands, in the words of the leaderboard."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


_TO_OPTUNA = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
_FROM_OPTUNA = {state: status for status, state in _TO_OPTUNA.items()}


@dataclass(frozen=True)
class Finals:
    """What planning with a finalist showed."""

    plan_success: float  # in [0, 1]
    low: float  # of its 95 % interval
    high: float
    random: float  # success of random actions under the same protocol


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study remembers it."""

    number: int  # 0, 1, ... in the order of the suggestions
    params: space.Params  # as Optuna has them; `space.decode` makes them a config's
    status: Status
    history: list[dict[str, float]]  # metrics of epoch 1, 2, ...
    finished: bool = False  # reached its own end: max_epochs, or patience
    error: str | None = None
    collapse: str | None = None  # the diagnosis, where it stopped the trial
    mlflow_run_id: str | None = None
    tune_id: str | None = None
    finals: Finals | None = None  # of the best trials, where the spec asks for it

    @property
    def seconds(self) -> float:
        """Time spent on training and validating it."""
        return sum(row["epoch_s"] for row in self.history)

    @property
    def trial_id(self) -> str:
        """Its name in tables, logs and MLflow."""
        return trial_name(self.number)


def trial_name(number: int) -> str:
    """Fixed-width, so that names sort."""
    return f"trial_{number:05d}"


class Study:
    """The sweep's Optuna study: suggestions out, results in. Only the driver uses it."""

    def __init__(self, spec: SweepConfig, database: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec = spec
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{database}")
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=spec.name,
            load_if_exists=True,
            direction="maximize" if spec.objective.mode == "max" else "minimize",
        )
        self._space_size = space.size(spec.space)
        self._distributions = space.distributions(spec.space)
        records = self.records()
        self._seen = {space.identity(record.params) for record in records}
        self._numbers = {record.tune_id: record.number for record in records}
        self._study_id = self._storage.get_study_id_from_name(spec.name)
        # A resumed search must not replay the random numbers that made its first suggestions.
        self._study.sampler = _sampler(spec, spec.search.seed + len(records))

    # -------------------------------------------------------------------------------- suggestions

    @property
    def exhausted(self) -> bool:
        """Whether the budget of trials, or the space, is used up."""
        budget = self.spec.search.num_trials
        return len(self._seen) >= min(budget, self._space_size or budget)

    def ask(self, tune_id: str) -> tuple[int, space.Params] | None:
        """The next trial's number and parameters, never tried before on a finite space; None when exhausted."""
        if self.exhausted:
            return None
        if self.spec.search.algorithm == "grid":
            self._enqueue_unseen()
        trial = self._study.ask(self._distributions)
        if self._space_size and space.identity(trial.params) in self._seen:
            self._replace(trial.number)
            self._enqueue_unseen(pick=trial.number)
            trial = self._study.ask(self._distributions)
        trial.set_user_attr("tune_id", tune_id)
        self._seen.add(space.identity(trial.params))
        self._numbers[tune_id] = trial.number
        return trial.number, space.decode(self.spec.space, trial.params)

    def _enqueue_unseen(self, pick: int = 0) -> None:
        """Queue a point that was not tried: the first one, or one that the number `pick` selects."""
        unseen = [point for point in space.points(self.spec.space) if space.identity(point) not in self._seen]
        self._study.enqueue_trial(unseen[pick * _KNUTH % len(unseen)])

    def _replace(self, number: int) -> None:
        """Strike a trial from the books: it was never trained, or has to be begun anew."""
        self._storage.set_trial_user_attr(self._id(number), "replaced", True)
        self._study.tell(number, state=TrialState.FAIL)

    def requeue_unknown(self, tune_ids: set[str]) -> None:
        """After a driver's death: begin anew what was suggested but is not in Tune's last snapshot."""
        for record in self.records():
            if record.status is Status.RUNNING and record.tune_id not in tune_ids:
                self._replace(record.number)
                self._seen.discard(space.identity(record.params))
                self._study.enqueue_trial(record.params)

    # ------------------------------------------------------------------------------------ results

    def number(self, tune_id: str) -> int:
        """The trial number behind Tune's random id."""
        return self._numbers[tune_id]

    def report(self, tune_id: str, epoch: int, metrics: Mapping[str, float], *, last: bool) -> None:
        """Record an epoch, and whether it was the trial's last; trained again after a failure, it replaces itself."""
        trial_id = self._id(self.number(tune_id))
        self._storage.set_trial_intermediate_value(trial_id, epoch, metrics[self.spec.objective.metric])
        self._storage.set_trial_user_attr(trial_id, f"epoch_{epoch}", {"last": last, **metrics})

    def note(self, tune_id: str, **values: str) -> None:
        """Attach `mlflow_run_id`, `error` or `collapse` to a trial."""
        for name, value in values.items():
            self._storage.set_trial_user_attr(self._id(self.number(tune_id)), name, value)

    def record_finals(self, tune_id: str, finals: Finals) -> None:
        """Remember how a finalist did: with the study, since Optuna's finished trials take no more attributes."""
        self._study.set_user_attr(_finals_key(self.number(tune_id)), dataclasses.asdict(finals))

    def finish(self, tune_id: str, *, failed: bool = False) -> None:
        """Close a trial's books: FAILED, COMPLETE if it reached its own end, else PRUNED; twice changes nothing.

        Optuna is told the best value of a complete trial; of a pruned one it has the value of every epoch.
        """
        record = self.record(tune_id)
        if failed or record.error or not record.history:
            status = Status.FAILED
        else:
            status = Status.COMPLETE if record.finished else Status.PRUNED
        value = self.best_value(record) if status is Status.COMPLETE else None
        self._study.tell(record.number, value, state=_TO_OPTUNA[status], skip_if_finished=True)

    def best_value(self, record: TrialRecord) -> float | None:
        """The best objective a trial reached in any epoch."""
        return self.spec.objective.best(row[self.spec.objective.metric] for row in record.history)

    def record(self, tune_id: str) -> TrialRecord:
        """One trial as it stands."""
        return _record(self._storage.get_trial(self._id(self.number(tune_id))), self._study.user_attrs)

    def records(self) -> list[TrialRecord]:
        """All trials, oldest first."""
        trials, known = self._study.get_trials(deepcopy=False), self._study.user_attrs
        kept = [t for t in trials if "replaced" not in t.user_attrs and t.state is not TrialState.WAITING]
        return [_record(trial, known) for trial in kept]

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


_KNUTH = 2654435761  # a multiplicative hash: spreads consecutive numbers over the unseen points


def _sampler(spec: SweepConfig, seed: int) -> BaseSampler:
    if spec.search.algorithm == "tpe":
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return RandomSampler(seed=seed)


def _finals_key(number: int) -> str:
    return f"finals_{number}"


def _record(trial: FrozenTrial, of_study: Mapping[str, Any]) -> TrialRecord:
    attrs, finals = trial.user_attrs, of_study.get(_finals_key(trial.number))
    keys = itertools.takewhile(lambda key: key in attrs, (f"epoch_{i}" for i in itertools.count(1)))
    rows = [attrs[key] for key in keys]
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        status=_FROM_OPTUNA.get(trial.state, Status.RUNNING),
        history=[{name: value for name, value in row.items() if name != "last"} for row in rows],
        finished=bool(rows and rows[-1]["last"]),
        error=attrs.get("error"),
        collapse=attrs.get("collapse"),
        mlflow_run_id=attrs.get("mlflow_run_id"),
        tune_id=attrs.get("tune_id"),
        finals=Finals(**finals) if finals else None,
    )


class TuneSearcher(Searcher):
    """What Ray Tune sees of the study. Keeps no state of its own: a restored sweep finds it in `optuna.db`."""

    def __init__(self, study: Study) -> None:
        super().__init__(metric=study.spec.objective.metric, mode=study.spec.objective.mode)
        self._books = study

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config, `{"number", "overrides"}`."""
        asked = self._books.ask(trial_id)
        if asked is None:
            return Searcher.FINISHED
        number, params = asked
        return {"number": number, "overrides": params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the recorder writes results, those of stopped trials included."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the recorder closes the books, when it knows the error."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study is on disk."""
