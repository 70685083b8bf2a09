"""The only MLflow writer: runs, parameters, per-epoch metrics, tags. One process writes, off the hot path.

What comes for a run while the store is busy is gathered and written in one batch. A run is found again by its
`jepa_ray.key` tag, so a sweep that is resumed continues its runs and doubles none.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from jepa_ray.config import TrackingConfig
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.wandb_mirror import WandbMirror


@dataclass(frozen=True)
class KnownRun:
    """A run as the tracking store has it."""

    key: str
    id: str
    epochs: int  # logged so far
    closed: bool


Run = Future[str]  # the id of an MLflow run, known once the run is written

ENVIRONMENT = {
    # A server may be away for a minute (2 + 4 + 8 + 16 + 32 s); then the session ends, and the next one catches up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is told about users, unless they say so themselves
}
KEY_TAG = "jepa_ray.key"
MAX_VALUE = 500  # characters of a parameter or tag that every MLflow backend takes
MAX_METRICS, MAX_OTHERS = 800, 100  # of a batch: MLflow takes 1000 of all kinds, and 100 parameters or tags


def default_uri(output: Path) -> str:
    """sqlite under the output root: what `mlflow ui --backend-store-uri` opens."""
    return f"sqlite:///{(output / 'mlflow.db').resolve()}"


class Tracker:
    """One MLflow experiment. Everything but its opening is written by a thread of its own, in order.

    An error there is raised by the next call, at the latest by `flush`. Raises `ConfigError` if the tracking store
    cannot be opened.
    """

    def __init__(self, config: TrackingConfig, output: Path, default_experiment: str) -> None:
        os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
        from mlflow import MlflowClient  # seconds of imports: only where something is tracked
        from mlflow.exceptions import MlflowException

        for noisy in ("alembic", "mlflow"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self.uri = config.uri or default_uri(output)
        name = config.experiment or default_experiment
        self._mirror = WandbMirror(config.wandb, name, output) if config.wandb else None
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / ".mlflow.lock"):  # two that begin at once would both make the tables
                self._client = MlflowClient(tracking_uri=self.uri)
                known = self._client.get_experiment_by_name(name)
                artifacts = None if config.uri else (output / "mlartifacts").resolve().as_uri()
                self._experiment = known.experiment_id if known else self._client.create_experiment(name, artifacts)
        except (MlflowException, OSError) as error:
            raise ConfigError(f"tracking.uri {self.uri}: cannot be opened ({_first_line(error)})") from None
        self._may_know_runs = known is not None
        self._writer = _Writer()
        self._pending: deque[Future[Any]] = deque()
        self._gathering: dict[Run | str, _Batch] = {}  # what is not begun to be written
        self._lock = threading.Lock()

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
        run: Run = self._later(self._open, key, name, dict(params), parent, dict(tags or {}))
        self._gather(run, _Batch(params={k: str(v)[:MAX_VALUE] for k, v in params.items()}))
        return run

    def _open(self, key: str, name: str, params: dict[str, Any], parent: Run | None, tags: dict[str, str]) -> str:
        run_id = self._find(key) or self._create(key, name, parent, tags)
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
        return str(found[0].info.run_id)

    def _create(self, key: str, name: str, parent: Run | None, tags: dict[str, str]) -> str:
        under = {"mlflow.parentRunId": parent.result()} if parent else {}
        run = self._client.create_run(self._experiment, run_name=name, tags={KEY_TAG: key, **under, **tags})
        return str(run.info.run_id)

    def known_runs(self, prefix: str) -> list[KnownRun]:
        """The runs whose key begins so, the oldest of each key; a double that a lost reply has left is deleted."""
        found: Future[list[KnownRun]] = self._later(self._known_runs, prefix)
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

    def log_epoch(self, run: Run | str, epoch: int, metrics: Mapping[str, float]) -> None:
        """One epoch's metrics, stepped by epoch."""
        now = int(time.time() * 1000)
        values = {**metrics, "epoch": epoch}
        self._gather(run, _Batch(metrics=[(name, value, now, epoch) for name, value in values.items()]))
        if mirror := self._mirror:
            self._later(lambda: mirror.log(_id(run), epoch, metrics))

    def tag(self, run: Run | str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._gather(run, _Batch(tags={k: v[:MAX_VALUE] for k, v in tags.items()}))
        if mirror := self._mirror:
            self._later(lambda: mirror.tag(_id(run), tags))

    def _gather(self, run: Run | str, batch: _Batch) -> None:
        """Write it after all before, with whatever else comes for this run until then."""
        with self._lock:
            waiting = self._gathering.setdefault(run, batch)
            if waiting is not batch:
                waiting.add(batch)
                return
        self._later(self._write, run)

    def _write(self, run: Run | str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        with self._lock:
            batch = self._gathering.pop(run)
        for part in batch.parts():
            self._client.log_batch(
                _id(run),
                metrics=[Metric(*metric) for metric in part.metrics],
                params=[Param(*param) for param in part.params.items()],
                tags=[RunTag(*tag) for tag in part.tags.items()],
            )

    def attach(self, run: Run, files: Iterable[Path]) -> None:
        """Log files as artifacts of a run."""
        for path in files:
            self._later(lambda path=path: self._client.log_artifact(run.result(), str(path)))

    def close_run(self, run: Run, *, failed: bool = False) -> None:
        """Mark a run FINISHED or FAILED."""
        self._later(lambda: self._client.set_terminated(run.result(), "FAILED" if failed else "FINISHED"))
        if mirror := self._mirror:
            self._later(lambda: mirror.close(run.result(), failed=failed))

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


@dataclass
class _Batch:
    """Entries of one run that are written together."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)  # name, value, time in ms, step
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, other: _Batch) -> None:
        """Take in what came later."""
        self.metrics += other.metrics
        self.params |= other.params
        self.tags |= other.tags

    def parts(self) -> Iterator[_Batch]:
        """The same in pieces that MLflow takes."""
        params, tags = list(self.params.items()), list(self.tags.items())
        count = max(math.ceil(len(self.metrics) / MAX_METRICS), math.ceil(max(len(params), len(tags)) / MAX_OTHERS))
        for i in range(count):
            some, others = (slice(i * most, (i + 1) * most) for most in (MAX_METRICS, MAX_OTHERS))
            yield _Batch(self.metrics[some], dict(params[others]), dict(tags[others]))


class _Writer:
    """A thread that does one thing after another. After a failure it does nothing more: what follows fails alike.

    It is a daemon, so that a process which is told to end does not wait for a server that is gone.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Do it when all before is done."""
        future: Future[Any] = Future()
        self._jobs.put((future, job))
        return future

    def _work(self) -> None:
        failure: Exception | None = None
        while True:
            future, job = self._jobs.get()
            try:
                if failure:
                    raise failure
                future.set_result(job())
            except Exception as error:
                failure = error
                future.set_exception(error)


def _id(run: Run | str) -> str:
    return run if isinstance(run, str) else run.result()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
