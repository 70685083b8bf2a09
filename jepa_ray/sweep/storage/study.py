"""The books of a sweep: an Optuna study in `optuna.db`, the only record of what was tried and what came of it.

Everything that outlives a session is here: suggestions, the metrics of every epoch, why a trial ended. Ray Tune
keeps nothing that is read again. The study lies under the sweep's name, where Optuna's own dashboard can open it.

Samplers work on a copy in memory: on the database, Optuna reads all unfinished trials again for every suggestion.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import itertools
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from jepa_ray import secrets
from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.files import PARTIAL
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.search import space


class Status(enum.StrEnum):
    """How a trial stands, in the words of the leaderboard."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"


_TO_OPTUNA = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
_FROM_OPTUNA = {state: status for status, state in _TO_OPTUNA.items()}


# Attributes of Optuna's trials that are none of this sweep: struck off, or learned from another sweep.
DISCARDED, WARM_START_MARK = "replaced", "warm_start"
NOT_TRIALS_OF_THIS_SWEEP = {DISCARDED, WARM_START_MARK}


@dataclass(frozen=True)
class PlanningScore:
    """What planning with a finalist showed."""

    plan_success: float  # in [0, 1]
    low: float  # of its 95 % interval
    high: float
    random: float  # success of random actions under the same protocol


