"""Location of a sweep's files: a folder that every node can reach, or an object store with a local copy.

    <root>/sweeps/<name>/  spec.yaml, checkpoints/, the study (optuna.db; in an object store books/), and the results

The root is the spec's `storage`, else the environment variable JEPA_RAY_STORAGE, else the output root.
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
from jepa_ray.files import RunFolder, files_in
from jepa_ray.storage import LEASE, Lease, Storage, local_path
from jepa_ray.sweep.storage.journal import ObjectJournal
from jepa_ray.sweep.storage.study import Study

STORAGE_VARIABLE = "JEPA_RAY_STORAGE"  # set for all processes of a cluster
JOB_VARIABLE = "JEPA_RAY_JOB"  # set for a driver that is a Ray job: its working directory is deleted when it ends

DATA = "data"  # folder of the data that came with a job
STUDY = "books"  # folder of the study in an object store; existing sweeps have this name
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
    """A sweep's folder on a disk that every node can reach: this machine's, or one that all nodes mount.

    Args:
        root: the folder that contains `sweeps/`.
        name: the sweep's name.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.folder = RunFolder(root / "sweeps" / name, "spec.yaml", SweepConfig.add_defaults)
        self.store = Storage(str(self.folder.path))  # for the checkpoints, which trials on all nodes write
        self.tracking = root  # folder for MLflow's database, if there is no tracking server

    def __str__(self) -> str:
        return str(self.folder.path)

    @property
    def groups(self) -> str:
        """A folder for the files that Ray Train itself needs; they are few."""
        return str(self.folder.path / "groups")

    @property
    def has_study(self) -> bool:
        """Whether a study exists already."""
        return (self.folder.path / "optuna.db").exists()

    def watched_folder(self) -> RunFolder:
        """The folder whose study another process can read during the sweep. Raises `ConfigError` without one."""
        return self.folder

    def spec_file(self) -> Path:
        """The file `spec.yaml` of an existing sweep. Raises `ConfigError` if there is no sweep."""
        path = self.folder.path / self.folder.document
        if not path.is_file():
            raise ConfigError(f"{self}: there is no sweep to resume")
        return path

    @contextlib.contextmanager
    def claim(
        self, document: str, *, fresh: bool, growing: Collection[str], say: Callable[[str], None]
    ) -> Iterator[Path | None]:
        """Own the sweep inside the context; yields the folder of the old sweep, if `fresh` has set one aside.

        Args:
            document: the text of `spec.yaml`.
            fresh: start over instead of continuing an existing sweep.
            growing: keys whose values may be raised in an existing sweep.
            say: prints a message, such as that it waits for another process.

        Raises:
            ConfigError: another process runs the sweep, or it began with another spec.
        """
        with self.folder.begin(document, fresh=fresh, growing=growing) as aside:
            yield aside

    def open_study(self, spec: SweepConfig) -> Study:
        """The study, which is created if it does not exist."""
        return Study.open(spec, self.folder.path / "optuna.db")

    def tracking_hint(self, uri: str) -> str:
        """The URL or the command that shows the sweep in MLflow."""
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"

    def data_location(self, packed: Path) -> str:
        """The path or URI under which all nodes find the data that came with a job."""
        return str(self.folder.path / DATA / packed.name)

    def keep_data(self, packed: Path) -> None:
        """Store the data that came with a job. Raises `ConfigError` if the sweep began with other data."""
        for file in files_in(packed):
            name, data = f"{DATA}/{file.relative_to(packed.parent)}", file.read_bytes()
            stored = self.store.read(name)
            if stored is not None and stored != data:
                raise ConfigError(f"{self}/{name}: differs from the data that came with this job; --fresh starts over")
            if stored is None:
                self.store.write(name, data)

    def publish(self, study: Study) -> None:
        """Copy the folder's files to the store, so that every node can read them. On a shared disk they are there."""

    def mark_finished(self, seconds: float) -> None:
        """Mark the sweep as finished, after everything else is written.

        Args:
            seconds: how long the last session took.
        """
        self.folder.mark_finished(seconds)


