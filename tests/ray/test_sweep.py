"""Whole sweeps as a user runs them, with real Ray, real MLflow and processes that are really killed."""

import io
import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from helpers.browsing import TIMEOUT_MS, WIDTHS, chromium, needs_chromium
from helpers.reference_sweep import UNTRAINED, Swept
from helpers.running import Running, read_leaderboard, run, start, write
from mlflow import MlflowClient
from ray import cloudpickle
from rich.console import Console
from tracking_server import Server

from jepa_ray.config import METRICS, SweepConfig, TrainConfig
from jepa_ray.errors import StorageError, TrialError
from jepa_ray.sweep.run import run_sweep
from jepa_ray.sweep.trial import SweepTrial
from jepa_ray.train.checkpoint import load_model
from jepa_ray.train.mailbox import EpochResult, StartTrial
from jepa_ray.train.worker_group import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def spec(train_config: TrainConfig) -> dict[str, Any]:
    return small_spec(train_config)


def small_spec(train_config: TrainConfig) -> dict[str, Any]:
    """Four trials of at most two short epochs on one group; a second group would take longer to start than to train."""
    return {
        "name": "unit",
        "base": train_config.to_dict(),
        "space": {"training.learning_rate": [1e-4, 1e-3], "model.latent_dim_state": [16, 32]},
        "search": {"algorithm": "grid", "num_trials": 4},
        "early_stopping": {"enabled": False, "max_epochs": 2},
        "resources": {"max_concurrent": 1},
    }