@dataclass(frozen=True)
class Ran:
    """Where and when an epoch was trained; None where nobody is left who knows."""

    group: str | None = None
    ended: float | None = None  # Unix time, by the clock of the group's node
    hosts: str | None = None  # names of the machines, with spaces between them


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
    planning_score: PlanningScore | None = None  # of the best trials, where the spec asks for it
    repeat_of: int | None = None  # the finalist that this one trains again,
    seed: int | None = None  # with a seed of its own
    ran: list[Ran] = dataclasses.field(default_factory=list)  # of epoch 1, 2, ...

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

    Opening it puts the books in order: trials that were over when an earlier session died are closed. From then on
    everything is read from memory; every change is on disk before anybody is told of it.
    """

    def __init__(self, spec: SweepConfig, storage: BaseStorage) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec = spec
        self._disk, self._memory = storage, InMemoryStorage()
        directions = ["maximize" if objective.mode == "max" else "minimize" for objective in spec.objectives]
        on_disk = optuna.create_study(
            storage=storage, study_name=spec.name, load_if_exists=True, directions=directions
        ).get_trials(deepcopy=False)
        self._study_id = storage.get_study_id_from_name(spec.name)
        self._disk_ids: dict[int, int] = {}  # by trial number
        self._exported: dict[Path, Any] = {}  # what a file was given last
        self.optuna = optuna.create_study(storage=self._memory, study_name=spec.name, directions=directions)
        self._memory_id = self._memory.get_study_id_from_name(spec.name)
        self.optuna.add_trials(map(_for_samplers, on_disk))  # numbered as they are on disk
        self._attrs = dict(storage.get_study_system_attrs(self._study_id))  # of the sampler
        for key, value in self._attrs.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        planning_score = storage.get_study_user_attrs(self._study_id)
        self._records = {record.number: record for record in _records(on_disk, planning_score)}
        self._close_what_is_over()

    @classmethod
    def open(cls, spec: SweepConfig, database: Path) -> Study:
        """The study in a file, a new one if there is none. Raises `ConfigError` for what no sweep has written."""
        try:
            return cls(spec, optuna.storages.RDBStorage(f"sqlite:///{database}"))
        except (SQLAlchemyError, sqlite3.Error, StorageInternalError, LookupError, TypeError, ValueError) as error:
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ConfigError(f"{database}: does not hold the books of sweep {spec.name} ({why})") from error

    def _close_what_is_over(self) -> None:
        for record in self.records():
            if record.status is Status.RUNNING and record.over:
                self.finish(record.number)

    def begin(self, number: int) -> TrialRecord:
        """Take a suggestion of Optuna's into the books: it is going to be trained."""
        return self._begun(self._write(number))

    def discard(self, number: int) -> None:
        """Take a suggestion into the books, and off them at once: it is not going to be trained."""
        self._memory.set_trial_user_attr(self._in_memory(number), DISCARDED, True)
        self._memory.set_trial_state_values(self._in_memory(number), TrialState.FAIL)
        self._write(number)

    def _write(self, number: int) -> FrozenTrial:
        """Put a trial of the memory on disk as it is, with what the sampler remembers of all."""
        trial = self._memory.get_trial(self._in_memory(number))
        disk_id = self._disk_ids[number] = self._disk.create_new_trial(self._study_id, trial)
        assert self._disk.get_trial_number_from_id(disk_id) == number, ("nobody else adds trials", number)
        attrs = self._memory.get_study_system_attrs(self._memory_id)
        for key in (key for key, value in attrs.items() if self._attrs.get(key) != value):
            self._disk.set_study_system_attr(self._study_id, key, attrs[key])
        self._attrs = dict(attrs)
        return trial

    def _begun(self, trial: FrozenTrial) -> TrialRecord:
        self._records[trial.number] = _record(trial, {})
        return self._records[trial.number]

    def begin_repeat(self, of: TrialRecord, seed: int) -> TrialRecord:
        """A new trial with the parameters of an old one, and another seed."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=of.params,
            distributions=self._memory.get_trial(self._in_memory(of.number)).distributions,
            user_attrs={"repeat_of": of.number, "seed": seed},
        )
        return self._begun(self._add(trial))

    def _add(self, trial: FrozenTrial) -> FrozenTrial:
        trial_id = self._memory.create_new_trial(self._memory_id, trial)
        return self._write(self._memory.get_trial_number_from_id(trial_id))

    @property
    def has_warm_starts(self) -> bool:
        """Whether `learn` was called, in this or an earlier session."""
        return WARM_START_MARK in self._disk.get_study_user_attrs(self._study_id)

    def add_warm_starts(self, trials: Iterable[FrozenTrial]) -> None:
        """Add trials of other sweeps, each marked by a user attribute `WARM_START_MARK` that tells it from all others.

        They are the sampler's, but none of `records`. Called again after a session died here, it doubles none.
        """
        known = {trial.user_attrs.get(WARM_START_MARK) for trial in self.optuna.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.user_attrs[WARM_START_MARK] not in known:
                self._add(trial)
        self._disk.set_study_user_attr(self._study_id, WARM_START_MARK, True)

    def report(
        self, number: int, epoch: int, metrics: Mapping[str, float], *, last: bool, ran: Ran | None = None
    ) -> bool:
        """Record an epoch, and whether it was the trial's last. False if it was known: then nothing changes."""
        ran = ran or Ran()
        record = self.record(number)
        if epoch <= len(record.history):
            return False
        if len(self.spec.objectives) == 1:  # Optuna compares pruned trials by one objective, and TPE fails with several
            value = metrics[self.spec.objective.metric]
            self._disk.set_trial_intermediate_value(self._on_disk(number), epoch, value)
            self._memory.set_trial_intermediate_value(self._in_memory(number), epoch, value)
        self._disk.set_trial_user_attr(
            self._on_disk(number), f"epoch_{epoch}", {"last": last, "ran": list(dataclasses.astuple(ran)), **metrics}
        )
        self._change(number, history=[*record.history, dict(metrics)], ran=[*record.ran, ran], finished=last)
        return True

    def note(self, number: int, **values: Any) -> None:
        """Attach `error`, `collapse`, or `stop` and `stop_epoch` to a trial that is not closed yet."""
        values = {name: secrets.mask(value) if isinstance(value, str) else value for name, value in values.items()}
        for name, value in values.items():
            self._disk.set_trial_user_attr(self._on_disk(number), name, value)
        self._change(number, **values)

    def begin_session(self, about: Mapping[str, Any]) -> None:
        """Remember that a session of the sweep begins, and what it runs on."""
        self._disk.set_study_user_attr(self._study_id, f"{_SESSION}{len(self.sessions)}", dict(about))

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """What `begin_session` was told, oldest first; none of sweeps that were begun by older versions."""
        attrs = self._disk.get_study_user_attrs(self._study_id)
        keys = itertools.takewhile(lambda key: key in attrs, (f"{_SESSION}{i}" for i in itertools.count()))
        return [attrs[key] for key in keys]

    def record_planning_score(self, number: int, planning_score: PlanningScore) -> None:
        """Remember how a finalist did: with the study, since Optuna's finished trials take no more attributes."""
        self._disk.set_study_user_attr(self._study_id, _planning_key(number), dataclasses.asdict(planning_score))
        self._change(number, planning_score=planning_score)

    def finish(self, number: int, *, failed: bool = False) -> TrialRecord:
        """Close a trial's books: FAILED, COMPLETE if it reached its own end, else PRUNED; twice changes nothing.

        Optuna is told the values of a complete trial; of a pruned one it has the objective of every epoch.
        """
        record = self.record(number)
        if record.status is not Status.RUNNING:
            return record
        if lacking := self._lacking(record):
            self.note(number, error=lacking)
            record = self.record(number)
        if failed or record.error or not record.history:
            status = Status.FAILED
        else:
            status = Status.COMPLETE if record.finished else Status.PRUNED
        values = self.values(record) if status is Status.COMPLETE else None
        self.optuna.tell(number, values, state=_TO_OPTUNA[status])
        told = self._memory.get_trial(self._in_memory(number))
        self._disk.set_trial_state_values(self._on_disk(number), told.state, told.values)
        self._change(number, status=status)
        return self.record(number)

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

    def export(self, database: Path) -> None:
        """Copy the books to a SQLite file, which the report, warm starts and Optuna's own tools open.

        Optuna takes some 30 ms per trial for it, so what has not changed since is not copied again.
        """
        now = dict(self._records), self._disk.get_study_user_attrs(self._study_id)
        if database.exists() and self._exported.get(database) == now:
            return
        partial = database.with_name(f"{database.name}{PARTIAL}")
        partial.unlink(missing_ok=True)
        copy = optuna.storages.RDBStorage(f"sqlite:///{partial}")
        optuna.copy_study(from_study_name=self.spec.name, from_storage=self._disk, to_storage=copy)
        copy.engine.dispose()
        partial.replace(database)
        self._exported[database] = now

    def record(self, number: int) -> TrialRecord:
        """One trial as it stands."""
        return self._records[number]

    def records(self) -> list[TrialRecord]:
        """All trials, oldest first."""
        return list(self._records.values())

    def _change(self, number: int, **values: Any) -> None:
        self._records[number] = dataclasses.replace(self._records[number], **values)

    def _on_disk(self, number: int) -> int:
        if number not in self._disk_ids:
            self._disk_ids[number] = self._disk.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._disk_ids[number]

    def _in_memory(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, number)


