"""What the study of a sweep costs on disk and in an object store: per operation, and to open a large one.

    python benchmarks/storage_scale.py [--rounds 30] [--epochs 5] [--trials 10000]

- sqlite: the study on a disk.
- folder: the study of an object store (`ObjectJournal`) in a folder of this machine, without a network.
- S3: the same on a real S3 server (moto, in a process of its own; it is slow, so the number of requests matters).
- S3, one put: with `allow_delayed_open=true` in the URI, as the package sets it: a small object is one request.

Each round records one trial on every side: begin, a report per epoch, finish. The trial's checkpoint is written and
read as on its node. Requests are counted in the server's log. They do not depend on the machine, so a store whose
requests take L seconds costs requests x L.

MLflow gets the same epochs, one batch per epoch (in a sweep, a batch holds everything since the one before), in a
SQLite file and through a server that writes to one.

At last a study of many trials: its entries, objects and the seconds until it is open, just before a merge, when it has
the most objects, and as SQLite.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import optuna
import typer
from optuna.storages.journal import BaseJournalBackend
from rich.console import Console
from rich.table import Table
from spread import Spread, paired_ratios, show
from tracking_server import Server as MlflowServer

from jepa_ray import cli
from jepa_ray.config import METRICS, SweepConfig, TrackingConfig
from jepa_ray.storage import Storage
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage import journal
from jepa_ray.sweep.storage.journal import ObjectJournal
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrainedBy
from jepa_ray.tracking import Tracker

BUCKET = "scale"
OPERATIONS = ("begin", "report", "finish", "checkpoint written", "checkpoint read")
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Trials that each side records.")] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a trial.")] = 5,
    checkpoint: Annotated[float, typer.Option(min=0.001, help="MB of a checkpoint.")] = 3.0,
    trials: Annotated[int, typer.Option(min=0, help="Trials of the large study; 0: none.")] = 10_000,
) -> None:
    """Measure all sides, and how long a large study takes to open."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = cli.console()
    with tempfile.TemporaryDirectory(prefix="storage-") as name, s3_server(Path(name) / "s3.log") as server:
        folder = Path(name)
        sides = [
            Side("sqlite", Storage(str(folder / "disk")), Study.open(spec(rounds), folder / "optuna.db")),
            Side.journal("folder", Storage(str(folder / "store")), rounds),
            Side.journal("S3", Storage(server.uri("plain", "&allow_delayed_open=false")), rounds, server),
            Side.journal("S3, one put", Storage(server.uri("delayed", "&allow_delayed_open=true")), rounds, server),
        ]
        for _ in range(rounds):
            for side in sides:
                side.trial(epochs, os.urandom(int(checkpoint * 1e6)))
        print_sides(console, sides, epochs)
        print_tracking(console, folder / "mlflow", rounds * epochs)
        if trials:
            open_large_study(console, folder / "large", trials, epochs)


def spec(trials: int) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "scale",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {
                "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
                "training.ema_decay": {"low": 0.98, "high": 0.9999},
                "model.latent_dim_state": [64, 128, 256],
            },
            "search": {"num_trials": trials, "algorithm": "random"},
        }
    )


# ------------------------------------------------------------------------------------- the S3 server


@dataclass
class Server:
    """A server that logs every request, before it sends the reply."""

    address: str
    log: Path

    def uri(self, folder: str, options: str = "") -> str:
        host = self.address.removeprefix("http://")
        return f"s3://{BUCKET}/{folder}?endpoint_override={host}&scheme=http{options}"

    @property
    def requests(self) -> int:
        """The number of requests so far."""
        return len(re.findall(rb" HTTP/1.1", self.log.read_bytes()))


@contextmanager
def s3_server(log: Path) -> Iterator[Server]:
    os.environ.update({key: value for key, value in ENVIRONMENT.items() if key not in os.environ})
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        server = Server(address_of(process, log), log)
        urllib.request.urlopen(urllib.request.Request(f"{server.address}/{BUCKET}", method="PUT"), timeout=10).close()
        yield server
    finally:
        process.kill()
        process.wait()


