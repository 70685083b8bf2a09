"""A sweep from spec to results: check, search, resume, and what is left at the end.

spec -> Study (Optuna) -> TuneSearcher -> Ray Tune -> SweepTrial -> WorkerGroup -> Recorder -> Study, MLflow, view
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.exceptions import StorageInternalError
from ray import tune
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from jepa_ray.config import SweepConfig, check_name, dump_yaml, load_sweep_config
from jepa_ray.errors import Interrupted, JepaRayError, StorageError, TrialError
from jepa_ray.files import remove_partial_files
from jepa_ray.machine import Machine
from jepa_ray.report.report_data import SweepState
from jepa_ray.sweep import checkpoint_name, trial_name
from jepa_ray.sweep.capacity import DRIVES_A_GROUP, Capacity, away_from_head, nodes
from jepa_ray.sweep.final_planning import plan_with_best
from jepa_ray.sweep.output import descriptions, reporting, results
from jepa_ray.sweep.output.gauges import SweepGauges
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.recorder import Listener, Recorder
from jepa_ray.sweep.search.budget import Plan, plan
from jepa_ray.sweep.search.scheduler import TuneScheduler
from jepa_ray.sweep.search.searcher import TuneSearcher
from jepa_ray.sweep.search.stopping import make_stopping_rule
from jepa_ray.sweep.search.warm_start import apply_warm_starts, read_warm_starts
from jepa_ray.sweep.storage.location import SweepLocation, locate_sweep
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Status, Study, TrialRecord
from jepa_ray.sweep.trial import SweepTrial, trainable
from jepa_ray.tracking import Run, Tracker
from jepa_ray.train.cluster import RaySession, ray_session
from jepa_ray.train.run import check_trainable

FLUSH_TIMEOUT_S = 10.0  # for a tracking server, when a session is told to end
GROWING = ("search.num_trials",)  # what may be raised in a sweep that has begun, or is finished


def run_sweep(
    spec: SweepConfig,
    output: Path,
    console: Console,
    *,
    fresh: bool = False,
    address: str | None = None,
    packed: Path | None = None,
    trial_class: type[SweepTrial] | None = None,
    location: SweepLocation | None = None,
) -> pd.DataFrame:
    """Run, resume or show the sweep, and return its leaderboard.

    `packed` is data that came with a Ray job: it is kept beside the sweep's state, where every node finds it.
    `trial_class` replaces what executes a trial (tests, benchmarks). `home` is where the sweep lives, if that is known
    already. Raises `ConfigError` or `DataError` before anything is written, `Interrupted`, and `TrialError` if no trial
    succeeded.
    """
    location = location or locate_sweep(spec.name, spec.storage, output)
    machine = None if address else Machine.local()
    if machine:
        plan(spec, machine)  # what can never fit is refused before anything else happens
    if fresh or not location.has_study:
        read_warm_starts(spec, location.folder.path)  # later, when the folder is begun, it is too late to refuse them
    here = spec.with_data(str(packed.resolve())) if packed else spec
    check_trainable(here.trial_config({}), console, (objective.metric for objective in spec.objectives))
    if packed:
        spec = spec.with_data(location.data_location(packed))
    say = partial(console.print, soft_wrap=True)
    with location.claim(dump_yaml(spec.to_dict()), fresh=fresh, growing=GROWING, say=say) as aside:
        if aside:
            say(f"the old sweep is kept in {aside}")
        if packed:
            location.keep_data(packed)
        if not location.folder.finished:
            return _Sweep(spec, location, console, trial_class).run(machine, address)
        console.print(f"sweep {spec.name} is finished (--fresh starts over)")
        return results.show(spec, location.folder, console, str(location))


def resume_sweep(
    name: str, output: Path, console: Console, *, storage: str | None = None, address: str | None = None
) -> pd.DataFrame:
    """Continue the sweep `name` from the state it left, wherever its driver died; or show it, if it is finished.

    Raises what `run_sweep` raises, and `ConfigError` if no such sweep was begun there.
    """
    location = locate_sweep(check_name(name), storage, output)
    return run_sweep(load_sweep_config(location.spec_file()), output, console, address=address, location=location)


class _Sweep:
    """One session of a sweep: from here to its end, or to the next interruption."""

    def __init__(
        self, spec: SweepConfig, location: SweepLocation, console: Console, trial_class: type[SweepTrial] | None
    ) -> None:
        self.spec, self.location, self.folder, self.console = spec, location, location.folder, console
        self.trial_class = trial_class or trainable(spec, location.store, location.groups)
        self.started = time.monotonic()

    def run(self, machine: Machine | None, address: str | None) -> pd.DataFrame:
        spec, folder = self.spec, self.folder
        size = machine or Machine(0, 0)
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(
                Tracker, spec.tracking, self.location.tracking, spec.name
            )  # takes as long as Ray does
            with ray_session(address, size.cpus, size.gpus, folder.path / "ray.log") as session:
                return self._search(session, machine, opening.result())

    def _search(self, session: RaySession, machine: Machine | None, tracker: Tracker) -> pd.DataFrame:
        spec, folder = self.spec, self.folder
        if machine:
            plans = plan(spec, machine)
            limit, excused = (lambda: plans.groups), (lambda: False)
        else:
            capacity = Capacity(spec.resources)
            plans = plan(spec, *nodes().values(), growing=True)
            limit, excused = capacity, capacity.lost_a_node
            if busy := capacity.busy:
                self.console.print(f"{busy}; the sweep waits for it", soft_wrap=True)
            there = {"nodes": away_from_head(), "reserves": DRIVES_A_GROUP, "waits": True}
            self.trial_class = type(self.trial_class.__name__, (self.trial_class,), there)
        study = self.location.open_study(spec)
        self._greet(session, tracker, plans)
        for warm_start in apply_warm_starts(study, folder.path):
            self.console.print(str(warm_start), highlight=False, soft_wrap=True)
        space = {f"space.{key}": value for key, value in spec.to_dict()["space"].items()}
        parent = tracker.open_run(folder.id, spec.name, space, tags={"kind": "sweep"})
        tracker.attach(parent, [folder.path / "spec.yaml"])
        tracker.describe(parent, descriptions.beginning(spec, plans.trials))
        tracker.log_dataset(parent, descriptions.dataset_card(spec.base.data))
        tracker.watch_machine(parent)
        reporting.begin_session(study)
        known = study.records()
        done = [record for record in known if record.status is not Status.RUNNING]
        searcher = TuneSearcher(study, limit)
        with SweepView(spec, plans, self.console, done) as view:
            listeners: list[Listener] = [view, SweepGauges(spec, done)]
            retention = CheckpointRetention(study, self.location.store)
            recorder = Recorder(study, tracker, folder.id, parent, retention, listeners, excused)
            if known:
                recorder.catch_up()
            self._tune(study, searcher, recorder)
        if not searcher.exhausted or any(record.status is Status.RUNNING for record in study.records()):
            self._pause(study, recorder)
        return self._conclude(study, tracker, parent, recorder.run_ids())

    def _pause(self, study: Study, recorder: Recorder) -> None:
        """Leave what there is so far. A tracking server that is gone holds nobody up: the next session catches up."""
        runs: dict[int, str] = {}
        with contextlib.suppress(StorageError):
            runs = recorder.run_ids(FLUSH_TIMEOUT_S)
        done = self._write_results(study, runs, SweepState.INTERRUPTED)[0]
        raise Interrupted(f"interrupted with {len(done)} trials done; the same command continues")

    def _write_results(
        self, study: Study, runs: dict[int, str], state: SweepState
    ) -> tuple[list[TrialRecord], list[Path]]:
        """The ranking, and the files that show it."""
        ranking, folder = results.rank_trials(study), self.folder.path
        written = [folder / "spec.yaml", results.write_leaderboard(study, runs, folder)]
        best = next((r for r in ranking if r.status in results.RANKED), None)
        if best:
            checkpoint = self.location.store.read(checkpoint_name(best.number))
            assert checkpoint is not None, ("the retention keeps the best checkpoint", best.number)
            written += results.write_best(study, best, checkpoint, folder)
        written += self._write_report(study, state)
        self.location.publish(study)
        return ranking, written

    def _write_report(self, study: Study, state: SweepState) -> list[Path]:
        """`report.html`. Results are on disk by now: a page that cannot be drawn must not keep a sweep from ending."""
        try:
            with self.console.status("writing the report"):
                return [reporting.write_report(study, self.folder.path, state)]
        except Exception as error:
            again = f"python -m jepa_ray.report {self.folder.path}"
            self.console.print(f"report.html was not written ({error!r}); {again} tries again", soft_wrap=True)
            return []

    def _greet(self, session: RaySession, tracker: Tracker, plans: Plan) -> None:
        say = self.console.print
        budget = f"{plans.trials} trials of at most {plans.max_epochs} epochs on {plans.groups} warm groups"
        say(f"sweep {self.spec.name}: {budget}, results in {self.location}", soft_wrap=True)
        if session.dashboard:
            token = f"  (its token is in {session.token})" if session.token else ""
            say(f"Ray dashboard  {session.dashboard}{token}", soft_wrap=True)
        say(f"MLflow         {self.location.tracking_hint(tracker.uri)}", soft_wrap=True)

    def _tune(self, study: Study, searcher: TuneSearcher, recorder: Recorder) -> None:
        """Run Ray Tune until nothing is left to suggest, or to an interruption.

        Tune begins anew in every session: what was done, and what is to be continued, it learns from the study.
        """
        if searcher.exhausted:
            return
        shutil.rmtree(self.folder.path / "tune", ignore_errors=True)
        remove_partial_files(self.folder.path)
        with _sigterm_as_interrupt(), _plain_errors():
            tune.run(
                self.trial_class,
                name="tune",
                storage_path=str(self.folder.path),
                config={},
                num_samples=-1,
                search_alg=searcher,
                scheduler=TuneScheduler(make_stopping_rule(self.spec), study),
                reuse_actors=True,
                max_failures=self.spec.resources.max_failures,
                callbacks=[recorder],
                raise_on_failed_trial=False,
                verbose=0,
                trial_dirname_creator=lambda trial: trial_name(trial.config["number"]),
            )

    def _conclude(self, study: Study, tracker: Tracker, parent: Run, runs: dict[int, str]) -> pd.DataFrame:
        self._plan_with_best(study, runs, tracker)
        ranking, written = self._write_results(study, runs, SweepState.FINISHED)
        self._tell_mlflow(study, ranking, runs, tracker, parent, written)
        if not ranking or ranking[0].status not in results.RANKED:
            raise TrialError(f"every trial failed; the first one: {ranking[0].error if ranking else 'none ran'}")
        for leftover in ("groups", "tune"):
            shutil.rmtree(self.folder.path / leftover, ignore_errors=True)
        self.location.publish(study)  # with what MLflow was told since
        self.location.mark_finished(time.monotonic() - self.started)
        return results.show(self.spec, self.folder, self.console, str(self.location))

    def _plan_with_best(self, study: Study, runs: dict[int, str], tracker: Tracker) -> None:
        if self.spec.evaluation.plan_top_k:
            with _sigterm_as_interrupt():
                try:
                    plan_with_best(study, self.location.store, runs, tracker, self.console)
                except KeyboardInterrupt:
                    raise Interrupted("interrupted while planning with the best; the same command continues") from None

    def _tell_mlflow(
        self,
        study: Study,
        ranking: list[TrialRecord],
        runs: dict[int, str],
        tracker: Tracker,
        parent: Run,
        written: list[Path],
    ) -> None:
        digits = len(str(len(ranking)))  # tags sort as text
        for rank, record in enumerate(ranking, start=1):
            if run := runs.get(record.number):
                tracker.tag(run, {"rank": f"{rank:0{digits}}"})
        tracker.attach(parent, written)
        tracker.describe(parent, descriptions.ending(study, ranking))
        best = next((record for record in ranking if record.status in results.RANKED), None)
        registered = None
        model = any(path.suffix == ".pt" for path in written)
        if best and model and self.spec.registered_model and (run := runs.get(best.number)):
            card = descriptions.model_card(study, best, self.folder.path, self.folder.id, run)
            registered = tracker.register(parent, card)
        tracker.stop_watching()
        tracker.close_run(parent, failed=best is None)
        with self.console.status("writing to MLflow"):
            tracker.flush()
        if registered:
            self.console.print(registered.result(), highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Tune wraps what its listeners raise in a traceback; give back the error itself, or what it means for users."""
    try:
        yield
    except Exception as error:
        for origin in _chain(error):
            if isinstance(origin, JepaRayError):
                raise origin from None
            if isinstance(origin, (OSError, SQLAlchemyError, sqlite3.Error, StorageInternalError)):
                why = str(origin).strip().splitlines()[0]
                raise StorageError(f"results cannot be written ({why}); the same command continues") from None
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, outermost first."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does: results kept, state saved."""

    def interrupt(signum: int, frame: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
