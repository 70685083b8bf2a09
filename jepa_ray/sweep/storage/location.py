"""Where a sweep lives: a folder that every node sees, or an object store whose copy is a folder of this machine.

    <root>/sweeps/<name>/  spec.yaml, checkpoints/, books (optuna.db, or books/ in a store), and what is left at the end

The root is the spec's `storage`, else the environment's JEPA_RAY_STORAGE, else the output root.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import optuna

from jepa_ray.config import SweepConfig, is_uri
from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder
from jepa_ray.storage import LEASE, Lease, Storage, local_path
from jepa_ray.sweep.remote.bundle import files_in
from jepa_ray.sweep.storage.journal import ObjectJournal
from jepa_ray.sweep.storage.study import Study

STORAGE_VARIABLE = "JEPA_RAY_STORAGE"  # environment of a cluster's processes
JOB_VARIABLE = "JEPA_RAY_JOB"  # set for a driver that is a Ray job: its working directory is deleted with it

DATA = "data"
STATE_FILES = {"spec.yaml", ".id", "finished.json"}
RESULT_FILES = {
    "leaderboard.csv",
    "best_config.yaml",
    "best_jepa_model.pt",
    "report.html",
    "optuna.db",
    "mlflow.db",
    "ray.log",
}
SYNCED_FILES = STATE_FILES | RESULT_FILES


class SweepLocation:
    """A sweep's folder on a disk that every node sees: one machine's, or one that all of them mount."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = RunFolder(root / "sweeps" / name, "spec.yaml")
        self.store = Storage(str(self.folder.path))  # what the trials of all nodes write to
        self.tracking = root  # where MLflow writes without a server

    def __str__(self) -> str:
        return str(self.folder.path)

    @property
    def groups(self) -> str:
        """A folder for the few files of Ray Train's own."""
        return str(self.folder.path / "groups")

    @property
    def has_study(self) -> bool:
        """Whether there are books already."""
        return (self.folder.path / "optuna.db").exists()

    def spec_file(self) -> Path:
        """The file `spec.yaml` of a sweep that was begun. Raises `ConfigError`."""
        path = self.folder.path / self.folder.document
        if not path.is_file():
            raise ConfigError(f"{self}: there is no sweep to resume")
        return path

    @contextlib.contextmanager
    def claim(
        self, document: str, *, fresh: bool, growing: Collection[str], say: Callable[[str], None]
    ) -> Iterator[Path | None]:
        """Own the sweep meanwhile, as `RunFolder.begin` does. Raises `ConfigError`."""
        with self.folder.begin(document, fresh=fresh, growing=growing) as aside:
            yield aside

    def open_study(self, spec: SweepConfig) -> Study:
        """The books, new ones if there are none."""
        return Study.open(spec, self.folder.path / "optuna.db")

    def tracking_hint(self, uri: str) -> str:
        """How to look at what MLflow is told."""
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"

    def data_location(self, packed: Path) -> str:
        """Where data that came with a job is kept."""
        return str(self.folder.path / DATA / packed.name)

    def keep_data(self, packed: Path) -> None:
        """Keep data that came with a job. Raises `ConfigError` if it is not what the sweep was begun with."""
        for file in files_in(packed):
            name, data = f"{DATA}/{file.relative_to(packed.parent)}", file.read_bytes()
            kept = self.store.read(name)
            if kept is not None and kept != data:
                raise ConfigError(f"{self}/{name}: differs from the data that came with this job; --fresh starts over")
            if kept is None:
                self.store.write(name, data)

    def publish(self, study: Study) -> None:
        """Leave what was written to the folder where every node sees it."""

    def mark_finished(self, seconds: float) -> None:
        """Say that everything is written: the last thing a sweep does."""
        self.folder.mark_finished(seconds)