class ObjectStoreLocation(SweepLocation):
    """A sweep in an object store. The files for people are written to a local folder, and copied to the store.

    Args:
        root: the URI that contains `sweeps/`.
        output: the output root of this machine, for the local folder.
        name: the sweep's name.
    """

    def __init__(self, root: str, output: Path, name: str) -> None:
        super().__init__(output, name)
        self._root = Storage(root).below("sweeps")
        self.store = self._root.below(name)
        self.tracking = self.folder.path

    def __str__(self) -> str:
        return str(self.store)

    @property
    def groups(self) -> str:
        return str(Path(tempfile.gettempdir()) / "jepa_ray" / "groups")  # a local folder of each node

    @property
    def has_study(self) -> bool:
        return self.store.read("spec.yaml") is not None

    def tracking_hint(self, uri: str) -> str:
        local = uri.startswith("sqlite:")  # in a folder that may be a job's, and is deleted with it
        return f"{self}/mlflow.db, when the sweep ends" if local else super().tracking_hint(uri)

    def watched_folder(self) -> RunFolder:
        raise ConfigError(
            f"{self}: cannot be watched with --watch-only, since the study in an object store can be read only by the"
            f" process that runs the sweep: `python -m jepa_ray.sweep logs {self.folder.path.name} --address URL` shows"
            " the log of its Ray job"
        )

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
        """Update the local folder from the store. A folder of another sweep is renamed."""
        local = self.folder
        if local.path.exists():
            stored_id = self.store.read(".id")
            if stored_id is None or not (local.path / ".id").exists() or local.id.encode() != stored_id:
                local.set_aside()
        names = sorted(SYNCED_FILES.intersection(self.store.names()))
        self.store.each(lambda name: self.store.download(name, local.path / name), names)
        if "finished.json" not in names:
            (local.path / "finished.json").unlink(missing_ok=True)

    def _push(self, names: Iterable[str]) -> None:
        """Copy those of the local files that exist to the store."""
        existing = [name for name in names if (self.folder.path / name).is_file()]
        self.store.each(lambda name: self.store.upload(self.folder.path / name, name), existing)

    def _set_aside(self, name: str) -> None:
        """Move all objects of the sweep except its lease to the folder `name` beside it."""
        aside = self._root.below(name)
        names = [name for name in self.store.names(recursive=True) if name != LEASE]
        self.store.each(lambda name: self.store.move(name, aside), names)

    def open_study(self, spec: SweepConfig) -> Study:
        return Study(spec, optuna.storages.JournalStorage(ObjectJournal(self.store.below(STUDY))))

    def publish(self, study: Study) -> None:
        study.export(self.folder.path / "optuna.db")
        self._push(SYNCED_FILES - {"finished.json"})

    def mark_finished(self, seconds: float) -> None:
        super().mark_finished(seconds)
        self._push(["finished.json"])


def locate_sweep(name: str, storage: str | None, output: Path) -> SweepLocation:
    """The location of the sweep `name`. Raises `ConfigError` if its results would be deleted with the job that runs it.

    Args:
        name: the sweep's name.
        storage: the spec's `storage`.
        output: the output root.
    """
    root = storage or os.environ.get(STORAGE_VARIABLE)
    if root is None and os.environ.get(JOB_VARIABLE) and not output.is_absolute():
        raise ConfigError(
            f"storage: a Ray job's folder is deleted when the job ends, and neither the spec's `storage` nor the"
            f" cluster's {STORAGE_VARIABLE} names another place for the results: use --set storage=s3://BUCKET/PREFIX,"
            " or a path that all nodes can reach"
        )
    if root is not None and is_uri(root):
        return ObjectStoreLocation(root, output.resolve(), name)
    return SweepLocation((local_path(root) if root is not None else output).resolve(), name)


def _stop_this_process() -> None:
    """End this process, because another one has taken over the sweep: further writes would be lost or do damage."""
    os.kill(os.getpid(), signal.SIGTERM)