@pytest.fixture(scope="module")
def server(swept: Swept, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The MLflow UI on the sweep's database."""
    started = Server(tmp_path_factory.mktemp("server"), f"sqlite:///{swept.output / 'mlflow.db'}")
    yield started
    started.kill()


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_report_and_mlflow_pages_can_be_viewed(swept: Swept, server: Server, width: int) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((swept.output / "sweeps/unit/report.html").as_uri())
        page.wait_for_function("document.documentElement.dataset.drawn === 'yes'", timeout=TIMEOUT_MS)
        assert page.locator("#table-board tbody tr").count() == 4
        assert page.locator("[data-plot] svg").count() >= 4

        page.goto(f"{server.uri}/#/experiments/1/runs?compareRunsMode=TABLE")
        page.get_by_text("5 matching runs").wait_for(timeout=TIMEOUT_MS)
        page.locator(".ag-row button").first.click(timeout=TIMEOUT_MS)  # expands the parent run
        page.get_by_text("trial_00003").first.wait_for(timeout=TIMEOUT_MS)
        assert page.locator(".ag-row a", has_text="learning_rate=").count() == 4
        page.goto(f"{server.uri}/#/models/unit")
        page.get_by_text("Version 1").first.wait_for(timeout=TIMEOUT_MS)
        assert wrong == []


def test_a_sweep_leaves_all_results(swept: Swept) -> None:
    spec, path, output, printed = dict(swept.spec), swept.path, swept.output, swept.printed
    folder = output / "sweeps" / "unit"

    assert "Ray dashboard  http://127.0.0.1:" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{output / 'mlflow.db'}" in printed
    frame = read_leaderboard(output)
    assert frame["status"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert frame["epochs"].tolist() == [3, 3, 2, 2]
    assert not frame[list(METRICS)].isna().any().any()

    # The best two were planned with and are ranked by their success; the others by their objective.
    assert frame["plan_success"].notna().tolist() == [True, True, False, False]
    assert frame["plan_success"][:2].is_monotonic_decreasing
    assert frame["objective"][2:].is_monotonic_decreasing
    collapsed = frame["training.learning_rate"] == UNTRAINED
    assert collapsed.tolist() == [False, False, True, True]
    assert frame["collapse"].notna().tolist() == collapsed.tolist()
    assert frame.loc[collapsed, "collapse"].str.contains("val_rollout_mrr").all()

    # MLflow: one parent run, with every trial as a child run that has params and curves.
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("unit").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert {r.info.run_id for r in trials} == set(frame["mlflow_run_id"])
    assert {r.data.tags["rank"] for r in trials} == {"1", "2", "3", "4"}
    assert all(set(r.data.params) == set(spec["space"]) for r in trials)
    for _, row in frame.iterrows():
        child = client.get_run(row["mlflow_run_id"])
        assert len(client.get_metric_history(child.info.run_id, "val_loss")) == row["epochs"]
        assert ("plan_success" in child.data.metrics) == (row["status"] == "COMPLETE")
        assert ("collapsed" in child.data.tags) == (row["status"] == "PRUNED")
    artifacts = {f.path for f in client.list_artifacts(parents[0].info.run_id)}
    assert artifacts >= {"spec.yaml", "leaderboard.csv", "best_config.yaml", "best_jepa_model.pt"}

    # The parent run names the best trial, the dataset and the best model, each exactly once.
    note = parents[0].data.tags["mlflow.note.content"]
    assert f"### Best trial: `{frame['trial_id'][0]}`" in note
    assert [given.dataset.name for given in parents[0].inputs.dataset_inputs] == ["two_rooms"]
    assert "the best model is models:/unit@best in MLflow, version 1" in printed
    version = client.get_model_version_by_alias("unit", "best")
    assert version.run_id == frame["mlflow_run_id"][0]
    assert float(version.tags["objective_value"]) == pytest.approx(frame["objective"][0])
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    served = mlflow.pyfunc.load_model("models:/unit@best").get_raw_model()
    assert served.latent_dim == frame["model.latent_dim_state"][0]

    # The best model can be loaded; a single run with its config reaches the best trial's value.
    model, config = load_model(folder / "best_jepa_model.pt")
    assert config.model.latent_dim_state == frame["model.latent_dim_state"][0]
    Running("jepa_ray.train", "--config", str(folder / "best_config.yaml"), "--output", str(output)).finish()
    alone = pd.read_csv(output / "unit-best" / "metrics.csv")
    assert alone["val_rollout_mrr"].max() == pytest.approx(frame["objective"][0], abs=1e-6)
    retrained, _ = load_model(output / "unit-best" / "best_jepa_model.pt")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), retrained.parameters(), strict=True))

    # Of the periodic checkpoints only the newest is kept, by the trials and by the single run, with equal weights.
    checkpoints = folder / "checkpoints"
    assert sorted(str(path.relative_to(checkpoints)) for path in checkpoints.glob("*/*")) == [
        f"{row.trial_id}/epoch_{row.epochs:05d}.pt" for row in frame.sort_values("trial_id").itertuples()
    ]
    assert [path.name for path in (output / "unit-best" / "checkpoints").iterdir()] == ["epoch_00003.pt"]
    last, _ = load_model(checkpoints / frame["trial_id"][0] / "epoch_00003.pt")
    alone_last, _ = load_model(output / "unit-best" / "checkpoints" / "epoch_00003.pt")
    assert all(torch.equal(p, q) for p, q in zip(last.parameters(), alone_last.parameters(), strict=True))

    # The same command again shows the results. Another spec with the same name is refused.
    stamp = (folder / "leaderboard.csv").stat().st_mtime_ns
    assert "is finished" in run(path, output)
    assert (folder / "leaderboard.csv").stat().st_mtime_ns == stamp
    other = write(spec | {"search": spec["search"] | {"num_trials": 3}}, output)
    assert "was started with other settings: search.num_trials 4 -> 3" in start(other, output).finish(code=2)


def test_stopped_and_failed_trials_are_distinguished_from_complete_ones(spec: dict[str, Any], tmp_path: Path) -> None:
    """ASHA stops exactly at its rung; a trial that fails by itself is not retried, and the sweep continues."""
    spec["base"]["training"]["grad_clip_norm"] = None
    spec |= {
        "early_stopping": {"grace_epochs": 1, "max_epochs": 3, "reduction_factor": 3},
        "objective": {"metric": "val_cosine", "mode": "max"},
        "space": {"training.learning_rate": [1e-3, 1e30, 1e-4, 1e-5, 1e-7]},
        "search": {"algorithm": "grid", "num_trials": 5},
    }
    printed = run(write(spec, tmp_path), tmp_path / "out")
    frame = read_leaderboard(tmp_path / "out").set_index("status")
    assert set(frame.loc[["COMPLETE"], "epochs"]) == {3}
    assert all(frame.loc[[status], "objective"].is_monotonic_decreasing for status in ("COMPLETE", "PRUNED"))
    assert set(frame.loc[["PRUNED"], "epochs"]) == {1}
    assert frame.loc[["FAILED"], "training.learning_rate"].tolist() == [1e30]
    assert frame.index[-1] == "FAILED"
    assert len(frame) == 5
    assert "train_loss is" in printed
    assert "retried" not in printed  # it would fail again