class ObjectStoreLocation(SweepLocation):
    """A sweep in an object store. What people look at is written to a folder here, and copied there."""

    def __init__(self, root: str, output: Path, name: str) -> None:
        super().__init__(output, name)
        self._root = Storage(root).below("sweeps")
        self.store = self._root.below(name)
        self.tracking = self.folder.path

    def __str__(self) -> str:
        return str(self.store)

    @property
    def groups(self) -> str:
        return str(Path(tempfile.gettempdir()) / "jepa_ray" / "groups")  # each node has its own

    @property
    def has_study(self) -> bool:
        return self.store.read("spec.yaml") is not None

    def tracking_hint(self, uri: str) -> str:
        own = uri.startswith("sqlite:")  # in a folder that may be a job's, and end with it
        return f"{self}/mlflow.db, when the sweep ends" if own else super().tracking_hint(uri)

    def data_location(self, packed: Path) -> str:
        return str(self.store.below(f"{DATA}/{packed.name}"))

    def spec_file(self) -> Path:
        self.store.check()
        self._pull()
        return super().spec_file()

    @contextlib.contextmanager
    def claim(
        self, document: str, *, fresh: bool, growing: Collection[str], say: Callable[[str], None]
    ) -> Iterator[Path | None]:
        self.store.check()
        lease = Lease(self.store, f"process {os.getpid()} on {socket.gethostname()}", _stop_this_process)
        with lease.held(say):
            self._pull()
            with self.folder.begin(document, fresh=fresh, growing=growing) as aside:
                if fresh and aside:
                    self._set_aside(aside.name)
                if not self.folder.finished:
                    self.store.delete("finished.json")
                self._push(["spec.yaml", ".id"])
                yield aside

    def _pull(self) -> None:
        """Make the folder here the copy of what is there. One that is not its copy is kept aside."""
        here = self.folder
        if here.path.exists():
            there = self.store.read(".id")
            if there is None or not (here.path / ".id").exists() or here.id.encode() != there:
                here.set_aside()
        names = sorted(SYNCED_FILES.intersection(self.store.names()))
        self.store.each(lambda name: self.store.download(name, here.path / name), names)
        if "finished.json" not in names:
            (here.path / "finished.json").unlink(missing_ok=True)

    def _push(self, names: Iterable[str]) -> None:
        there = [name for name in names if (self.folder.path / name).is_file()]
        self.store.each(lambda name: self.store.upload(self.folder.path / name, name), there)

    def _set_aside(self, name: str) -> None:
        aside = self._root.below(name)
        kept = [name for name in self.store.names(recursive=True) if name != LEASE]
        self.store.each(lambda name: self.store.move(name, aside), kept)

    def open_study(self, spec: SweepConfig) -> Study:
        return Study(spec, optuna.storages.JournalStorage(ObjectJournal(self.store.below("books"))))

    def publish(self, study: Study) -> None:
        study.export(self.folder.path / "optuna.db")
        self._push(SYNCED_FILES - {"finished.json"})

    def mark_finished(self, seconds: float) -> None:
        super().mark_finished(seconds)
        self._push(["finished.json"])


def locate_sweep(name: str, storage: str | None, output: Path) -> SweepLocation:
    """Where the sweep `name` lives. Raises `ConfigError` where its results would not outlive it."""
    root = storage or os.environ.get(STORAGE_VARIABLE)
    if root is None and os.environ.get(JOB_VARIABLE) and not output.is_absolute():
        raise ConfigError(
            f"a Ray job's folder is deleted with it, and neither `storage` of the spec nor {STORAGE_VARIABLE} of the"
            " cluster says where results go: --set storage=s3://BUCKET/PREFIX or a path that all nodes see"
        )
    if root is not None and is_uri(root):
        return ObjectStoreLocation(root, output.resolve(), name)
    return SweepLocation((local_path(root) if root is not None else output).resolve(), name)


def _stop_this_process() -> None:
    """Somebody else writes to the sweep: what this process would still write would be lost, or harm."""
    os.kill(os.getpid(), signal.SIGTERM)
