"""A sweep's Optuna study in `optuna.db`: the only record of its trials and their results.

Everything that outlives a session is stored here: the suggestions, the metrics of every epoch, why a trial ended. Ray
Tune stores nothing that is read again. The study has the sweep's name, and Optuna's own dashboard can open it.

`StudyView` reads a study, `Study` also writes to it. Samplers work on a copy in memory: on a database, Optuna reads
all unfinished trials again for every suggestion.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from jepa_ray import secrets
from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError, first_line
from jepa_ray.files import PARTIAL
from jepa_ray.sweep.storage.records import (
    DISCARDED,
    NUMBER,
    OTHER_TRIALS,
    TO_OPTUNA,
    WARM_START_MARK,
    PlanningScore,
    Status,
    TrialRecord,
    number_of,
    planning_key,
    read_record,
    read_records,
)
from jepa_ray.sweep.tune_result import TrainedBy

_SESSION = "session_"  # attributes of the study: session_0, session_1, ...


class StudyView:
    """A study to read: the spec of the sweep, its trials as they are when it is opened, and its sessions.

    Nothing is written, so another process may be running the sweep.

    Args:
        spec: the sweep's spec; it names the study.
        storage: where the study is stored.
        trials: all Optuna trials of the storage, if the caller has read them already.
    """

    def __init__(self, spec: SweepConfig, storage: BaseStorage, trials: Sequence[FrozenTrial] | None = None) -> None:
        self.spec, self._disk = spec, storage
        self._study_id = storage.get_study_id_from_name(spec.name)
        if trials is None:
            trials = storage.get_all_trials(self._study_id, deepcopy=False)
        self._records = read_records(trials, storage.get_study_user_attrs(self._study_id))

    @classmethod
    def open(cls, spec: SweepConfig, database: Path) -> Self:
        """The study in a SQLite file; `Study` creates it if it does not exist.

        Raises `ConfigError` for a file that does not hold a study of this sweep.
        """
        try:
            return cls(spec, optuna.storages.RDBStorage(f"sqlite:///{database}"))
        except (SQLAlchemyError, sqlite3.Error, StorageInternalError, LookupError, TypeError, ValueError) as error:
            why = first_line(error)
            raise ConfigError(f"{database}: does not hold the study of sweep {spec.name} ({why})") from error

    def record(self, number: int) -> TrialRecord:
        """The present record of one trial."""
        return self._records[number]

    def records(self) -> list[TrialRecord]:
        """All trials of the sweep, oldest first."""
        return list(self._records.values())

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """What `Study.begin_session` was given, oldest first; empty if only older versions ran the sweep."""
        attributes = self._disk.get_study_user_attrs(self._study_id)
        keys = (f"{_SESSION}{i}" for i in itertools.count())
        return [attributes[key] for key in itertools.takewhile(lambda key: key in attributes, keys)]

    def best_value(self, record: TrialRecord) -> float | None:
        """The first objective in the trial's best epoch; None if the trial has no value."""
        return record.best_metrics(self.spec.objective).get(self.spec.objective.metric)

    def best_values(self, record: TrialRecord) -> list[float]:
        """All objectives in the best epoch, which is that of the first objective; NaN for a missing value."""
        metrics = record.best_metrics(self.spec.objective)
        return [metrics.get(objective.metric, math.nan) for objective in self.spec.objectives]