def address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the server prints when it is ready."""
    while process.poll() is None:
        if match := re.search(r"Running on (http://[\d.:]+)", log.read_text()):
            return match[1]
        time.sleep(0.1)
    raise SystemExit(log.read_text())


# --------------------------------------------------------------------------------- per operation


@dataclass
class Side:
    """A study, and the time and requests of each operation."""

    name: str
    store: Storage
    study: Study
    server: Server | None = None
    ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})
    requests: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in OPERATIONS})

    def __post_init__(self) -> None:
        self._search = Search(self.study)

    @classmethod
    def journal(cls, name: str, store: Storage, trials: int, server: Server | None = None) -> Side:
        storage = optuna.storages.JournalStorage(ObjectJournal(store.below("books")))
        return cls(name, store, Study(spec(trials), storage), server)

    def trial(self, epochs: int, checkpoint: bytes) -> None:
        """Record one trial."""
        suggestion = self._timed("begin", self._search.ask)
        for epoch in range(1, epochs + 1):
            self._timed("report", lambda: report_epoch(self.study, suggestion.number, epoch, epochs))  # noqa: B023
            self._timed("checkpoint written", lambda: self.store.write("checkpoint.pt", checkpoint))
        self._timed("checkpoint read", lambda: self.store.read("checkpoint.pt"))
        self._timed("finish", lambda: self.study.finish(suggestion.number))

    def _timed(self, operation: str, work: Callable[[], Any]) -> Any:
        requests = self.server.requests if self.server else 0
        started = time.perf_counter()
        result = work()
        self.ms[operation].append(1e3 * (time.perf_counter() - started))
        self.requests[operation].append(self.server.requests - requests if self.server else 0)
        return result


def report_epoch(study: Study, number: int, epoch: int, epochs: int) -> None:
    metrics = {**dict.fromkeys(METRICS, 0.123456789), "val_rollout_mrr": 0.01 * epoch, "epoch_s": 1.0}
    study.report(number, epoch, metrics, last=epoch == epochs, trained_by=TrainedBy("group", 1.0, "host"))


def print_sides(console: Console, sides: list[Side], epochs: int) -> None:
    for operation in OPERATIONS:
        rows = {side.name: Spread.of(side.ms[operation]) for side in sides}
        show(console, f"{operation}, ms", rows, digits=1)
    base = sides[0]
    ratios = {f"{side.name} / {base.name}": paired_ratios(side.ms["report"], base.ms["report"]) for side in sides[1:]}
    show(console, "a report, ratio per epoch", ratios)
    table = Table(title=f"mean requests, merges of the journal included (trials of {epochs} epochs)")
    for name in ("", *OPERATIONS, "a trial, driver", "a trial, its node"):
        table.add_column(name, justify="right")
    for side in sides:
        if side.server:
            mean = {name: sum(counts) / len(counts) for name, counts in side.requests.items()}
            driver = mean["begin"] + epochs * mean["report"] + mean["finish"]
            node = epochs * mean["checkpoint written"] + mean["checkpoint read"]
            table.add_row(side.name, *[f"{value:.1f}" for value in [*mean.values(), driver, node]])
    console.print(table)


def print_tracking(console: Console, folder: Path, epochs: int) -> None:
    """How long a batch of one epoch takes to write, measured in turns."""
    with mlflow_server(folder) as uri:
        trackers = {
            "MLflow, sqlite": Tracker(TrackingConfig(), folder / "file", "scale"),
            "MLflow, server": Tracker(TrackingConfig(uri=uri), folder / "client", "scale"),
        }
        runs = {name: tracker.open_run("scale/0", "trial", {}) for name, tracker in trackers.items()}
        ms: dict[str, list[float]] = {name: [] for name in trackers}
        for epoch in range(epochs + 1):
            for name, tracker in trackers.items():
                started = time.perf_counter()
                tracker.log_epoch(runs[name], epoch, dict.fromkeys(METRICS, 0.5))
                tracker.flush()
                ms[name].append(1e3 * (time.perf_counter() - started))
        show(console, "an epoch to MLflow, ms", {name: Spread.of(each[1:]) for name, each in ms.items()}, digits=1)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    folder.mkdir()
    server = MlflowServer(folder)
    try:
        yield server.uri
    finally:
        server.kill()


# ------------------------------------------------------------------------------------- large study


class InMemory(BaseJournalBackend):  # type: ignore[misc]
    """A journal that is not stored."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.entries += logs


def open_large_study(console: Console, folder: Path, trials: int, epochs: int) -> None:
    """Print how long it takes to open and to export a study of many trials."""
    entries = make_entries(trials, epochs)
    store = Storage(str(folder / "study"))
    log = ObjectJournal(store)
    merged = int(len(entries) / (1 + journal.MIN_MERGE_SHARE))
    log.append_logs(entries[:merged])
    with mock.patch.object(journal, "MIN_TO_MERGE", len(entries)):  # a merge is due with the next entry
        for entry in entries[merged:]:
            log.append_logs([entry])
    objects = len(store.names())
    opened, study = timed(lambda: Study(spec(trials), optuna.storages.JournalStorage(ObjectJournal(store))))
    size = sum(path.stat().st_size for path in (folder / "study").iterdir()) / 1e6
    console.print(
        f"{trials:,} trials of {epochs} epochs: {len(entries):,} entries in {objects:,} objects, {size:.0f} MB:"
        f" open after {opened}",
        highlight=False,
    )
    exported, _ = timed(lambda: study.export(folder / "optuna.db"))
    opened, _ = timed(lambda: Study.open(spec(trials), folder / "optuna.db"))
    console.print(f"exported to SQLite in {exported}; that is open after {opened}", highlight=False)


def make_entries(trials: int, epochs: int) -> list[dict[str, Any]]:
    """The journal of a sweep of that many trials."""
    journal_in_memory = InMemory()
    study = Study(spec(trials), optuna.storages.JournalStorage(journal_in_memory))
    search = Search(study)
    while suggestion := search.ask():
        for epoch in range(1, epochs + 1):
            report_epoch(study, suggestion.number, epoch, epochs)
        study.finish(suggestion.number)
    return journal_in_memory.entries


def timed(work: Callable[[], Any]) -> tuple[str, Any]:
    """How long `work` took, and its result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return f"{time.perf_counter() - started:.1f} s ({time.process_time() - used:.1f} s of CPU)", result


if __name__ == "__main__":
    typer.run(main)
