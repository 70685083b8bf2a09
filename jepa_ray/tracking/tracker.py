"""One MLflow experiment: its runs, and everything that is logged to them.

While the store is busy or unavailable, the updates of each run are collected and then written in one batch. Runs are
identified by their `jepa_ray.key` tag, so a resumed sweep continues its runs and creates no duplicates.
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
    """A run that is in the tracking store."""

    key: str
    id: str
    epochs: int  # logged so far
    closed: bool


Run = Future[str]  # the id of an MLflow run, available once the run is created
T = TypeVar("T")

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # `retry.py` retries instead
    "MLFLOW_DISABLE_TELEMETRY": "true",  # unless the user sets the variable
    "MLFLOW_UV_AUTO_DETECT": "false",  # the project in the working directory is unrelated to the model
}
SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own variable; here the default is true
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI shows runs and models, not chats
KEY_TAG = "jepa_ray.key"
NOTE_TAG = "mlflow.note.content"  # MLflow's UI shows it as a run's description
MAX_VALUE = 500  # characters of a parameter or tag; every MLflow backend accepts this length
MAX_NOTE = 5000  # characters of a description; every MLflow backend accepts this length
OPENING_S = 60.0  # time that a server may take to start
ARTIFACTS = "mlartifacts"  # folder of artifacts beside a database


def default_uri(output: Path) -> str:
    """The SQLite database under the output root, as `mlflow ui --backend-store-uri` takes it."""
    return f"sqlite:///{(output / 'mlflow.db').resolve()}"


def artifact_location(uri: str, output: Path) -> str | None:
    """URI of the artifacts of a new experiment; None: the store chooses, as tracking servers and folders do.

    Artifacts are stored beside an SQLite file, and under the output root for any other database. For these stores
    MLflow itself would choose `mlruns` in the working directory.
    """
    from mlflow.store.db.db_types import DATABASE_ENGINES, SQLITE
    from sqlalchemy.engine import make_url

    engine = uri.partition(":")[0].partition("+")[0]
    if engine not in DATABASE_ENGINES:
        return None
    file = make_url(uri).database if engine == SQLITE else None
    on_disk = file and not file.startswith((":memory:", "file:"))
    folder = Path(file).parent if file and on_disk else output
    return (folder / ARTIFACTS).resolve().as_uri()


class Tracker:
    """One MLflow experiment. A thread writes everything in order, except that the constructor opens the store.

    While a server is unavailable, updates are kept and the writes are retried (`retry.py`); callers do not wait. An
    error is raised by the next call, at the latest by `flush`. Raises `ConfigError` if the store cannot be opened.

    Args:
        config: URI of the store, name of the experiment and W&B project, all optional.
        output: the output root, for a local database and files.
        default_experiment: name of the experiment, if the config has none.
    """

    def __init__(self, config: TrackingConfig, output: Path, default_experiment: str) -> None:
        os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
        from mlflow import MlflowClient  # imported here, since it takes seconds
        from mlflow.exceptions import MlflowException

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        named = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = secrets.resolve(named, "tracking.uri") if named else default_uri(output)
        self.uri = secrets.mask(config.uri or uri)  # for messages
        name = config.experiment or default_experiment
        self._output = output
        self._mirror = WandbMirror(config.wandb, name, output) if config.wandb else None
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / ".mlflow.lock"):  # two processes that start at once would both create the tables
                self._client = MlflowClient(tracking_uri=uri)
                known = with_retries(lambda: self._client.get_experiment_by_name(name), OPENING_S)
                self._experiment = known.experiment_id if known else self._create_experiment(name, uri)
        except (MlflowException, OSError) as error:
            raise ConfigError(f"tracking.uri {self.uri}: cannot be opened ({secrets.mask_error(error)})") from None
        self._may_know_runs = known is not None
        self._begun: dict[str, int] = {}  # start of each run of this session, by id, Unix time in ms
        self._writer = Writer()
        self._pending: deque[Future[Any]] = deque()
        self._waiting: dict[Run | str, RunUpdate] = {}  # updates whose write has not started
        self._lock = threading.Lock()
        self._machine: MachineMetrics | None = None

    def _create_experiment(self, name: str, uri: str) -> str:
        location = artifact_location(uri, self._output)
        return str(self._client.create_experiment(name, location, EXPERIMENT_TAGS))

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
        """Open the run with this key: the run of an earlier session if there is one, otherwise a new run.

        Args:
            key: identifies the run in the experiment.
            name: as the UI shows it.
            params: are cut to `MAX_VALUE` characters.
            parent: the run below which the UI shows this one.
            tags: of a new run.
        """
        masked = {k: secrets.mask(v) if isinstance(v, str) else v for k, v in params.items()}
        run: Run = self._submit(self._open, key, secrets.mask(name), masked, parent, dict(tags or {}))
        self._update(run, RunUpdate(params={k: str(v)[:MAX_VALUE] for k, v in masked.items()}))
        return run

    def _open(self, key: str, name: str, params: dict[str, Any], parent: Run | None, tags: dict[str, str]) -> str:
        run_id = self._with_retries(lambda: self._find(key) or self._create(key, name, parent, tags))
        if self._mirror and tags.get("kind") != "sweep":  # W&B has no nested runs: a sweep's trials are a group there
            self._mirror.open(run_id, name, params)
        return run_id

    def _find(self, key: str) -> str | None:
        if not self._may_know_runs:
            return None
        found = self._client.search_runs([self._experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not found:
            return None
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        return self._remember(found[0])

    def _create(self, key: str, name: str, parent: Run | None, tags: dict[str, str]) -> str:
        parents = {"mlflow.parentRunId": parent.result()} if parent else {}
        all_tags = {**self._context_tags, KEY_TAG: key, **parents, **tags}
        masked = {k: secrets.mask(v) for k, v in all_tags.items()}  # the URL of a git remote may contain a token
        return self._remember(self._client.create_run(self._experiment, run_name=name, tags=masked))

    @functools.cached_property
    def _context_tags(self) -> dict[str, str]:
        """The tags that MLflow gives to runs it starts itself: user, program and git commit."""
        from mlflow.tracking.context.registry import resolve_tags

        return dict(resolve_tags())

    def _remember(self, run: Any) -> str:
        self._begun[str(run.info.run_id)] = int(run.info.start_time)
        return str(run.info.run_id)

    def known_runs(self, prefix: str) -> list[KnownRun]:
        """The runs whose key starts with `prefix`, the oldest run of each key.

        Later runs of the same key are deleted: a client that misses the server's reply creates the run again.
        """
        found: Future[list[KnownRun]] = self._submit(self._with_retries, lambda: self._known_runs(prefix))
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
        self._submit(self._with_retries, lambda: self._client.set_terminated(run.result(), status))
        if mirror := self._mirror:
            self._submit(lambda: mirror.close(run.result(), failed=failed))

    # -------------------------------------------------------------------------------- contents of runs

    def log_epoch(self, run: Run | str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics, with the epoch as step."""
        self.log_metrics(run, epoch, {**metrics, "epoch": epoch})
        if mirror := self._mirror:
            self._submit(lambda: mirror.log(_id(run), epoch, metrics))

    def log_metrics(self, run: Run | str, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics that do not belong to an epoch."""
        now = int(time.time() * 1000)
        self._update(run, RunUpdate(metrics=[(name, value, now, step) for name, value in metrics.items()]))

    def tag(self, run: Run | str, tags: Mapping[str, str]) -> None:
        """Set tags. MLflow's are cut to `MAX_VALUE` characters."""
        tags = {k: secrets.mask(v) for k, v in tags.items()}
        self._update(run, RunUpdate(tags={k: v[:MAX_VALUE] for k, v in tags.items()}))
        if mirror := self._mirror:
            self._submit(lambda: mirror.tag(_id(run), tags))

    def describe(self, run: Run, markdown: str) -> None:
        """Set the run's description, which replaces an earlier one."""
        self._update(run, RunUpdate(tags={NOTE_TAG: secrets.mask(markdown)[:MAX_NOTE]}))

    def log_dataset(self, run: Run, card: DatasetCard) -> None:
        """Log the dataset that the run is trained on. Calling it twice has no further effect."""
        entity = card.entity()
        self._submit(self._with_retries, lambda: self._client.log_inputs(run.result(), [entity]))

    def attach(self, run: Run, files: Iterable[Path]) -> None:
        """Log files as artifacts of a run."""
        for path in files:
            self._submit(self._with_retries, lambda path=path: self._client.log_artifact(run.result(), str(path)))

    def register(self, parent: Run, card: ModelCard) -> Future[str]:
        """Register the best model under its name in the Model Registry.

        The result is a message with the model's location, or with the reason why it was not registered.
        """
        return self._submit(self._register, parent, card)

    def _register(self, parent: Run, card: ModelCard) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self._with_retries(lambda: registry.register(self._client, self._experiment, parent.result(), card))
        except MlflowException as error:
            if is_away(error):
                raise
            reason = secrets.mask_error(error)
            return f"the best model is not in MLflow's registry: {self.uri} refuses it ({reason})"

    def watch_machine(self, run: Run) -> None:
        """Log this machine's system metrics to a run, until the run is closed."""
        if os.environ.get(SYSTEM_METRICS, "true").lower() not in ("false", "0"):
            self._machine = MachineMetrics(self._output, lambda measured: self._log_machine(run, measured))

    def _log_machine(self, run: Run, measured: dict[str, float]) -> None:
        """Called by the measuring thread: it only queues the write, since errors are raised in the caller's thread."""
        if not run.done() or run.exception():
            return
        now = int(time.time() * 1000)
        seconds = (now - self._begun[run.result()]) // 1000
        batch = RunUpdate(metrics=[(name, value, now, seconds) for name, value in measured.items()])
        self._writer.submit(lambda: self._with_retries(lambda: self._write_batch(run.result(), batch)))

    def stop_watching(self) -> None:
        """Stop logging system metrics."""
        if self._machine:
            self._machine.stop()

    # --------------------------------------------------------------------------------------- writing

    def _update(self, run: Run | str, update: RunUpdate) -> None:
        """Write an update after all earlier writes, together with further updates of this run until then."""
        with self._lock:
            waiting = self._waiting.setdefault(run, update)
            if waiting is not update:
                waiting.add(update)
                return
        self._submit(self._write, run)

    def _write(self, run: Run | str) -> None:
        with self._lock:
            update = self._waiting.pop(run)
        for batch in update.batches():
            self._with_retries(functools.partial(self._write_batch, _id(run), batch))

    def _write_batch(self, run_id: str, batch: RunUpdate) -> None:
        """Writing a batch twice has no further effect: MLflow identifies a metric's value by its time and step."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(*metric) for metric in batch.metrics],
            params=[Param(*param) for param in batch.params.items()],
            tags=[RunTag(*tag) for tag in batch.tags.items()],
        )

    def _with_retries(self, write: Callable[[], T]) -> T:
        return with_retries(write, retry.RETRY_FOR_S, self._on_failure)

    def _on_failure(self) -> None:
        self._may_know_runs = True  # a run may have been created although the server's reply was lost

    def flush(self, seconds: float | None = None) -> None:
        """Wait until everything is written; called before a session ends.

        Raises `StorageError` if a write failed, or if it takes longer than `seconds`.
        """
        if self._mirror:
            self._submit(self._mirror.close_all)
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
            message = f"tracking.uri {self.uri}: cannot be written ({secrets.mask_error(error)})"
            raise StorageError(f"{message}; the same command continues") from None

    def _submit(self, write: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have the writer's thread call `write`. Raises `StorageError` if an earlier write failed."""
        while self._pending and self._pending[0].done():
            self._settle()
        future = self._writer.submit(lambda: write(*arguments))
        self._pending.append(future)
        return future


def _id(run: Run | str) -> str:
    return run if isinstance(run, str) else run.result()
