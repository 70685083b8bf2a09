"""The stopping rule behind Ray Tune's scheduler interface.

The scheduler decides and writes nothing: the recorder, which Ray Tune calls right after it with the same result, takes
the decision from here and writes it to the study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from jepa_ray.sweep.search.stopping import StoppingRule
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import UPDATE, TrialUpdate, from_tune


@dataclass(frozen=True)
class Verdict:
    """Why a trial ends after an epoch that was not its last: either the rule stopped it, or it failed."""

    epoch: int
    stop: str | None = None  # the reason of the stopping rule
    error: str | None = None  # the result has no finite objective


class TuneScheduler(FIFOScheduler):
    """Starts trials in the order of the suggestions, and stops them when the rule says so.

    A result without a finite objective fails its trial. The rule's state is rebuilt from the study.
    """

    def __init__(self, rule: StoppingRule, study: Study) -> None:
        super().__init__()
        self._rule, self._metric = rule, study.spec.objective.metric
        self._verdicts: dict[int, Verdict] = {}  # by trial number, until the recorder takes them
        for record in (r for r in study.records() if r.repeat_of is None):
            for epoch, row in enumerate(record.history, start=1):
                rule.tell(record.number, epoch, row[self._metric])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP or CONTINUE. Ray Tune does not call this for a result that is already marked as the trial's last."""
        update = from_tune(result)
        assert isinstance(update, TrialUpdate), ("a failure is a trial's last result", update)
        verdict = self._judge(trial.config["number"], update, repeat=bool(trial.config.get("repeat")))
        if verdict is None:
            return self.CONTINUE
        self._verdicts[trial.config["number"]] = verdict
        return self.STOP

    def _judge(self, number: int, update: TrialUpdate, *, repeat: bool) -> Verdict | None:
        epoch, value = update.result.epoch, update.result.metrics.get(self._metric)
        if value is None or not math.isfinite(value):
            return Verdict(epoch, error=f"{self._metric} is {value} in the result of epoch {epoch}")
        if repeat:  # trained to its end, and not compared with trials that were stopped
            return None
        stop = self._rule.judge(number, epoch, value)
        return Verdict(epoch, stop=str(stop)) if stop else None

    def take_verdict(self, number: int) -> Verdict | None:
        """The decision to end a trial, which is returned only once; None if the trial continues."""
        return self._verdicts.pop(number, None)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass a trial's last result to the rule: it counts in the decisions about other trials."""
        update = result.get(UPDATE)
        if trial.config.get("repeat") or not isinstance(update, TrialUpdate):
            return
        value = update.result.metrics.get(self._metric)
        if value is not None and math.isfinite(value):
            self._rule.tell(trial.config["number"], update.result.epoch, value)