def test_a_sweep_whose_groups_cannot_start_ends_at_once(spec: dict[str, Any], tmp_path: Path) -> None:
    config = SweepConfig.model_validate(spec)

    def crash(config: dict[str, Any]) -> None:
        os._exit(1)

    attempts = tmp_path / "attempts"

    class Broken(SweepTrial):
        def start_group(self) -> WorkerGroup:
            with attempts.open("a") as file:
                file.write("one\n")
            name = f"broken-{uuid.uuid4().hex[:6]}"
            group = WorkerGroup(workers=1, cpus=1, gpus=0, storage=self.groups_folder, name=name, work=crash)
            group.start()
            return group

    with pytest.raises(TrialError, match="the worker group did not start"):
        run_sweep(config, tmp_path / "out", Console(file=io.StringIO()), trial_class=Broken)
    assert attempts.read_text() == "one\n"  # not retried, although trials may fail twice


class Instant:
    """A group that trains nothing; its checkpoints are files of a few bytes."""

    hosts = ("here",)

    def __init__(self) -> None:
        self._epoch = 0

    def call(self, command: Any) -> EpochResult | None:
        if isinstance(command, StartTrial):
            self._epoch = int(command.checkpoint or b"0")
            return self._result() if self._epoch else None
        self._epoch += 1
        return self._result()

    def _result(self) -> EpochResult:
        return EpochResult(self._epoch, dict.fromkeys(METRICS, 0.1 * self._epoch), self._epoch == 2, None, [])

    def checkpoint(self, result: EpochResult) -> bytes:
        return str(result.epoch).encode()

    def shutdown(self) -> None:
        pass


def test_a_folder_that_cannot_be_written_ends_the_sweep_and_the_same_command_continues(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full disk: no trial fails because of it, and no trial is lost."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
    config, folder = SweepConfig.model_validate(spec), tmp_path / "out" / "sweeps" / "unit"
    monkeypatch.setattr("jepa_ray.sweep.output.results.write_best", lambda *_: [])  # the stand-in group has no model

    class Trial(SweepTrial):
        def start_group(self) -> Instant:
            return Instant()

    def sweep() -> pd.DataFrame:
        return run_sweep(config, tmp_path / "out", Console(file=io.StringIO()), trial_class=Trial)

    folder.mkdir(parents=True)
    (folder / "checkpoints").touch()  # a file where a folder is needed
    with pytest.raises(StorageError, match=r"trial_0000\d.pt: cannot be written .*the same command continues"):
        sweep()
    (folder / "checkpoints").unlink()
    frame = sweep()
    assert frame["status"].tolist() == ["COMPLETE"] * 4
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    assert frame["epochs"].tolist() == [2] * 4


def test_train_resumes_after_ctrl_c(train_config: TrainConfig, tmp_path: Path) -> None:
    # Three epochs of about two seconds are left when the first one is over: Ctrl-C arrives in time.
    settings = {"data.two_rooms.trajectories": 600, "training.num_epochs": 4, "experiment.checkpoint_every": 1}
    config = train_config.with_overrides(settings)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    folder = tmp_path / "out" / config.experiment.name
    arguments = ("jepa_ray.train", "--config", str(path), "--output", str(tmp_path / "out"))
    training = Running(*arguments)
    training.wait_for(lambda: (folder / "checkpoint.pt").exists())
    training.interrupt()
    assert "the same command continues" in training.finish(code=130)
    done = len(pd.read_csv(folder / "metrics.csv"))
    assert 1 <= done < 4
    assert f"continuing after epoch {done}" in Running(*arguments).finish()
    assert pd.read_csv(folder / "metrics.csv")["epoch"].tolist() == [1, 2, 3, 4]
    periodic = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert periodic == [f"epoch_0000{epoch}.pt" for epoch in (1, 2, 3, 4)]
    assert json.loads((folder / "finished.json").read_text())["seconds"] > 0
