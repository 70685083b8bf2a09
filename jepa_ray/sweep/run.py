"""One session of a sweep: check the spec, search, and continue where an earlier session ended.

spec -> Study (Optuna) -> TuneSearcher -> Ray Tune -> SweepTrial -> WorkerGroup -> Recorder -> Study, MLflow, view

What a session writes at its end is in `conclusion`.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from optuna.exceptions import StorageInternalError
from ray import tune
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from jepa_ray.cli import StartupStatus, sigterm_as_interrupt
from jepa_ray.config import Budget, SweepConfig, check_name, dump_yaml, load_sweep_config
from jepa_ray.errors import JepaRayError, StorageError, first_line
from jepa_ray.files import remove_partial_files
from jepa_ray.formatting import format_count
from jepa_ray.machine import Machine
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.capacity import GROUP_DRIVER_BYTES, Capacity, avoid_idle_head, list_nodes
from jepa_ray.sweep.conclusion import Conclusion
from jepa_ray.sweep.concurrency import choose_concurrency
from jepa_ray.sweep.output import descriptions, reporting, results
from jepa_ray.sweep.output.gauges import SweepGauges
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.progress import LiveOutput, ProgressRelay
from jepa_ray.sweep.recorder import Listener, Recorder
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.search.scheduler import TuneScheduler
from jepa_ray.sweep.search.searcher import TuneSearcher
from jepa_ray.sweep.search.stopping import make_stopping_rule
from jepa_ray.sweep.search.warm_start import apply_warm_starts, read_warm_starts
from jepa_ray.sweep.storage.location import SweepLocation, locate_sweep
from jepa_ray.sweep.storage.records import Status
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.trial import Placement, SweepTrial, make_trainable
from jepa_ray.tracking import Run, Tracker
from jepa_ray.train.cluster import RaySession, ray_session
from jepa_ray.train.run import check_trainable

GROWING = ("search.num_trials",)  # keys whose value may be raised in a sweep that has begun or is finished


def run_sweep(
    spec: SweepConfig,
    output: Path,
    console: Console,
    *,
    fresh: bool = False,
    address: str | None = None,
    packed: Path | None = None,
    trial_class: type[SweepTrial] = SweepTrial,
    location: SweepLocation | None = None,
    startup: StartupStatus | None = None,
) -> pd.DataFrame:
    """Run, resume or show the sweep, and return its leaderboard.

    Args:
        spec: the sweep.
        output: the output root, if the spec names no storage.
        console: where results are printed.
        fresh: start over; the files of the old sweep are moved aside.
        address: of a Ray cluster; None starts Ray on this machine.
        packed: data that came with a Ray job. It is stored with the sweep's state, where every node finds it.
        trial_class: trains the trials; tests and benchmarks have classes of their own.
        location: of the sweep's files, if the caller knows it already.
        startup: shows what is being started; closed when the first worker group trains.

    Raises:
        ConfigError, DataError: bad input; no trial was trained.
        Interrupted: by Ctrl-C or SIGTERM; the same call continues.
        StorageError: results could not be written; the same call continues.
        TrialError: no trial succeeded, or the first worker group could not be started.
        JepaRayError: Ray could not be started.
    """
    location = location or locate_sweep(spec.name, spec.storage, output)
    machine = None if address else Machine.local()
    say = partial(console.print, soft_wrap=True)
    with startup or StartupStatus(console) as status:
        _check_spec(spec, machine)
        if fresh or not location.has_study:
            read_warm_starts(spec, location.folder.path)  # once the sweep's folder exists, it is too late to refuse
        status.show("preparing the dataset")
        here = spec.with_data(str(packed.resolve())) if packed else spec
        metrics = [objective.metric for objective in spec.objectives]
        check_trainable(here.trial_config({}), console, metrics, "objective")
        if packed:
            spec = spec.with_data(location.data_location(packed))
        with location.claim(dump_yaml(spec.to_dict()), fresh=fresh, growing=GROWING, say=say) as aside:
            if aside:
                say(f"the old sweep is kept in {aside}")
            if packed:
                location.keep_data(packed)
            if not location.folder.finished:
                return _Session(spec, location, console, status, trial_class).run(machine, address)
            status.close()
            console.print(f"sweep {spec.name} is finished (--fresh starts over)")
            return results.show_results(spec, location.folder, console, str(location))


def resume_sweep(
    name: str,
    output: Path,
    console: Console,
    *,
    storage: str | None = None,
    address: str | None = None,
    startup: StartupStatus | None = None,
) -> pd.DataFrame:
    """Continue the sweep `name` from its stored state, on whichever machine it ran before; or show a finished one.

    Raises what `run_sweep` raises, and `ConfigError` if there is no such sweep.
    """
    location = locate_sweep(check_name(name), storage, output)
    spec = load_sweep_config(location.spec_file())
    return run_sweep(spec, output, console, address=address, location=location, startup=startup)


def _check_spec(spec: SweepConfig, machine: Machine | None) -> None:
    """Refuse a search that cannot work, and resources that this machine does not have. Raises `ConfigError`."""
    plan_budget(spec)
    if machine:
        choose_concurrency(spec.resources, [machine])


@dataclass(frozen=True)
class _Concurrency:
    """How many worker groups run at once, and where."""

    groups: int  # that fit when the session begins
    limit: Callable[[], int]  # returns how many trials may run at the time of the call
    excused: Callable[[], bool]  # returns whether a failure at the time of the call does not count
    placement: Placement

    @classmethod
    def on_machine(cls, spec: SweepConfig, machine: Machine) -> _Concurrency:
        """A fixed number. Raises `ConfigError` if not even one group fits, or fewer than the spec demands."""
        groups = choose_concurrency(spec.resources, [machine])
        return cls(groups, lambda: groups, lambda: False, Placement())

    @classmethod
    def on_cluster(cls, spec: SweepConfig, console: Console) -> _Concurrency:
        """As many as fit on the nodes of the connected cluster. Raises `ConfigError` if not even one group fits."""
        capacity = Capacity(spec.resources)
        groups = choose_concurrency(spec.resources, list(list_nodes().values()), growing=True)
        if busy := capacity.describe_shortage():
            console.print(f"{busy}; the sweep waits", soft_wrap=True)
        placement = Placement(avoid_idle_head(), GROUP_DRIVER_BYTES, wait_for_nodes=True)
        return cls(groups, capacity, capacity.lost_a_node, placement)


class _Session:
    """One session of a sweep, which ends when all trials are done, or with an interruption."""

    def __init__(
        self,
        spec: SweepConfig,
        location: SweepLocation,
        console: Console,
        startup: StartupStatus,
        trial_class: type[SweepTrial],
    ) -> None:
        self.spec, self.location, self.folder = spec, location, location.folder
        self.console, self.startup, self.trial_class = console, startup, trial_class
        self.started = time.monotonic()

    def run(self, machine: Machine | None, address: str | None) -> pd.DataFrame:
        """Start Ray on `machine`, or connect to `address`; search, and return the leaderboard."""
        size = machine or Machine(0, 0)
        tracking = self.spec.tracking, self.location.tracking, self.spec.name
        self.startup.show("starting Ray and the tracking store")
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(Tracker, *tracking)  # takes as long as the start of Ray
            with ray_session(address, size.cpus, size.gpus, self.folder.path / "ray.log") as session:
                on_cluster = partial(_Concurrency.on_cluster, self.spec, self.console)
                concurrency = _Concurrency.on_machine(self.spec, machine) if machine else on_cluster()
                return self._search(session, concurrency, opening.result())

    def _search(self, session: RaySession, concurrency: _Concurrency, tracker: Tracker) -> pd.DataFrame:
        study = self.location.open_study(self.spec)
        budget = plan_budget(self.spec)
        self._greet(session, tracker, budget, concurrency.groups)
        for warm_start in apply_warm_starts(study, self.folder.path):
            self.console.print(str(warm_start), highlight=False, soft_wrap=True)
        parent = self._open_parent_run(tracker, budget)
        reporting.record_session(study)
        searcher = TuneSearcher(study, concurrency.limit)
        recorder = self._train(study, searcher, tracker, parent, budget, concurrency)
        conclusion = Conclusion(study, tracker, self.location, parent, self.console, self.started)
        if not searcher.exhausted or any(record.status is Status.RUNNING for record in study.records()):
            conclusion.interrupt(recorder)
        return conclusion.finish(recorder)

    def _greet(self, session: RaySession, tracker: Tracker, budget: Budget, groups: int) -> None:
        say = partial(self.console.print, soft_wrap=True)
        trials, epochs = format_count(budget.trials, "trial"), format_count(budget.max_epochs, "epoch")
        text = f"{trials} of at most {epochs} on {format_count(groups, 'worker group')}"
        say(f"sweep {self.spec.name}: {text}, results in {self.location}")
        if session.dashboard:
            token = f"  (its token is in {session.token})" if session.token else ""
            say(f"Ray dashboard  {session.dashboard}{token}")
        say(f"MLflow         {self.location.tracking_hint(tracker.uri)}")

    def _open_parent_run(self, tracker: Tracker, budget: Budget) -> Run:
        """The sweep's own MLflow run, with the spec, the description and the dataset."""
        spec = self.spec
        space = {f"space.{key}": value for key, value in spec.to_dict()["space"].items()}
        parent = tracker.open_run(self.folder.id, spec.name, space, tags={"kind": "sweep"})
        tracker.attach(parent, [self.folder.path / "spec.yaml"])
        tracker.describe(parent, descriptions.describe_started_sweep(spec, budget.trials))
        tracker.log_dataset(parent, descriptions.make_dataset_card(spec.base.data))
        tracker.watch_machine(parent)
        return parent

    def _train(
        self,
        study: Study,
        searcher: TuneSearcher,
        tracker: Tracker,
        parent: Run,
        budget: Budget,
        concurrency: _Concurrency,
    ) -> Recorder:
        """Train what the searcher suggests, until nothing is left or an interruption; returns the recorder."""
        earlier = study.records()
        ended = [record for record in earlier if record.status is not Status.RUNNING]
        scheduler = TuneScheduler(make_stopping_rule(self.spec), study)
        retention = CheckpointRetention(study, self.location.store)
        live = LiveOutput(self.startup, SweepView(self.spec, budget, self.console, earlier))
        listeners: list[Listener] = [live, SweepGauges(self.spec, ended)]
        recorder = Recorder(
            study, tracker, self.folder.id, parent, retention, listeners, scheduler, concurrency.excused
        )
        if earlier:
            self.startup.show("updating MLflow")
            recorder.catch_up()
        if not searcher.exhausted:
            with live, ProgressRelay(live) as relay:
                self._run_tune(searcher, scheduler, [recorder, relay], concurrency.placement)
        self.startup.close()
        return recorder

    def _run_tune(
        self, searcher: TuneSearcher, scheduler: TuneScheduler, callbacks: list[tune.Callback], placement: Placement
    ) -> None:
        """Run Ray Tune, which starts from nothing in every session: the searcher knows what is left to train."""
        shutil.rmtree(self.folder.path / "tune", ignore_errors=True)
        remove_partial_files(self.folder.path)
        location = self.location
        with sigterm_as_interrupt(), _plain_errors():
            tune.run(
                make_trainable(self.spec, location.store, location.groups, placement, self.trial_class),
                name="tune",
                storage_path=str(self.folder.path),
                config={},
                num_samples=-1,
                search_alg=searcher,
                scheduler=scheduler,
                reuse_actors=True,
                max_failures=self.spec.resources.max_failures,
                callbacks=callbacks,
                raise_on_failed_trial=False,
                verbose=0,
                trial_dirname_creator=lambda trial: trial_name(trial.config["number"]),
            )


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the original error instead of Ray Tune's wrapper; an error of a disk or database becomes `StorageError`."""
    try:
        yield
    except Exception as error:
        for origin in _chain(error):
            if isinstance(origin, JepaRayError):
                raise origin from None
            if isinstance(origin, (OSError, SQLAlchemyError, sqlite3.Error, StorageInternalError)):
                why = first_line(origin)
                raise StorageError(f"results cannot be written ({why}); the same command continues") from None
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, outermost first."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
