"""How much each hyperparameter matters, by Optuna's implementations of two methods over the trials of a sweep.

fANOVA (Hutter et al. 2014) explains the variance of the objective over all trials. PED-ANOVA (Watanabe et al. 2023)
compares the best tenth of the trials with all trials.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from jepa_ray.report.report_data import ReportData, Trial

MIN_TRIALS = 4  # with fewer trials, importance is not computed
FEW_TRIALS = 30  # with fewer trials, the report says that the shares are uncertain
MAX_FOR_FANOVA, TREES = 300, 32  # trials; fANOVA's time grows with their square, to minutes for thousands
MAX_FOR_PED_ANOVA = 2000  # trials; Optuna copies each of them
SEED = 0


@dataclass(frozen=True)
class Importance:
    """The importance of each dotted key, as shares that sum to 1. Empty, with the reason in `notes`, if unknown."""

    ped_anova: dict[str, float]
    fanova: dict[str, float]  # without the keys that some trials do not have
    notes: list[str]  # sentences for the page

    def ordered(self, keys: Sequence[str]) -> list[str]:
        """The keys, most important first."""
        return sorted(keys, key=lambda key: -(self.fanova.get(key, 0.0) + self.ped_anova.get(key, 0.0)))


def compute_importance(sweep: ReportData) -> Importance:
    """Importance over the trials of a sweep; the value of a trial is the best objective that it reached."""
    trials = [trial for trial in sweep.own if trial.objective is not None and trial.status in ("COMPLETE", "PRUNED")]
    if reason := _why_unknown(sweep, trials):
        return Importance({}, {}, [reason])
    ped_anova = _evaluate(sweep, _sample(trials, MAX_FOR_PED_ANOVA), PedAnovaImportanceEvaluator())
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)
    fanova = _evaluate(sweep, _sample(trials, MAX_FOR_FANOVA), evaluator)
    return Importance(ped_anova, fanova, _notes(sweep, trials, fanova))


def _why_unknown(sweep: ReportData, trials: Sequence[Trial]) -> str | None:
    """The reason why importance cannot be computed; None if it can."""
    if len(trials) < MIN_TRIALS:
        return f"Importance needs at least {MIN_TRIALS} trials with a result; this sweep has {len(trials)}."
    if len({trial.objective for trial in trials}) == 1:
        return "All trials reached the same value, so the importance of the hyperparameters is unknown."
    if not any(len({str(trial.params.get(key)) for trial in trials}) > 1 for key in sweep.keys):
        return "All trials have the same configuration, so the importance of the hyperparameters is unknown."
    return None


def _sample(trials: list[Trial], max_trials: int) -> list[Trial]:
    return trials if len(trials) <= max_trials else random.Random(SEED).sample(trials, max_trials)


def _evaluate(sweep: ReportData, trials: Sequence[Trial], evaluator: Any) -> dict[str, float]:
    direction = "maximize" if sweep.objective.mode == "max" else "minimize"
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # about few trials, which a note on the page says as well
        study = optuna.create_study(direction=direction)
        study.add_trials([_as_optuna(sweep, trial) for trial in trials])
        shares = get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _as_optuna(sweep: ReportData, trial: Trial) -> Any:
    return create_trial(
        state=TrialState.COMPLETE,
        value=trial.objective,
        params=dict(trial.params),
        distributions={key: sweep.space[key] for key in trial.params},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Optuna's message that a study was created."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _notes(sweep: ReportData, trials: Sequence[Trial], fanova: dict[str, float]) -> list[str]:
    notes = [f"Computed from the best {sweep.objective.metric} of each of {len(trials):,} trials."]
    if len(trials) < FEW_TRIALS:
        notes.append(f"With fewer than about {FEW_TRIALS} trials, the shares can change much with further trials.")
    for name, max_trials in (("fANOVA", MAX_FOR_FANOVA), ("PED-ANOVA", MAX_FOR_PED_ANOVA)):
        if len(trials) > max_trials:
            notes.append(f"{name} uses a random sample of {max_trials:,} trials.")
    if stopped := sum(trial.status == "PRUNED" for trial in trials):
        notes.append(f"{stopped:,} of the trials were stopped early and might have reached a better value.")
    if missing := [key for key in sweep.keys if key not in fanova]:
        notes.append(f"fANOVA leaves out the keys that some trials do not have: {', '.join(missing)}.")
    return notes
