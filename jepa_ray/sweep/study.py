"""The books of a sweep: an Optuna study in `optuna.db`, the only record of what was tried and what came of it.

Everything that outlives a session is here: suggestions, the metrics of every epoch, why a trial ended. Ray Tune
keeps nothing that is read again. The study lies under the sweep's name, where Optuna's own dashboard can open it.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import space, trial_name


class Status(enum.StrEnum):
    """How a trial stands, in the words of the leaderboard."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


_TO_OPTUNA = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
_FROM_OPTUNA = {state: status for status, state in _TO_OPTUNA.items()}


# Attributes of Optuna's trials that are none of this sweep: struck off, or learned from another sweep.
REPLACED, LEARNED = "replaced", "warm_start"
NOT_OURS = {REPLACED, LEARNED}


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
    stop: str | None = None  # what the scheduler stopped it for
    stop_epoch: int | None = None
    finals: Finals | None = None  # of the best trials, where the spec asks for it
    repeat_of: int | None = None  # the finalist that this one trains again,
    seed: int | None = None  # with a seed of its own

    @property
    def over(self) -> bool:
        """Whether nothing more is to be trained, though the books may still be open."""
        stopped = self.stop_epoch is not None and len(self.history) >= self.stop_epoch
        return bool(self.finished or self.collapse or self.error or stopped)

    @property
    def seconds(self) -> float:
        """Time spent on training and validating it."""
        return sum(row["epoch_s"] for row in self.history)

    @property
    def trial_id(self) -> str:
        """Its name in tables, logs and MLflow."""
        return trial_name(self.number)


class Study:
    """The sweep's Optuna study, as the driver keeps it. No other process writes to it.

    Opening it puts the books in order: trials that were over when an earlier session died are closed.
    """

    def __init__(self, spec: SweepConfig, storage: BaseStorage) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec = spec
        self._storage = storage
        self.optuna = optuna.create_study(
            storage=storage,
            study_name=spec.name,
            load_if_exists=True,
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in spec.objectives],
        )
        self._study_id = storage.get_study_id_from_name(spec.name)
        self._strike_half_made()
        self._close_what_is_over()
        self._epochs = {record.number: len(record.history) for record in self.records()}

    @classmethod
    def open(cls, spec: SweepConfig, database: Path) -> Study:
        """The study in a file, a new one if there is none."""
        return cls(spec, optuna.storages.RDBStorage(f"sqlite:///{database}"))

    def _strike_half_made(self) -> None:
        """Strike off what a session that died had queued, or not suggested to its end: it was never handed out."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)):
            if trial.state is TrialState.WAITING or not space.complete(self.spec.space, trial.params):
                self.strike(trial.number)

    def _close_what_is_over(self) -> None:
        seen = set()
        for record in self.records():
            identity = space.identity(record.params)
            if record.status is Status.RUNNING and record.over:
                self.finish(record.number)
            elif (
                record.status is Status.RUNNING and identity in seen and not record.history and record.repeat_of is None
            ):
                self.strike(record.number)  # a repeated suggestion that was about to be replaced
            seen.add(identity)

    def begin_repeat(self, of: TrialRecord, seed: int) -> TrialRecord:
        """A new trial with the parameters of an old one, and another seed."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=of.params,
            distributions=self._storage.get_trial(self._id(of.number)).distributions,
            user_attrs={"repeat_of": of.number, "seed": seed},
        )
        return self.record(self._storage.get_trial(self._storage.create_new_trial(self._study_id, trial)).number)

    def strike(self, number: int) -> None:
        """Take a trial off the books: it was never trained."""
        self._storage.set_trial_user_attr(self._id(number), REPLACED, True)
        self._storage.set_trial_state_values(self._id(number), TrialState.FAIL)  # tell takes no queued trial

    def report(self, number: int, epoch: int, metrics: Mapping[str, float], *, last: bool) -> bool:
        """Record an epoch, and whether it was the trial's last. False if it was known: then nothing changes."""
        if epoch <= self._epochs.get(number, 0):
            return False
        trial_id = self._id(number)
        if len(self.spec.objectives) == 1:  # Optuna compares pruned trials by one objective, and TPE fails with several
            self._storage.set_trial_intermediate_value(trial_id, epoch, metrics[self.spec.objective.metric])
        self._storage.set_trial_user_attr(trial_id, f"epoch_{epoch}", {"last": last, **metrics})
        self._epochs[number] = epoch
        return True

    def note(self, number: int, **values: Any) -> None:
        """Attach `error`, `collapse`, or `stop` and `stop_epoch` to a trial that is not closed yet."""
        for name, value in values.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)

    def record_finals(self, number: int, finals: Finals) -> None:
        """Remember how a finalist did: with the study, since Optuna's finished trials take no more attributes."""
        self.optuna.set_user_attr(_finals_key(number), dataclasses.asdict(finals))

    def finish(self, number: int, *, failed: bool = False) -> TrialRecord:
        """Close a trial's books: FAILED, COMPLETE if it reached its own end, else PRUNED; twice changes nothing.

        Optuna is told the values of a complete trial; of a pruned one it has the objective of every epoch.
        """
        record = self.record(number)
        if record.status is not Status.RUNNING:
            return record
        if lacking := self._lacking(record):
            self.note(number, error=lacking)
            record = dataclasses.replace(record, error=lacking)
        if failed or record.error or not record.history:
            status = Status.FAILED
        else:
            status = Status.COMPLETE if record.finished else Status.PRUNED
        values = self.values(record) if status is Status.COMPLETE else None
        self.optuna.tell(number, values, state=_TO_OPTUNA[status], skip_if_finished=True)
        return dataclasses.replace(record, status=status)

    def best_value(self, record: TrialRecord) -> float | None:
        """The best objective a trial reached in any epoch."""
        return self.spec.objective.best(row[self.spec.objective.metric] for row in record.history)

    def values(self, record: TrialRecord) -> list[float]:
        """All objectives in the trial's best epoch, the one with the best first objective; NaN where one is lacking."""
        best = self.best_value(record)
        row = next(row for row in record.history if row[self.spec.objective.metric] == best)
        return [row.get(objective.metric, math.nan) for objective in self.spec.objectives]

    def _lacking(self, record: TrialRecord) -> str | None:
        """Why a trial that reached its end cannot be compared: what the scheduler does not look at may be missing."""
        values = self.values(record) if record.finished and not record.error else []
        pairs = zip(self.spec.objectives, values, strict=False)
        missing = next((o.metric for o, value in pairs if not math.isfinite(value)), None)
        return f"the objective {missing} has no finite value in the best epoch" if missing else None

    def record(self, number: int) -> TrialRecord:
        """One trial as it stands."""
        return _record(self._storage.get_trial(self._id(number)), self.optuna.user_attrs)

    def records(self) -> list[TrialRecord]:
        """All trials, oldest first."""
        trials, known = self.optuna.get_trials(deepcopy=False), self.optuna.user_attrs
        kept = [t for t in trials if not NOT_OURS & t.user_attrs.keys() and t.state is not TrialState.WAITING]
        return [_record(trial, known) for trial in kept]

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


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
        stop=attrs.get("stop"),
        stop_epoch=attrs.get("stop_epoch"),
        finals=Finals(**finals) if finals else None,
        repeat_of=attrs.get("repeat_of"),
        seed=attrs.get("seed"),
    )
