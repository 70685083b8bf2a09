import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

from jepa_ray.config import TrackingConfig
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.tracking import Tracker, default_uri


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def tracker(output: Path) -> Tracker:
    return Tracker(TrackingConfig(), output, "unit")


def test_child_runs_have_their_parent_params_curves_and_tags(tracker: Tracker, output: Path) -> None:
    parent = tracker.open_run("p", "sweep", {"space.x": [1, 2]})
    child = tracker.open_run("p/0", "trial", {"model.latent_dim_state": 64}, parent=parent, tags={"status": "RUNNING"})
    for epoch, value in ((1, 0.5), (2, 0.7)):
        tracker.log_epoch(child, epoch, {"val_rollout_mrr": value})
    tracker.tag(child, {"status": "COMPLETE"})
    tracker.close_run(child)
    tracker.flush()
    parent, child = parent.result(), child.result()
    client = MlflowClient(default_uri(output))
    run = client.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["status"] == "COMPLETE"
    assert run.data.params == {"model.latent_dim_state": "64"}
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in client.get_metric_history(child, "val_rollout_mrr")] == [(1, 0.5), (2, 0.7)]


def test_a_run_is_found_again_and_not_created_twice(tracker: Tracker, output: Path) -> None:
    first = tracker.open_run("again", "trial", {"a": 1})
    tracker.close_run(first, failed=True)
    tracker.flush()
    assert Tracker(TrackingConfig(), output, "unit").open_run("again", "trial", {"a": 1}).result() == first.result()


OPEN_TRACKER = """
import sys
from pathlib import Path
from jepa_ray.config import TrackingConfig
from jepa_ray.tracking import Tracker
import mlflow
print("ready", flush=True)
sys.stdin.readline()
Tracker(TrackingConfig(), Path(sys.argv[1]), "together").flush()
"""


def test_several_processes_may_create_the_database_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN_TRACKER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends


class TestBatches:
    """Updates that arrive while the store is busy."""

    @pytest.fixture
    def batches(self, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """The batches that are passed to MLflow from now on."""
        written: list[dict[str, Any]] = []
        log_batch = tracker._client.log_batch

        def spy(run_id: str, **entries: Any) -> None:
            written.append(entries)
            log_batch(run_id, **entries)

        monkeypatch.setattr(tracker._client, "log_batch", spy)
        return written

    def test_they_are_written_in_one_batch(self, tracker: Tracker, output: Path, batches: list[dict[str, Any]]) -> None:
        free = threading.Event()
        tracker._submit(free.wait)
        run = tracker.open_run("busy", "trial", {"a": 1})
        for epoch in (1, 2, 3):
            tracker.log_epoch(run, epoch, {"val_loss": epoch / 10})
        tracker.tag(run, {"status": "PRUNED"})
        tracker.tag(run, {"status": "COMPLETE"})
        tracker.close_run(run)
        free.set()
        tracker.flush()
        assert len(batches) == 1
        client = MlflowClient(default_uri(output))
        assert [(m.step, m.value) for m in client.get_metric_history(run.result(), "val_loss")] == [
            (1, 0.1),
            (2, 0.2),
            (3, 0.3),
        ]
        found = client.get_run(run.result())
        assert (found.data.tags["status"], found.data.params, found.info.status) == ("COMPLETE", {"a": "1"}, "FINISHED")

    def test_no_batch_is_larger_than_mlflow_accepts(
        self, tracker: Tracker, output: Path, batches: list[dict[str, Any]]
    ) -> None:
        free = threading.Event()
        tracker._submit(free.wait)
        run = tracker.open_run("large", "trial", {f"p{i}": i for i in range(250)})
        for epoch in range(1, 1001):
            tracker.log_epoch(run, epoch, {"val_loss": 0.5})
        free.set()
        tracker.flush()
        assert max(len(batch["metrics"]) for batch in batches) == 800
        assert max(len(batch["params"]) for batch in batches) == 100
        client = MlflowClient(default_uri(output))
        assert len(client.get_metric_history(run.result(), "val_loss")) == 1000
        assert len(client.get_run(run.result()).data.params) == 250


def test_a_run_without_parameters_gets_them_in_the_next_session(tracker: Tracker, output: Path) -> None:
    """The session before was killed after it had created the run and before it had logged the parameters."""
    bare = tracker._create("bare", "trial", None, {})
    again = Tracker(TrackingConfig(), output, "unit")
    assert again.open_run("bare", "trial", {"a": 1}).result() == bare
    again.flush()
    assert MlflowClient(default_uri(output)).get_run(bare).data.params == {"a": "1"}


def test_mlflow_s_telemetry_is_off(tracker: Tracker) -> None:
    assert MLFLOW_DISABLE_TELEMETRY.get()


def test_artifacts_are_stored(tracker: Tracker, output: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: x")
    run = tracker.open_run("files", "sweep", {})
    tracker.attach(run, [tmp_path / "spec.yaml"])
    tracker.flush()
    assert [f.path for f in MlflowClient(default_uri(output)).list_artifacts(run.result())] == ["spec.yaml"]


def test_an_error_of_the_writer_thread_is_raised(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.open_run("lost", "trial", {})
    tracker.attach(run, [tmp_path / "not there"])
    with pytest.raises(StorageError, match=r"cannot be written .*not there"):
        tracker.flush()


def test_a_store_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri nonsense://x: cannot be opened"):
        Tracker(TrackingConfig(uri="nonsense://x"), tmp_path, "unit")


class TestWandb:
    """The real library in offline mode; its files are read back."""

    def test_a_trial_is_mirrored_and_the_sweep_itself_is_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
        tracker = Tracker(TrackingConfig(wandb="unit"), tmp_path, "unit")
        parent = tracker.open_run("p", "sweep", {}, tags={"kind": "sweep"})
        runs = [tracker.open_run(f"p/{i}", f"trial {i}", {"model.latent_dim_state": 64}, parent=parent) for i in (0, 1)]
        for run in runs:
            tracker.log_epoch(run, 1, {"val_rollout_mrr": 0.5})
        tracker.close_run(runs[0])
        tracker.flush()
        found = sorted(path.name.rpartition("-")[2] for path in tmp_path.glob("wandb/offline-run-*"))
        assert found == sorted(run.result() for run in runs)
        files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        deadline = time.monotonic() + 30  # a process of W&B writes them
        while not all(b"val_rollout_mrr" in path.read_bytes() for path in files):
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_not_installed_is_bad_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match=r"tracking\.wandb is unit.*jepa-ray\[wandb\]"):
            Tracker(TrackingConfig(wandb="unit"), tmp_path / "new", "unit")
        assert not (tmp_path / "new").exists()


def test_known_runs_report_what_was_logged_and_delete_duplicates(tracker: Tracker) -> None:
    """A client that misses the server's reply creates a run twice."""
    for key in ("sweep/0", "sweep/1", "other/0"):
        run = tracker.open_run(key, key, {})
        for epoch in (1, 2):
            tracker.log_epoch(run, epoch, {"val_loss": 0.1})
        if key == "sweep/0":
            tracker.close_run(run)
    tracker.flush()
    first = {run.key: run for run in tracker.known_runs("sweep/")}
    assert {key: (run.epochs, run.closed) for key, run in first.items()} == {
        "sweep/0": (2, True),
        "sweep/1": (2, False),
    }
    tracker._create("sweep/1", "duplicate", None, {})
    assert {run.key: run for run in tracker.known_runs("sweep/")} == first
    left = tracker._client.search_runs([tracker._experiment], "tags.`jepa_ray.key` LIKE 'sweep/%'")
    assert len(left) == 2
