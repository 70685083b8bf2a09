"""The end of a session: result files, the report, MLflow, the Model Registry."""

from __future__ import annotations

import contextlib
import shutil
import time
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

import pandas as pd
from rich.console import Console

from jepa_ray.cli import sigterm_as_interrupt
from jepa_ray.errors import Interrupted, StorageError, TrialError
from jepa_ray.report.report_data import SweepState
from jepa_ray.sweep import checkpoint_name
from jepa_ray.sweep.final_planning import plan_with_best
from jepa_ray.sweep.output import descriptions, leaderboard, reporting, results
from jepa_ray.sweep.ranking import find_best, rank_trials
from jepa_ray.sweep.recorder import Recorder
from jepa_ray.sweep.storage.location import SweepLocation
from jepa_ray.sweep.storage.records import TrialRecord
from jepa_ray.sweep.storage.study import Study
from jepa_ray.tracking import Run, Tracker

FLUSH_TIMEOUT_S = 10.0  # for the tracking server, when a session is interrupted


class Conclusion:
    """Writes the results of a session that trains no more: it was interrupted, or all trials have ended.

    Args:
        study: the results are read from it.
        tracker: writes them to MLflow.
        location: of the sweep's files.
        parent: the sweep's own MLflow run.
        console: where the results are printed.
        started: when the session began, by `time.monotonic`.
    """

    def __init__(
        self, study: Study, tracker: Tracker, location: SweepLocation, parent: Run, console: Console, started: float
    ) -> None:
        self._study, self._tracker, self._location = study, tracker, location
        self._parent, self._console, self._started = parent, console, started
        self._spec, self._folder = study.spec, location.folder.path
        self._written: list[Path] = []  # the result files, which become artifacts of the parent run

    def interrupt(self, recorder: Recorder) -> NoReturn:
        """Write the results so far, and raise `Interrupted`.

        If the tracking server does not answer, what it lacks is left to the next session.
        """
        runs: dict[int, str] = {}
        with contextlib.suppress(StorageError):
            runs = recorder.run_ids(FLUSH_TIMEOUT_S)
        done = self._write_results(rank_trials(self._study), runs, SweepState.INTERRUPTED)
        raise Interrupted(f"interrupted with {done} trials done; the same command continues")

    def finish(self, recorder: Recorder) -> pd.DataFrame:
        """Plan with the best trials, write everything and return the leaderboard.

        Raises `TrialError` if all trials failed, and `Interrupted`.
        """
        runs = recorder.run_ids()
        self._plan_with_best(runs)
        ranking = rank_trials(self._study)
        self._write_results(ranking, runs, SweepState.FINISHED)
        self._update_mlflow(ranking, runs)
        if find_best(ranking) is None:
            if not ranking:
                raise TrialError("no trial was started")
            raise TrialError(f"every trial failed; the error of the first one: {ranking[0].error}")
        for leftover in ("groups", "tune"):
            shutil.rmtree(self._folder / leftover, ignore_errors=True)
        self._location.publish(self._study)  # again, with MLflow's database as it is now
        self._location.mark_finished(time.monotonic() - self._started)
        return results.show_results(self._spec, self._location.folder, self._console, str(self._location))

    def _plan_with_best(self, runs: dict[int, str]) -> None:
        if self._spec.evaluation.plan_top_k == 0:
            return
        with sigterm_as_interrupt():
            try:
                plan_with_best(self._study, self._location.store, runs, self._tracker, self._console)
            except KeyboardInterrupt:
                message = "interrupted while planning with the best trials; the same command continues"
                raise Interrupted(message) from None

    # ---------------------------------------------------------------------------------------- files

    def _write_results(self, ranking: list[TrialRecord], runs: dict[int, str], state: SweepState) -> int:
        """Write the leaderboard, the best model and the report; returns the number of trials in the ranking."""
        self._written = [self._folder / "spec.yaml", leaderboard.write_leaderboard(self._study, runs, self._folder)]
        if best := find_best(ranking):
            checkpoint = self._location.store.read(checkpoint_name(best.number))
            assert checkpoint is not None, ("the retention keeps the best checkpoint", best.number)
            self._written += results.write_best(self._study, best, checkpoint, self._folder)
        self._written += self._write_report(state)
        self._location.publish(self._study)
        return len(ranking)

    def _write_report(self, state: SweepState) -> list[Path]:
        """Write `report.html`. All results are on disk already, so an error here must not keep a sweep from ending."""
        try:
            with self._console.status("writing the report"):
                return [reporting.write_report(self._study, self._folder, state)]
        except Exception as error:
            again = f"python -m jepa_ray.report {self._folder}"
            self._console.print(f"report.html was not written ({error!r}); {again} tries again", soft_wrap=True)
            return []

    # --------------------------------------------------------------------------------------- MLflow

    def _update_mlflow(self, ranking: list[TrialRecord], runs: dict[int, str]) -> None:
        """Write ranks, files, the description and the best model, and wait until all of it has arrived."""
        tracker = self._tracker
        digits = len(str(len(ranking)))  # tags sort as text
        for rank, record in enumerate(ranking, start=1):
            if run := runs.get(record.number):
                tracker.tag(run, {"rank": f"{rank:0{digits}}"})
        tracker.attach(self._parent, self._written)
        tracker.describe(self._parent, descriptions.describe_finished_sweep(self._study, ranking))
        registered = self._register_best(ranking, runs)
        tracker.stop_watching()
        tracker.close_run(self._parent, failed=find_best(ranking) is None)
        with self._console.status("writing to MLflow"):
            tracker.flush()
        if registered:
            self._console.print(registered.result(), highlight=False, soft_wrap=True)

    def _register_best(self, ranking: list[TrialRecord], runs: dict[int, str]) -> Future[str] | None:
        """Register the best model, if the spec says so and there is one; the result is a line to be printed."""
        best = find_best(ranking)
        has_model = any(path.suffix == ".pt" for path in self._written)
        if best is None or not has_model or not self._spec.registered_model or best.number not in runs:
            return None
        sweep_id = self._location.folder.id
        card = descriptions.make_model_card(self._study, best, self._folder, sweep_id, runs[best.number])
        return self._tracker.register(self._parent, card)
