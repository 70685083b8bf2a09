"""The scheduler, as Ray Tune sees it: asks the stopping rule, and writes down why a trial was stopped."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from jepa_ray.sweep.search.stopping import StoppingRule
from jepa_ray.sweep.storage.study import Study


class TuneScheduler(FIFOScheduler):
    """First come, first served; stops what the rule says. A result without a finite objective fails its trial."""

    def __init__(self, rule: StoppingRule, study: Study) -> None:
        super().__init__()
        self._rule, self._study = rule, study
        metric = study.spec.objective.metric
        for record in (r for r in study.records() if r.repeat_of is None):
            for epoch, row in enumerate(record.history, start=1):
                rule.tell(record.number, epoch, row[metric])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP or CONTINUE; not called for a trial's own last result."""
        number, epoch, metric = trial.config["number"], result.get("epoch"), self._study.spec.objective.metric
        value = result.get(metric)
        if epoch is None or value is None or not math.isfinite(value):
            self._study.note(number, error=f"{metric} is {value} in the result of epoch {epoch}")
            return self.STOP
        if trial.config.get("repeat"):  # trained to its end, and no rival of those that were not
            return self.CONTINUE
        stop = self._rule.judge(number, epoch, value)
        if stop is None:
            return self.CONTINUE
        self._study.note(number, stop=str(stop), stop_epoch=epoch)
        return self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial's own last result counts for the others, too."""
        value = result.get(self._study.spec.objective.metric)
        if value is not None and math.isfinite(value) and not trial.config.get("repeat"):
            self._rule.tell(trial.config["number"], result["epoch"], value)
