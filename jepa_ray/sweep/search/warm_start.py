"""Warm-start trials: trials of earlier sweeps that the sampler learns from. Databases are read from a copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.search import space
from jepa_ray.sweep.storage.records import WARM_START_MARK
from jepa_ray.sweep.storage.snapshot import copied
from jepa_ray.sweep.storage.study import Study


@dataclass(frozen=True)
class WarmStart:
    """The trials of one earlier sweep."""

    folder: Path
    trials: list[FrozenTrial]  # those in this sweep's space, with its distributions
    finished: int  # all finished trials of the earlier sweep

    def __str__(self) -> str:
        return f"warm start from {self.folder}: {len(self.trials)} of its {self.finished} trials fit this space"


def apply_warm_starts(study: Study, own: Path) -> list[WarmStart]:
    """Add the trials of the `search.warm_start` folders to a study, only once per study, and return them.

    Only the sampler sees them: `Study.records` leaves them out. Raises `ConfigError` as `read_warm_starts` does.

    Args:
        study: the study of the new sweep.
        own: the folder of the new sweep.
    """
    if study.has_warm_starts:
        return []
    warm_starts = read_warm_starts(study.spec, own)
    study.add_warm_starts(trial for warm_start in warm_starts for trial in warm_start.trials)
    return warm_starts


def read_warm_starts(spec: SweepConfig, own: Path) -> list[WarmStart]:
    """The trials of all `search.warm_start` folders that are points of the spec's space.

    Args:
        spec: the spec of the new sweep.
        own: the folder of the new sweep, which cannot be one of its warm starts: `--fresh` renames it.

    Raises:
        ConfigError: a folder is not that of a sweep with the same objectives, or none of its trials fits.
    """
    return [_read(folder, spec, own) for folder in spec.search.warm_start]


def _read(folder: Path, spec: SweepConfig, own: Path) -> WarmStart:
    at = f"search.warm_start: {folder}"
    database = folder / "optuna.db"
    if folder.resolve() == own.resolve():
        raise ConfigError(f"{at} is this sweep's own folder: give the new sweep another name")
    if not database.exists():
        raise ConfigError(f"{at} is not the folder of a sweep: it has no optuna.db")
    other = load_sweep_config(folder / "spec.yaml")
    if other.objectives != spec.objectives:
        raise ConfigError(
            f"{at} optimized {_list_objectives(other)}, but this sweep optimizes {_list_objectives(spec)}:"
            " remove it from search.warm_start"
        )
    finished = _read_finished(database, other.name)
    fitting = [fitted for trial in finished if (fitted := _fit(trial, spec, folder))]
    if not fitting:
        raise ConfigError(
            f"{at} has {len(finished)} finished trials, but none in the space of this sweep:"
            " remove it from search.warm_start"
        )
    return WarmStart(folder, fitting, len(finished))


def _list_objectives(spec: SweepConfig) -> str:
    return ", ".join(map(str, spec.objectives))


def _read_finished(database: Path, name: str) -> list[FrozenTrial]:
    """The complete and pruned trials that the other sweep trained itself."""
    with copied(database) as copy:
        storage = optuna.storages.RDBStorage(f"sqlite:///{copy}")
        try:
            trials = optuna.load_study(study_name=name, storage=storage).get_trials(
                states=(TrialState.COMPLETE, TrialState.PRUNED)
            )
        except KeyError:
            raise ConfigError(f"{database}: has no study {name}, the name in spec.yaml beside it") from None
        finally:
            storage.engine.dispose()
    return [trial for trial in trials if WARM_START_MARK not in trial.user_attrs]


def _fit(trial: FrozenTrial, spec: SweepConfig, folder: Path) -> FrozenTrial | None:
    """The trial as a marked point of this sweep's space; None if it is not in the space.

    Keys that only the other sweep varies are left out.
    """
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
