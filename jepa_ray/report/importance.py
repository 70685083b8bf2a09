"""How much each hyperparameter matters: Optuna's PED-ANOVA and fANOVA over the trials of a sweep."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from jepa_ray.report.report_data import ReportData, Trial

MIN_TRIALS = 4  # trials, below which nothing can be told
FEW_TRIALS = 30  # below which the figures say so themselves
MAX_FOR_FANOVA, TREES = 300, 32  # its time grows with the square of the trials: seconds, or minutes for thousands
MAX_FOR_PED_ANOVA = 2000  # Optuna copies each of them
SEED = 0


@dataclass(frozen=True)
class Importance:
    """Shares of each dotted key, which sum to 1; or why there are none."""

    ped_anova: dict[str, float]
    fanova: dict[str, float]
    notes: list[str]

    def ordered(self, keys: Sequence[str]) -> list[str]:
        """The keys, the most important one first."""
        return sorted(keys, key=lambda key: -(self.fanova.get(key, 0.0) + self.ped_anova.get(key, 0.0)))


def importance(sweep: ReportData) -> Importance:
    """What the trials tell; each counts with the best objective that it reached."""
    trials = [trial for trial in sweep.own if trial.objective is not None and trial.status in ("COMPLETE", "PRUNED")]
    if reason := _too_little(sweep, trials):
        return Importance({}, {}, [reason])
    ped_anova = _evaluate(sweep, _sample(trials, MAX_FOR_PED_ANOVA), PedAnovaImportanceEvaluator())
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)
    fanova = _evaluate(sweep, _sample(trials, MAX_FOR_FANOVA), evaluator)
    return Importance(ped_anova, fanova, _notes(sweep, trials, fanova))


def _too_little(sweep: ReportData, trials: Sequence[Trial]) -> str | None:
    if len(trials) < MIN_TRIALS:
        return f"Importance needs at least {MIN_TRIALS} trials with a result; this sweep has {len(trials)}."
    if len({trial.objective for trial in trials}) == 1:
        return "All trials reached the same value, so no hyperparameter can be told to matter."
    if not any(len({str(trial.params.get(key)) for trial in trials}) > 1 for key in sweep.keys):
        return "No hyperparameter was varied yet."
    return None


def _sample(trials: list[Trial], most: int) -> list[Trial]:
    return trials if len(trials) <= most else random.Random(SEED).sample(trials, most)


def _evaluate(sweep: ReportData, trials: Sequence[Trial], evaluator: Any) -> dict[str, float]:
    direction = "maximize" if sweep.objective.mode == "max" else "minimize"
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of few trials, which the page says in its own words
        study = optuna.create_study(direction=direction)
        study.add_trials([_as_optuna(sweep, trial) for trial in trials])
        found = get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def _as_optuna(sweep: ReportData, trial: Trial) -> Any:
    return create_trial(
        state=TrialState.COMPLETE,
        value=trial.objective,
        params=dict(trial.params),
        distributions={key: sweep.space[key] for key in trial.params},
    )


class _quiet:  # noqa: N801 (a context manager, used as a word)
    """Optuna says of every study that it was created."""

    def __enter__(self) -> None:
        self._before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def __exit__(self, *_: object) -> None:
        optuna.logging.set_verbosity(self._before)


def _notes(sweep: ReportData, trials: Sequence[Trial], fanova: dict[str, float]) -> list[str]:
    notes = [f"From {len(trials):,} trials; each counts with the best {sweep.objective.metric} it reached."]
    if len(trials) < FEW_TRIALS:
        notes.append(f"These are few: below about {FEW_TRIALS} trials the shares can change much with the next ones.")
    for name, most in (("fANOVA", MAX_FOR_FANOVA), ("PED-ANOVA", MAX_FOR_PED_ANOVA)):
        if len(trials) > most:
            notes.append(f"{name} is fitted to {most:,} of them, drawn at random.")
    if stopped := sum(trial.status == "PRUNED" for trial in trials):
        notes.append(f"Stopped early, and might have reached more: {stopped:,} of them.")
    if missing := [key for key in sweep.keys if key not in fanova]:
        notes.append(f"fANOVA leaves out what not every trial has: {', '.join(missing)}.")
    return notes
