"""Storage on a disk, in an object store and through fsspec, and the ownership of its folders."""

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from helpers import stores

from jepa_ray import storage
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.storage import LEASE, Lease, Storage, _opened


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with stores.s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**stores.ENVIRONMENT, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        _opened.cache_clear()
        yield address
        _opened.cache_clear()


@pytest.fixture(params=["disk", "s3", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "s3":
        request.getfixturevalue("s3")
    roots = {
        "disk": str(tmp_path),
        "s3": f"s3://{stores.BUCKET}/{tmp_path.name}",
        "fsspec": f"memory://{tmp_path.name}",
    }
    yield Storage(roots[request.param]).below("sweeps/unit")
    if request.param == "fsspec":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


class TestEveryStore:
    def test_returns_the_last_content_written(self, store: Storage) -> None:
        assert store.read("a/b.pt") is None
        store.write("a/b.pt", b"one")
        store.write("a/b.pt", b"")
        store.write("a/b.pt", b"three")
        assert store.read("a/b.pt") == b"three"

    def test_lists_the_names_in_a_folder(self, store: Storage) -> None:
        assert store.names() == []
        for name in ("spec.yaml", "books/2", "books/1", "checkpoints/x/y"):
            store.write(name, b"x")
        assert store.names() == ["spec.yaml"]
        assert store.names("books") == ["books/1", "books/2"]
        assert store.below("books").names() == ["1", "2"]
        assert store.names(recursive=True) == ["books/1", "books/2", "checkpoints/x/y", "spec.yaml"]

    def test_deletes_an_object_and_ignores_a_missing_one(self, store: Storage) -> None:
        store.write("a", b"x")
        store.write("b", b"x")
        store.delete("a")
        store.delete("a")
        assert store.names() == ["b"]

    def test_deletes_a_folder_and_no_other(self, store: Storage) -> None:
        for name in ("a/1", "a/b/2", "a.pt", "ab/1"):
            store.write(name, b"x")
        store.delete_folder("a")
        store.delete_folder("a")
        assert store.names(recursive=True) == ["a.pt", "ab/1"]

    def test_copies_files_completely(self, store: Storage, tmp_path: Path) -> None:
        data = bytes(range(256)) * 40_000  # more than one block
        (tmp_path / "up").write_bytes(data)
        store.upload(tmp_path / "up", "model.pt")
        assert store.stamp("model.pt") is not None
        assert store.stamp("model.pt")[0] == len(data)  # type: ignore[index]
        store.download("model.pt", tmp_path / "there" / "down")
        assert (tmp_path / "there" / "down").read_bytes() == data
        assert store.stamp("none") is None

    def test_moves_to_another_folder(self, store: Storage) -> None:
        store.write("a", b"x")
        aside = Storage(store.uri).below("sweeps/aside")
        aside.write("before", b"")
        store.move("a", aside)
        assert (store.read("a"), aside.read("a")) == (None, b"x")

    def test_an_unpickled_storage_opens_itself(self, store: Storage) -> None:
        store.write("a", b"x")
        assert pickle.loads(pickle.dumps(store)) == store
        assert pickle.loads(pickle.dumps(store)).read("a") == b"x"


def test_a_failed_write_to_disk_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(str(tmp_path))
    store.write("a", b"old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(StorageError, match="a: cannot be written"):
        store.write("a", b"new and longer")
    assert store.read("a") == b"old"


class TestOpening:
    def test_a_missing_bucket_is_refused(self, s3: str) -> None:
        with pytest.raises(ConfigError, match=r"storage s3://missing/sweeps: cannot be used"):
            Storage("s3://missing/sweeps").check()

    def test_an_unknown_scheme_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"storage zz9://x: neither pyarrow .* nor fsspec"):
            Storage("zz9://x").names()

    def test_a_store_that_stays_unreachable_is_an_error_in_the_end(
        self, s3: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = f"s3://{stores.BUCKET}/x?endpoint_override=127.0.0.1:1&scheme=http"
        monkeypatch.setattr(storage, "RETRY_FOR_S", 0.0)
        with pytest.raises(StorageError, match="s3://jepa/x"):
            Storage(gone).write("a", b"x")

    def test_a_write_is_retried_until_the_store_is_back(self, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
        store, attempts = Storage(f"s3://{stores.BUCKET}/back"), []
        monkeypatch.setattr(storage, "PAUSE_S", 0.01)

        def upload(self: Storage, name: str, data: bytes) -> None:
            attempts.append(name)
            if len(attempts) < 3:
                raise OSError("connection refused")
            real(self, name, data)

        real = Storage._upload
        monkeypatch.setattr(Storage, "_upload", upload)
        store.write("a", b"x")
        assert (len(attempts), store.read("a")) == (3, b"x")

    def test_a_file_uri_is_a_path(self, tmp_path: Path) -> None:
        Storage(f"file://{tmp_path}").write("a", b"x")
        assert (tmp_path / "a").read_bytes() == b"x"

    def test_the_query_stays_behind_the_path_in_messages(self) -> None:
        assert str(Storage("s3://b/p?scheme=http").below("sweeps/x")) == "s3://b/p/sweeps/x?scheme=http"


class TestLease:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, seconds in (("BEAT_S", 0.1), ("DEAD_S", 0.6), ("SETTLE_S", 0.1)):
            monkeypatch.setattr(storage, name, seconds)

    def lease(self, folder: Path, owner: str = "process 1 on here") -> Lease:
        self.lost = threading.Event()
        return Lease(Storage(str(folder)), owner, self.lost.set)

    def test_two_processes_cannot_own_a_folder(self, tmp_path: Path) -> None:
        with self.lease(tmp_path).held(print):
            second = self.lease(tmp_path, "process 2 on there")
            message = "is in use by process 1 on here: wait until it ends, or choose another name"
            with pytest.raises(ConfigError, match=message), second.held(print):
                pass
        with second.held(print):
            pass
        assert Storage(str(tmp_path)).names() == []

    def test_the_lease_of_a_dead_owner_is_taken_over(self, tmp_path: Path) -> None:
        said: list[str] = []
        (tmp_path / LEASE).write_bytes(b"token 7 process 9 on gone")
        with self.lease(tmp_path).held(said.append):
            assert b"here" in (tmp_path / LEASE).read_bytes()
        assert said == [f"process 9 on gone owned {tmp_path}: waiting 0.6 s to see whether it is still running"]

    def test_of_two_processes_at_the_same_time_one_gets_the_lease(self, tmp_path: Path) -> None:
        outcomes: list[str] = []

        def come(name: str) -> None:
            try:
                with Lease(Storage(str(tmp_path)), name, lambda: None).held(print):
                    outcomes.append("owns")
                    time.sleep(0.5)
            except ConfigError:
                outcomes.append("refused")

        threads = [threading.Thread(target=come, args=(f"process {i} on x",)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["owns", "refused"]

    def test_an_owner_that_lost_its_folder_is_notified_and_does_not_touch_it(self, tmp_path: Path) -> None:
        lease = self.lease(tmp_path)
        with lease.held(print):
            (tmp_path / LEASE).write_bytes(b"other 0 process 2 on there")
            assert self.lost.wait(5)
        assert (tmp_path / LEASE).read_bytes() == b"other 0 process 2 on there"