class StudyView(Study):
    """The books as they are now, to look at. Nothing is copied for samplers, and no trial is closed."""

    def __init__(self, spec: SweepConfig, storage: BaseStorage) -> None:
        self.spec, self._disk = spec, storage
        self._study_id = storage.get_study_id_from_name(spec.name)
        attrs = storage.get_study_user_attrs(self._study_id)
        trials = storage.get_all_trials(self._study_id, deepcopy=False)
        self._records = {record.number: record for record in _records(trials, attrs)}


def _for_samplers(trial: FrozenTrial) -> FrozenTrial:
    """Without the epochs' metrics: no sampler reads them, and Optuna copies every trial deeply."""
    light = copy.copy(trial)
    light.user_attrs = {key: value for key, value in trial.user_attrs.items() if not key.startswith("epoch_")}
    return light


def _records(trials: Iterable[FrozenTrial], planning_score: Mapping[str, Any]) -> list[TrialRecord]:
    return [
        _record(trial, planning_score) for trial in trials if not NOT_TRIALS_OF_THIS_SWEEP & trial.user_attrs.keys()
    ]


_NO_METRICS = {"last", "ran"}  # what is kept beside the metrics of an epoch
_TEXT = (str, type(None))
_RAN = (_TEXT, (int, float, type(None)), _TEXT)  # the kinds of `Ran`'s fields; older books lack the last one
_SESSION = "session_"


def _planning_key(number: int) -> str:
    return f"finals_{number}"


def _row(row: Any, number: int) -> dict[str, Any]:
    """The metrics of an epoch, as `Study.report` has written them. Raises `ValueError` for anything else."""
    numbers = isinstance(row, dict) and all(
        isinstance(name, str) and isinstance(value, (int, float))
        for name, value in row.items()
        if name not in _NO_METRICS
    )
    ran = row.get("ran", []) if numbers else None
    if not (isinstance(ran, list) and len(ran) <= len(_RAN) and all(map(isinstance, ran, _RAN))):
        raise ValueError(f"trial {number} has an epoch that is none")
    return dict(row)


def _record(trial: FrozenTrial, planning_scores: Mapping[str, Any]) -> TrialRecord:
    attrs, planning_score = trial.user_attrs, planning_scores.get(_planning_key(trial.number))
    keys = itertools.takewhile(lambda key: key in attrs, (f"epoch_{i}" for i in itertools.count(1)))
    rows = [_row(attrs[key], trial.number) for key in keys]
    for key in ("error", "collapse", "stop"):
        if not isinstance(attrs.get(key), (str, type(None))):
            raise ValueError(f"{key} of trial {trial.number} is no text")
    for key in ("stop_epoch", "repeat_of", "seed"):
        if not isinstance(attrs.get(key), (int, type(None))):
            raise ValueError(f"{key} of trial {trial.number} is no number")
    return TrialRecord(
        number=trial.number,
        params=dict(trial.params),
        status=_FROM_OPTUNA.get(trial.state, Status.RUNNING),
        history=[{name: value for name, value in row.items() if name not in _NO_METRICS} for row in rows],
        finished=bool(rows and rows[-1]["last"]),
        error=attrs.get("error"),
        collapse=attrs.get("collapse"),
        stop=attrs.get("stop"),
        stop_epoch=attrs.get("stop_epoch"),
        planning_score=PlanningScore(**planning_score) if planning_score else None,
        repeat_of=attrs.get("repeat_of"),
        seed=attrs.get("seed"),
        ran=[Ran(*row.get("ran", ())) for row in rows],
    )