class Study(StudyView):
    """The study of the sweep that this process drives. No other process writes to it.

    Opening it closes the trials that had ended when an earlier session died. From then on everything is read from
    memory, and every change is on disk before the method that makes it returns.

    Methods take the sweep's own trial numbers, which are consecutive. Only `begin` and `discard` take Optuna's, which
    also count discarded suggestions and warm-start trials.
    """

    def __init__(self, spec: SweepConfig, storage: BaseStorage) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = ["maximize" if objective.mode == "max" else "minimize" for objective in spec.objectives]
        stored = optuna.create_study(
            storage=storage, study_name=spec.name, load_if_exists=True, directions=directions
        ).get_trials(deepcopy=False)
        super().__init__(spec, storage, stored)
        self._optuna_numbers = {number_of(t): t.number for t in stored if not OTHER_TRIALS & t.user_attrs.keys()}
        self._next_number = max(self._records, default=-1) + 1
        self._disk_ids: dict[int, int] = {}  # by Optuna's number
        self._exported: dict[Path, Any] = {}  # the content of each exported file
        self._memory = InMemoryStorage()
        self.optuna = optuna.create_study(storage=self._memory, study_name=spec.name, directions=directions)
        self._memory_id = self._memory.get_study_id_from_name(spec.name)
        self.optuna.add_trials(map(_for_samplers, stored))  # Optuna's numbers are the same as on disk
        self._sampler_attributes = dict(storage.get_study_system_attrs(self._study_id))
        for key, value in self._sampler_attributes.items():
            self._memory.set_study_system_attr(self._memory_id, key, value)
        self._close_ended_trials()

    def _close_ended_trials(self) -> None:
        for record in self.records():
            if record.status is Status.RUNNING and record.over:
                self.finish(record.number)

    def begin(self, optuna_number: int) -> TrialRecord:
        """Store a suggestion of Optuna's as the sweep's next trial: it is going to be trained."""
        self._memory.set_trial_user_attr(self._memory_trial(optuna_number), NUMBER, self._next_number)
        record = read_record(self._store(optuna_number), {})
        self._records[record.number] = record
        self._optuna_numbers[record.number] = optuna_number
        self._next_number += 1
        return record

    def discard(self, optuna_number: int) -> None:
        """Store a suggestion of Optuna's as a duplicate that is never trained. It is not a trial of the sweep."""
        trial = self._memory_trial(optuna_number)
        self._memory.set_trial_user_attr(trial, DISCARDED, True)
        self._memory.set_trial_state_values(trial, TrialState.FAIL)
        self._store(optuna_number)

    def begin_repeat(self, of: TrialRecord, seed: int) -> TrialRecord:
        """Begin a trial with the parameters of an ended one, and another seed."""
        trial = create_trial(
            state=TrialState.RUNNING,
            params=of.params,
            distributions=self._memory.get_trial(self._in_memory(of.number)).distributions,
            user_attrs={"repeat_of": of.number, "seed": seed},
        )
        return self.begin(self._add_to_memory(trial))

    @property
    def has_warm_starts(self) -> bool:
        """Whether `add_warm_starts` has completed, in this or an earlier session."""
        return WARM_START_MARK in self._disk.get_study_user_attrs(self._study_id)

    def add_warm_starts(self, trials: Iterable[FrozenTrial]) -> None:
        """Add trials of other sweeps for the sampler; they are not in `records`.

        Each has a user attribute `WARM_START_MARK` whose value is unique, so a call after a session that died here
        adds only the missing ones.
        """
        known = {trial.user_attrs.get(WARM_START_MARK) for trial in self.optuna.get_trials(deepcopy=False)}
        for trial in trials:
            if trial.user_attrs[WARM_START_MARK] not in known:
                self._store(self._add_to_memory(trial))
        self._disk.set_study_user_attr(self._study_id, WARM_START_MARK, True)

    def report(
        self, number: int, epoch: int, metrics: Mapping[str, float], *, last: bool, trained_by: TrainedBy | None = None
    ) -> bool:
        """Record an epoch, and whether it was the trial's last. An epoch that is recorded already stays as it is.

        Returns whether the epoch was new.
        """
        trained_by, record = trained_by or TrainedBy(), self.record(number)
        if epoch <= len(record.history):
            return False
        if len(self.spec.objectives) == 1:  # Optuna compares pruned trials by one objective, and TPE fails with several
            value = metrics[self.spec.objective.metric]
            self._disk.set_trial_intermediate_value(self._on_disk(number), epoch, value)
            self._memory.set_trial_intermediate_value(self._in_memory(number), epoch, value)
        row = {"last": last, "ran": list(dataclasses.astuple(trained_by)), **metrics}
        self._disk.set_trial_user_attr(self._on_disk(number), f"epoch_{epoch}", row)
        history, by = [*record.history, dict(metrics)], [*record.trained_by, trained_by]
        self._change(number, history=history, trained_by=by, finished=last)
        return True

    def note(self, number: int, **values: Any) -> None:
        """Attach `error`, `collapse`, or `stop` and `stop_epoch` to a trial that is not closed yet."""
        values = {name: secrets.mask(value) if isinstance(value, str) else value for name, value in values.items()}
        for name, value in values.items():
            self._disk.set_trial_user_attr(self._on_disk(number), name, value)
        self._change(number, **values)

    def begin_session(self, about: Mapping[str, Any]) -> None:
        """Record that a session of the sweep begins, with its command, its machine and its package versions."""
        self._disk.set_study_user_attr(self._study_id, f"{_SESSION}{len(self.sessions)}", dict(about))

    def record_planning_score(self, number: int, planning_score: PlanningScore) -> None:
        """Record how well planning with an ended trial's model works."""
        self._disk.set_study_user_attr(self._study_id, planning_key(number), dataclasses.asdict(planning_score))
        self._change(number, planning_score=planning_score)

    def finish(self, number: int, *, failed: bool = False) -> TrialRecord:
        """Close a trial: FAILED, COMPLETE if it reached its own end, else PRUNED. A closed trial stays as it is.

        Optuna gets the objectives of a complete trial; of a pruned one it has the objective of every epoch.
        """
        record = self.record(number)
        if record.status is not Status.RUNNING:
            return record
        if missing := self._explain_missing_objective(record):
            self.note(number, error=missing)
            record = self.record(number)
        if failed or record.error or not record.history:
            status = Status.FAILED
        else:
            status = Status.COMPLETE if record.finished else Status.PRUNED
        values = self.best_values(record) if status is Status.COMPLETE else None
        self.optuna.tell(self._optuna_numbers[number], values, state=TO_OPTUNA[status])
        ended = self._memory.get_trial(self._in_memory(number))
        self._disk.set_trial_state_values(self._on_disk(number), ended.state, ended.values)
        self._change(number, status=status)
        return self.record(number)

    def _explain_missing_objective(self, record: TrialRecord) -> str | None:
        """Why a trial that reached its end cannot be compared; the stopping rule looks at the first objective only."""
        values = self.best_values(record) if record.finished and not record.error else []
        pairs = zip(self.spec.objectives, values, strict=False)
        missing = next((o.metric for o, value in pairs if not math.isfinite(value)), None)
        return f"the objective {missing} has no finite value in the best epoch" if missing else None

    def export(self, database: Path) -> None:
        """Copy the study to a SQLite file, which the report, warm starts and Optuna's own tools can open.

        Copying takes about 30 ms per trial, so a study without changes since its last copy is not copied again.
        """
        content = dict(self._records), dict(self._disk.get_study_user_attrs(self._study_id))
        if database.exists() and self._exported.get(database) == content:
            return
        partial = database.with_name(f"{database.name}{PARTIAL}")
        partial.unlink(missing_ok=True)
        target = optuna.storages.RDBStorage(f"sqlite:///{partial}")
        optuna.copy_study(from_study_name=self.spec.name, from_storage=self._disk, to_storage=target)
        target.engine.dispose()
        partial.replace(database)
        self._exported[database] = content

    # ------------------------------------------------------------------------------- the two copies

    def _add_to_memory(self, trial: FrozenTrial) -> int:
        """Optuna's number of the new trial."""
        return self._memory.get_trial_number_from_id(self._memory.create_new_trial(self._memory_id, trial))

    def _store(self, optuna_number: int) -> FrozenTrial:
        """Write a new trial of the memory to the disk, together with the sampler's own attributes of the study."""
        trial = self._memory.get_trial(self._memory_trial(optuna_number))
        disk_id = self._disk_ids[optuna_number] = self._disk.create_new_trial(self._study_id, trial)
        stored_as = self._disk.get_trial_number_from_id(disk_id)
        assert stored_as == optuna_number, ("another process adds trials", stored_as, optuna_number)
        attributes = self._memory.get_study_system_attrs(self._memory_id)
        for key in (key for key, value in attributes.items() if self._sampler_attributes.get(key) != value):
            self._disk.set_study_system_attr(self._study_id, key, attributes[key])
        self._sampler_attributes = dict(attributes)
        return trial

    def _change(self, number: int, **values: Any) -> None:
        """Change fields of a trial's record, after the change is on disk."""
        self._records[number] = dataclasses.replace(self._records[number], **values)

    def _on_disk(self, number: int) -> int:
        """The trial's id in the storage."""
        optuna_number = self._optuna_numbers[number]
        if optuna_number not in self._disk_ids:
            trial_id = self._disk.get_trial_id_from_study_id_trial_number(self._study_id, optuna_number)
            self._disk_ids[optuna_number] = trial_id
        return self._disk_ids[optuna_number]

    def _in_memory(self, number: int) -> int:
        """The trial's id in the samplers' copy."""
        return self._memory_trial(self._optuna_numbers[number])

    def _memory_trial(self, optuna_number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._memory_id, optuna_number)


def _for_samplers(trial: FrozenTrial) -> FrozenTrial:
    """Without the epochs' metrics: no sampler reads them, and Optuna copies every trial deeply."""
    light = copy.copy(trial)
    light.user_attrs = {key: value for key, value in trial.user_attrs.items() if not key.startswith("epoch_")}
    return light
