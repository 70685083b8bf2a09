"""Warm-start trials: what earlier sweeps recorded, for the sampler to learn from. Databases are read from a copy."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.search import space
from jepa_ray.sweep.storage.study import WARM_START_MARK, Study


@dataclass(frozen=True)
class WarmStart:
    """What one earlier sweep has to teach."""

    folder: Path
    trials: list[FrozenTrial]  # in this sweep's distributions
    found: int  # finished trials, those included that do not fit

    def __str__(self) -> str:
        return f"warm start from {self.folder}: {len(self.trials)} of its {self.found} trials fit this space"


def apply_warm_starts(study: Study, own: Path) -> list[WarmStart]:
    """Add the trials of `search.warm_start` to a study, once in its life, and return what was added.

    They are Optuna's trials, but none of the sweep's: `Study.records` leaves them out. Raises `ConfigError`.
    """
    if study.has_warm_starts:
        return []
    warm_starts = read_warm_starts(study.spec, own)
    study.add_warm_starts(trial for warm_start in warm_starts for trial in warm_start.trials)
    return warm_starts


def read_warm_starts(spec: SweepConfig, own: Path) -> list[WarmStart]:
    """The trials of all `search.warm_start` folders that lie in this spec's space. Raises `ConfigError`.

    `own` is the folder of the sweep itself, which cannot teach it: `--fresh` moves it aside.
    """
    return [_read(folder, spec, own) for folder in spec.search.warm_start]


def _read(folder: Path, spec: SweepConfig, own: Path) -> WarmStart:
    at = f"search.warm_start: {folder}"
    database = folder / "optuna.db"
    if folder.resolve() == own.resolve():
        raise ConfigError(f"{at} is this sweep's own folder: give the new sweep another name")
    if not database.exists():
        raise ConfigError(f"{at} is no folder of a sweep: it has no optuna.db")
    other = load_sweep_config(folder / "spec.yaml")
    if other.objectives != spec.objectives:
        raise ConfigError(f"{at} optimised {_said(other)}, but this sweep: {_said(spec)}")
    finished = _finished(database, other.name)
    fitting = [fitted for trial in finished if (fitted := _fitted(trial, spec, folder))]
    if not fitting:
        raise ConfigError(f"{at} has {len(finished)} finished trials, but none in the space of this sweep")
    return WarmStart(folder, fitting, len(finished))


def _said(spec: SweepConfig) -> str:
    return ", ".join(map(str, spec.objectives))


def _finished(database: Path, name: str) -> list[FrozenTrial]:
    """The trials that the other sweep trained itself, failed ones left out."""
    with copied(database) as copy:
        storage = optuna.storages.RDBStorage(f"sqlite:///{copy}")
        try:
            trials = optuna.load_study(study_name=name, storage=storage).get_trials(
                states=(TrialState.COMPLETE, TrialState.PRUNED)
            )
        except KeyError:
            raise ConfigError(f"{database}: has no study {name}, as its spec.yaml says") from None
        finally:
            storage.engine.dispose()
    return [trial for trial in trials if WARM_START_MARK not in trial.user_attrs]


@contextlib.contextmanager
def copied(database: Path) -> Iterator[Path]:
    """A copy, for Optuna may upgrade it. SQLite's own backup is whole even while another process writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optuna.db"
        if not database.is_file():  # a pipe would never be open
            raise ConfigError(f"{database}: cannot be read (it is no file)")
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as source,
                contextlib.closing(sqlite3.connect(path)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise ConfigError(f"{database}: cannot be read ({error})") from None
        yield path


def _fitted(trial: FrozenTrial, spec: SweepConfig, folder: Path) -> FrozenTrial | None:
    """The trial as a point of this space, marked; None if it is none. What else the other sweep varied is left out."""
    point = space.project(spec.space, space.decode(spec.space, trial.params))
    if point is None:
        return None
    distributions = space.distributions(spec.space)
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=point,
        distributions={key: distributions[key] for key in point},
        intermediate_values=trial.intermediate_values,
        user_attrs={WARM_START_MARK: f"{folder} {trial.number}"},
    )
