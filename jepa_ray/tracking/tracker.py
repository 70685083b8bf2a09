"""One MLflow experiment: runs and what is logged to them.

What comes for a run while the store is busy, or away, is gathered and written in one batch. A run is found again by
its `jepa_ray.key` tag, so a sweep that is resumed continues its runs and doubles none.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from jepa_ray import secrets
from jepa_ray.config import TrackingConfig
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.tracking import registry, retry
from jepa_ray.tracking.cards import DatasetCard, ModelCard
from jepa_ray.tracking.retry import is_away, with_retries
from jepa_ray.tracking.system_metrics import MachineMetrics
from jepa_ray.tracking.wandb_mirror import WandbMirror
from jepa_ray.tracking.writing import RunUpdate, Writer


@dataclass(frozen=True)
class KnownRun:
    """A run as the tracking store has it."""

    key: str
    id: str
    epochs: int  # logged so far
    closed: bool


Run = Future[str]  # the id of an MLflow run, known once the run is written
T = TypeVar("T")

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # `patience` is ours
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is told about users, unless they say so themselves
    "MLFLOW_UV_AUTO_DETECT": "false",  # the project in whose folder the user is has nothing to do with a model
}
SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own switch; here it is on unless it says false
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows runs and models, not chats
KEY_TAG = "jepa_ray.key"
NOTE_TAG = "mlflow.note.content"  # what MLflow's UI shows as a run's description
MAX_VALUE = 500  # characters of a parameter or tag that every MLflow backend takes,
MAX_NOTE = 5000  # and of a description
OPENING_S = 60.0  # that a server may take to come up


def default_uri(output: Path) -> str:
    """sqlite under the output root: what `mlflow ui --backend-store-uri` opens."""
    return f"sqlite:///{(output / 'mlflow.db').resolve()}"


class Tracker:
    """One MLflow experiment. Everything but its opening is written by a thread of its own, in order.

    A server that goes away is waited for (`patience`) while what comes is kept; nobody is held up by it. An error
    is raised by the next call, at the latest by `flush`. Raises `ConfigError` if the tracking store cannot be opened.
    """

    def __init__(self, config: TrackingConfig, output: Path, default_experiment: str) -> None:
        os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
        from mlflow import MlflowClient  # seconds of imports: only where something is tracked
        from mlflow.exceptions import MlflowException

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        named = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = secrets.resolve(named, "tracking.uri") if named else default_uri(output)
        self.uri = secrets.mask(config.uri or uri)  # to be shown
        name = config.experiment or default_experiment
        self._output = output
        self._mirror = WandbMirror(config.wandb, name, output) if config.wandb else None
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / ".mlflow.lock"):  # two that begin at once would both make the tables
                self._client = MlflowClient(tracking_uri=uri)
                known = with_retries(lambda: self._client.get_experiment_by_name(name), OPENING_S)
                artifacts = None if named else (output / "mlartifacts").resolve().as_uri()
                self._experiment = (
                    known.experiment_id if known else self._client.create_experiment(name, artifacts, EXPERIMENT_TAGS)
                )
        except (MlflowException, OSError) as error:
            raise ConfigError(f"tracking.uri {self.uri}: cannot be opened ({_first_line(error)})") from None
        self._may_know_runs = known is not None
        self._begun: dict[str, int] = {}  # when the runs of this session began, by id, in ms
        self._writer = Writer()
        self._pending: deque[Future[Any]] = deque()
        self._gathering: dict[Run | str, RunUpdate] = {}  # what is not begun to be written
        self._lock = threading.Lock()
        self._machine: MachineMetrics | None = None

    # ------------------------------------------------------------------------------------------ runs

    def open_run(
        self,
        key: str,
        name: str,
        params: Mapping[str, Any],
        *,
        parent: Run | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        """The run with this key: a new one, or the one that an earlier session left."""
        shown = {k: secrets.mask(v) if isinstance(v, str) else v for k, v in params.items()}
        run: Run = self._later(self._open, key, secrets.mask(name), shown, parent, dict(tags or {}))
        self._gather(run, RunUpdate(params={k: str(v)[:MAX_VALUE] for k, v in shown.items()}))
        return run

    def _open(self, key: str, name: str, params: dict[str, Any], parent: Run | None, tags: dict[str, str]) -> str:
        run_id = self._with_retries(lambda: self._find(key) or self._create(key, name, parent, tags))
        if self._mirror and tags.get("kind") != "sweep":  # W&B has no nested runs: its trials are a group
            self._mirror.open(run_id, name, params)
        return run_id

    def _find(self, key: str) -> str | None:
        if not self._may_know_runs:
            return None
        found = self._client.search_runs([self._experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        return self._noted(found[0])

    def _create(self, key: str, name: str, parent: Run | None, tags: dict[str, str]) -> str:
        under = {"mlflow.parentRunId": parent.result()} if parent else {}
        told = {**self._origin, KEY_TAG: key, **under, **tags}
        told = {k: secrets.mask(v) for k, v in told.items()}  # a git remote's address may hold a token
        return self._noted(self._client.create_run(self._experiment, run_name=name, tags=told))

    @functools.cached_property
    def _origin(self) -> dict[str, str]:
        """Who runs what, and of which git commit: what MLflow itself says of a run that it begins."""
        from mlflow.tracking.context.registry import resolve_tags

        return dict(resolve_tags())

    def _noted(self, run: Any) -> str:
        self._begun[str(run.info.run_id)] = int(run.info.start_time)
        return str(run.info.run_id)

    def known_runs(self, prefix: str) -> list[KnownRun]:
        """The runs whose key begins so, the oldest of each key; a double that a lost reply has left is deleted."""
        found: Future[list[KnownRun]] = self._later(self._with_retries, lambda: self._known_runs(prefix))
        self.flush()
        return found.result()

    def _known_runs(self, prefix: str) -> list[KnownRun]:
        known: dict[str, KnownRun] = {}
        token = None
        while token is None or token:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`{KEY_TAG}` LIKE '{prefix}%'",
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                key, run_id = run.data.tags[KEY_TAG], str(run.info.run_id)
                if key in known:
                    self._client.delete_run(run_id)
                    continue
                closed = run.info.status in ("FINISHED", "FAILED")
                known[key] = KnownRun(key, run_id, int(run.data.metrics.get("epoch", 0)), closed)
            token = page.token or ""
        return list(known.values())

    def close_run(self, run: Run, *, failed: bool = False) -> None:
        """Mark a run FINISHED or FAILED."""
        status = "FAILED" if failed else "FINISHED"
        self._later(self._with_retries, lambda: self._client.set_terminated(run.result(), status))
        if mirror := self._mirror:
            self._later(lambda: mirror.close(run.result(), failed=failed))

    # --------------------------------------------------------------------------- what they are told

    def log_epoch(self, run: Run | str, epoch: int, metrics: Mapping[str, float]) -> None:
        """One epoch's metrics, stepped by epoch."""
        self.log_metrics(run, epoch, {**metrics, "epoch": epoch})
        if mirror := self._mirror:
            self._later(lambda: mirror.log(_id(run), epoch, metrics))

    def log_metrics(self, run: Run | str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics that are no epoch's."""
        now = int(time.time() * 1000)
        self._gather(run, RunUpdate(metrics=[(name, value, now, step) for name, value in metrics.items()]))

    def tag(self, run: Run | str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        tags = {k: secrets.mask(v) for k, v in tags.items()}
        self._gather(run, RunUpdate(tags={k: v[:MAX_VALUE] for k, v in tags.items()}))
        if mirror := self._mirror:
            self._later(lambda: mirror.tag(_id(run), tags))

    def describe(self, run: Run, markdown: str) -> None:
        """The run's description; a later one takes its place."""
        self._gather(run, RunUpdate(tags={NOTE_TAG: secrets.mask(markdown)[:MAX_NOTE]}))

    def log_dataset(self, run: Run, card: DatasetCard) -> None:
        """What the run is trained on; a run that has it already keeps it once."""
        entity = card.entity()
        self._later(self._with_retries, lambda: self._client.log_inputs(run.result(), [entity]))

    def attach(self, run: Run, files: Iterable[Path]) -> None:
        """Log files as artifacts of a run."""
        for path in files:
            self._later(self._with_retries, lambda path=path: self._client.log_artifact(run.result(), str(path)))

    def register(self, parent: Run, card: ModelCard) -> Future[str]:
        """Make it the best model of its name in the Model Registry. The result says where it is, or why it is not."""
        return self._later(self._register, parent, card)

    def _register(self, parent: Run, card: ModelCard) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self._with_retries(lambda: registry.register(self._client, self._experiment, parent.result(), card))
        except MlflowException as error:
            if is_away(error):
                raise
            return f"the best model is not in MLflow's registry: {self.uri} does not take it ({_first_line(error)})"

    def watch_machine(self, run: Run) -> None:
        """Log this machine's system metrics to a run, until the run is closed."""
        if os.environ.get(SYSTEM_METRICS, "true").lower() not in ("false", "0"):
            self._machine = MachineMetrics(self._output, lambda measured: self._log_machine(run, measured))

    def _log_machine(self, run: Run, measured: dict[str, float]) -> None:
        """Called by the thread that measures, so it only leaves a job: errors are for the thread that tracks."""
        if not run.done() or run.exception():
            return
        now = int(time.time() * 1000)
        seconds = (now - self._begun[run.result()]) // 1000
        part = RunUpdate(metrics=[(name, value, now, seconds) for name, value in measured.items()])
        self._writer.submit(lambda: self._with_retries(lambda: self._write_part(run.result(), part)))

    def stop_watching(self) -> None:
        """Log no more system metrics."""
        if self._machine:
            self._machine.stop()

    # --------------------------------------------------------------------------------------- writing

    def _gather(self, run: Run | str, batch: RunUpdate) -> None:
        """Write it after all before, with whatever else comes for this run until then."""
        with self._lock:
            waiting = self._gathering.setdefault(run, batch)
            if waiting is not batch:
                waiting.add(batch)
                return
        self._later(self._write, run)

    def _write(self, run: Run | str) -> None:
        with self._lock:
            batch = self._gathering.pop(run)
        for part in batch.parts():
            self._with_retries(functools.partial(self._write_part, _id(run), part))

    def _write_part(self, run_id: str, part: RunUpdate) -> None:
        """A batch that is written twice is there once: MLflow knows a metric by its time and step."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(*metric) for metric in part.metrics],
            params=[Param(*param) for param in part.params.items()],
            tags=[RunTag(*tag) for tag in part.tags.items()],
        )

    def _with_retries(self, write: Callable[[], T]) -> T:
        return with_retries(write, retry.RETRY_FOR_S, self._missed)

    def _missed(self) -> None:
        self._may_know_runs = True  # the run that seems not to be made may have been: only the answer is lost

    def flush(self, seconds: float | None = None) -> None:
        """Wait until everything is written, before a session ends.

        Raises `StorageError` for what went wrong, or if it takes longer than so many seconds.
        """
        if self._mirror:
            self._later(self._mirror.close_all)
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._pending:
            self._settle(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _settle(self, seconds: float | None = None) -> None:
        """Wait for the oldest write. Raises `StorageError` if it failed."""
        try:
            self._pending.popleft().result(seconds)
        except TimeoutError:
            raise StorageError(f"tracking.uri {self.uri}: does not answer") from None
        except Exception as error:  # of MLflow, its database, its server or the network
            what = f"tracking.uri {self.uri}: cannot be written ({_first_line(error)})"
            raise StorageError(f"{what}; the same command continues") from None

    def _later(self, write: Callable[..., Any], *arguments: Any) -> Future[Any]:
        while self._pending and self._pending[0].done():
            self._settle()
        future = self._writer.submit(lambda: write(*arguments))
        self._pending.append(future)
        return future


def _id(run: Run | str) -> str:
    return run if isinstance(run, str) else run.result()


def _first_line(error: Exception) -> str:
    return secrets.mask(str(error)).strip().partition("\n")[0] or type(error).__name__
