"""A real server that is killed and started again, and a server that stays unavailable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracking_server import Server

from jepa_ray.config import TrackingConfig
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.tracking import Tracker, retry
from jepa_ray.tracking.retry import with_retries

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def test_updates_during_an_outage_are_written_afterwards(server: Server, tmp_path: Path) -> None:
    tracker = Tracker(TrackingConfig(uri=server.uri), tmp_path, "unit")
    run = tracker.open_run("p", "sweep", {"a": 1})
    tracker.log_epoch(run, 1, {"val_loss": 0.1})
    tracker.flush()
    server.kill()
    began = time.monotonic()
    for epoch in range(2, 12):
        tracker.log_epoch(run, epoch, {"val_loss": epoch / 10})
    late = tracker.open_run("p/0", "trial", {"b": 2}, parent=run)
    tracker.log_epoch(late, 1, {"val_loss": 0.7})
    (tmp_path / "spec.yaml").write_text("name: x")
    tracker.attach(run, [tmp_path / "spec.yaml"])
    tracker.close_run(late)
    assert time.monotonic() - began < 0.5  # callers do not wait for the server
    time.sleep(2)  # until the writer's first attempt has failed
    server.start()
    tracker.flush()
    client = MlflowClient(server.uri)
    steps = [(m.step, m.value) for m in client.get_metric_history(run.result(), "val_loss")]
    assert sorted(steps) == [(epoch, epoch / 10) for epoch in range(1, 12)]
    found = client.get_run(late.result())
    assert (found.data.params, found.info.status) == ({"b": "2"}, "FINISHED")
    assert [f.path for f in client.list_artifacts(run.result())] == ["spec.yaml"]
    assert len(tracker.known_runs("p")) == 2


def test_a_server_that_stays_unavailable_ends_the_session(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_FOR_S", 1.0)
    tracker = Tracker(TrackingConfig(uri=server.uri), tmp_path, "unit")
    tracker.open_run("away", "sweep", {})
    tracker.flush()
    server.kill()
    try:
        tracker.open_run("away/0", "trial", {})
        with pytest.raises(StorageError, match=r"cannot be written \(API request.*the same command continues"):
            tracker.flush()
    finally:
        server.start()


def test_an_address_without_a_server_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_ray.tracking.tracker.OPENING_S", 0.5)
    with pytest.raises(ConfigError, match=r"tracking\.uri http://127\.0\.0\.1:9: cannot be opened"):
        Tracker(TrackingConfig(uri="http://127.0.0.1:9"), tmp_path, "unit")


class TestWithRetries:
    @pytest.fixture(autouse=True)
    def short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retry, "PAUSES_S", ())
        monkeypatch.setattr(retry, "PAUSE_S", 0.01)

    def test_it_retries_while_the_server_is_unavailable_and_reports_each_failure(self) -> None:
        failures = [ConnectionError("a"), ConnectionError("b")]
        reported = []

        def write() -> str:
            if failures:
                raise failures.pop()
            return "written"

        assert with_retries(write, 10, lambda: reported.append(1)) == "written"
        assert len(reported) == 2

    def test_an_error_that_a_retry_cannot_fix_is_raised_at_once(self) -> None:
        attempts = []

        def write() -> None:
            attempts.append(1)
            raise FileNotFoundError("no such artifact")

        with pytest.raises(FileNotFoundError):
            with_retries(write, 10)
        assert len(attempts) == 1

    def test_it_gives_up_after_the_time_limit(self) -> None:
        def write() -> None:
            raise ConnectionError("still unavailable")

        began = time.monotonic()
        with pytest.raises(ConnectionError, match="still unavailable"):
            with_retries(write, 0.1)
        assert 0.1 <= time.monotonic() - began < 2
