"""Whole sweeps as a user runs them: real Ray, real processes killed, real MLflow."""

import io
import json
import os
import signal
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from helpers.browsing import TIMEOUT_MS, WIDTHS, chromium, needs_chromium
from helpers.running import Running, board, epochs_recorded, run, start, write
from mlflow import MlflowClient
from ray import cloudpickle
from rich.console import Console
from tracking_server import Server

from jepa_ray.config import METRICS, SweepConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.errors import StorageError, TrialError
from jepa_ray.storage import Storage
from jepa_ray.sweep.run import run_sweep
from jepa_ray.sweep.trial import SweepTrial, trainable
from jepa_ray.train.checkpoint import load_model
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer
from jepa_ray.train.mailbox import EpochResult, StartTrial
from jepa_ray.train.worker_group import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def spec(train_config: TrainConfig) -> dict[str, Any]:
    return small_spec(train_config)


def small_spec(train_config: TrainConfig) -> dict[str, Any]:
    """Four trials of at most two short epochs, on one group: a second one takes longer to start than to train."""
    return {
        "name": "unit",
        "base": train_config.to_dict(),
        "space": {"training.learning_rate": [1e-4, 1e-3], "model.latent_dim_state": [16, 32]},
        "search": {"algorithm": "grid", "num_trials": 4},
        "early_stopping": {"enabled": False, "max_epochs": 2},
        "resources": {"max_concurrent": 1},
    }


UNTRAINED = 1e-12  # a learning rate that leaves a model as it was drawn: at chance
FAST_PLANNING = {"samples": 4, "elites": 2, "iterations": 1, "episodes": 4, "budget": 4}


@dataclass(frozen=True)
class Swept:
    """A sweep that has run, on two groups."""

    spec: dict[str, Any]
    path: Path
    output: Path
    printed: str


@pytest.fixture(scope="module")
def swept(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("swept")
    spec = small_spec(train_config) | {"resources": {"max_concurrent": 2}}
    path = write(spec, folder)
    return Swept(spec, path, folder / "out", run(path, folder / "out"))


@needs_chromium
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_what_it_leaves_can_be_looked_at(swept: Swept, tmp_path: Path, width: int) -> None:
    server = Server(tmp_path, f"sqlite:///{swept.output / 'mlflow.db'}")
    try:
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
            page.locator(".ag-row button").first.click(timeout=TIMEOUT_MS)  # the parent's, which shows its children
            page.get_by_text("trial_00003").first.wait_for(timeout=TIMEOUT_MS)
            assert page.locator(".ag-row a", has_text="learning_rate=").count() == 4
            page.goto(f"{server.uri}/#/models/unit")
            page.get_by_text("Version 1").first.wait_for(timeout=TIMEOUT_MS)
            assert wrong == []
    finally:
        server.kill()


def test_a_sweep_leaves_what_it_promises(swept: Swept) -> None:
    spec, path, output, printed = dict(swept.spec), swept.path, swept.output, swept.printed
    folder = output / "sweeps" / "unit"

    assert "Ray dashboard  http://127.0.0.1:" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{output / 'mlflow.db'}" in printed
    frame = board(output)
    assert frame["status"].tolist() == ["COMPLETE"] * 4
    assert frame["epochs"].tolist() == [2] * 4
    assert frame["objective"].is_monotonic_decreasing
    assert not frame[list(METRICS)].isna().any().any()

    # MLflow: one parent, every trial under it, params and curves.
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("unit").experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    trials = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert {r.info.run_id for r in trials} == set(frame["mlflow_run_id"])
    assert {r.data.tags["rank"] for r in trials} == {"1", "2", "3", "4"}
    assert all(set(r.data.params) == set(spec["space"]) for r in trials)
    assert all(len(client.get_metric_history(r.info.run_id, "val_loss")) == 2 for r in trials)
    artifacts = {f.path for f in client.list_artifacts(parents[0].info.run_id)}
    assert artifacts >= {"spec.yaml", "leaderboard.csv", "best_config.yaml", "best_jepa_model.pt"}

    # The parent says what came of it, on what data, and where the best model is: once, also when told again.
    note = parents[0].data.tags["mlflow.note.content"]
    assert f"### Best: `{frame['trial_id'][0]}`" in note
    assert [given.dataset.name for given in parents[0].inputs.dataset_inputs] == ["two_rooms"]
    assert "the best model is models:/unit@best in MLflow, version 1" in printed
    version = client.get_model_version_by_alias("unit", "best")
    assert version.run_id == frame["mlflow_run_id"][0]
    assert float(version.tags["objective_value"]) == pytest.approx(frame["objective"][0])
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    served = mlflow.pyfunc.load_model("models:/unit@best").get_raw_model()
    assert served.latent_dim == frame["model.latent_dim_state"][0]

    # The best model loads by itself; its config, trained alone, gives the best trial's value.
    model, config = load_model(folder / "best_jepa_model.pt")
    assert config.model.latent_dim_state == frame["model.latent_dim_state"][0]
    Running("jepa_ray.train", "--config", str(folder / "best_config.yaml"), "--output", str(output)).finish()
    alone = pd.read_csv(output / "unit-best" / "metrics.csv")
    assert alone["val_rollout_mrr"].max() == pytest.approx(frame["objective"][0], abs=1e-6)
    retrained, _ = load_model(output / "unit-best" / "best_jepa_model.pt")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), retrained.parameters(), strict=True))

    # Run again: shown, not repeated. Another spec under the same name: refused.
    stamp = (folder / "leaderboard.csv").stat().st_mtime_ns
    assert "is finished" in run(path, output)
    assert (folder / "leaderboard.csv").stat().st_mtime_ns == stamp
    other = write(spec | {"search": spec["search"] | {"num_trials": 3}}, output)
    assert "was begun with other settings: search.num_trials 4 -> 3" in start(other, output).finish(code=2)


def test_equal_sweeps_give_equal_leaderboards(spec: dict[str, Any], tmp_path: Path) -> None:
    """Trials stopped for collapse and finals by planning included."""
    spec["base"]["training"]["collapse_epochs"] = 2
    spec["space"]["training.learning_rate"] = [UNTRAINED, 1e-3]
    spec |= {
        "search": {"algorithm": "tpe", "num_trials": 3, "seed": 1},
        "early_stopping": {"enabled": False, "max_epochs": 3},
        "evaluation": {"plan_top_k": 2, "planning": FAST_PLANNING},
    }
    frames = []
    for side in "ab":
        run(write(spec, tmp_path), tmp_path / side)
        frames.append(board(tmp_path / side).drop(columns=["seconds", "samples_per_s", "epoch_s", "mlflow_run_id"]))
    pd.testing.assert_frame_equal(*frames, check_exact=True)

    frame = frames[0]
    assert frame["plan_success"].notna().tolist() == [True, True, False]
    assert frame["plan_success"][:2].is_monotonic_decreasing
    collapsed = frame[frame["training.learning_rate"] == UNTRAINED]
    assert len(collapsed) > 0
    assert (collapsed["epochs"] == 2).all()
    assert (collapsed["status"] == "PRUNED").all()
    assert collapsed["collapse"].str.contains("val_rollout_mrr").all()
    client = MlflowClient(f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}")
    trials = [client.get_run(run_id) for run_id in board(tmp_path / "a")["mlflow_run_id"]]
    assert ["plan_success" in trial.data.metrics for trial in trials] == [True, True, False]
    assert ["collapsed" in trial.data.tags for trial in trials] == frame["collapse"].notna().tolist()


def test_a_killed_worker_costs_no_trial(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["base"]["data"]["two_rooms"]["trajectories"] = 300  # epochs long enough to be hit in the middle
    output = tmp_path / "out"
    sweep = start(write(spec, tmp_path), output)
    sweep.wait_for(lambda: epochs_recorded(output) >= 1)
    os.kill(sweep.named("RayTrainWorker")[0].pid, signal.SIGKILL)
    printed = sweep.finish()
    assert "retried from its checkpoint: " in printed
    assert "unknown error" not in printed
    frame = board(output)
    assert frame["status"].tolist() == ["COMPLETE"] * 4
    assert frame["epochs"].tolist() == [2] * 4

    for _, row in frame.iterrows():  # the same values as without Ray, and without a kill
        alone = undisturbed(spec, {key: row[key] for key in spec["space"]})
        assert row["objective"] == pytest.approx(alone, abs=1e-6)


def undisturbed(spec: dict[str, Any], overrides: dict[str, Any]) -> float:
    config = SweepConfig.model_validate(spec).trial_config(overrides)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.training.cpus_per_worker)
    trainer = Trainer(config, TrajectoryDataset.from_config(config.data, torch.device("cpu")), Communicator())
    values = [trainer.run_epoch()["val_rollout_mrr"] for _ in range(config.training.num_epochs)]
    torch.set_num_threads(threads)
    return max(values)


def test_ctrl_c_keeps_what_was_learned_and_the_same_command_continues(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["base"]["data"]["two_rooms"]["trajectories"] = 300
    path, output = write(spec, tmp_path), tmp_path / "out"
    sweep = start(path, output)
    sweep.wait_for(lambda: epochs_recorded(output) >= 3)
    sweep.interrupt()
    assert "the same command continues" in sweep.finish(code=130)
    interrupted = board(output)
    assert "COMPLETE" in interrupted["status"].tolist()

    printed = run(path, output)
    frame = board(output)
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    assert frame["status"].tolist() == ["COMPLETE"] * 4
    done = interrupted.set_index("trial_id")["objective"]
    assert frame.set_index("trial_id")["objective"].loc[done.index].tolist() == done.tolist()
    assert "trial_00000" not in printed.split("best 4 of 4")[0]  # what was done is not trained again
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("unit").experiment_id])) == 5  # no run is doubled


def test_stopped_and_failed_trials_are_told_from_complete_ones(spec: dict[str, Any], tmp_path: Path) -> None:
    """ASHA stops exactly at its rung; a trial that fails on its own is neither retried nor the end of the sweep."""
    spec["base"]["training"]["grad_clip_norm"] = None
    spec |= {
        "early_stopping": {"grace_epochs": 1, "max_epochs": 3, "reduction_factor": 3},
        "objective": {"metric": "val_cosine", "mode": "max"},
        "space": {"training.learning_rate": [1e-3, 1e30, 1e-4, 1e-5, 1e-7]},
        "search": {"algorithm": "grid", "num_trials": 5},
    }
    printed = run(write(spec, tmp_path), tmp_path / "out")
    frame = board(tmp_path / "out").set_index("status")
    assert set(frame.loc[["COMPLETE"], "epochs"]) == {3}
    assert set(frame.loc[["PRUNED"], "epochs"]) == {1}
    assert frame.loc[["FAILED"], "training.learning_rate"].tolist() == [1e30]
    assert frame.index[-1] == "FAILED"
    assert len(frame) == 5
    assert "train_loss is" in printed
    assert "retried" not in printed  # it would only fail again


def test_a_sweep_whose_groups_cannot_start_says_so_at_once(spec: dict[str, Any], tmp_path: Path) -> None:
    config = SweepConfig.model_validate(spec)

    def crash(config: dict[str, Any]) -> None:
        os._exit(1)

    class Broken(trainable(config, Storage(str(tmp_path)), str(tmp_path))):  # type: ignore[misc]
        def start_group(self) -> WorkerGroup:
            group = WorkerGroup(
                workers=1, cpus=1, gpus=0, storage=self.groups, name=f"broken-{uuid.uuid4().hex[:6]}", work=crash
            )
            group.start()
            return group

    assert issubclass(Broken, SweepTrial)
    started = time.monotonic()
    with pytest.raises(TrialError, match="the worker group did not start"):
        run_sweep(config, tmp_path / "out", Console(file=io.StringIO()), trial_class=Broken)
    assert time.monotonic() - started < 90  # Ray's own start, one attempt, clean-up


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
    """As with a full disk: no trial is failed for it, and none is lost."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests
    config, folder = SweepConfig.model_validate(spec), tmp_path / "out" / "sweeps" / "unit"
    monkeypatch.setattr("jepa_ray.sweep.output.results.write_best", lambda *_: [])  # there is no model

    class Trial(trainable(config, Storage(str(folder)), str(folder / "groups"))):  # type: ignore[misc]
        def start_group(self) -> Instant:
            return Instant()

    def sweep() -> pd.DataFrame:
        return run_sweep(config, tmp_path / "out", Console(file=io.StringIO()), trial_class=Trial)

    folder.mkdir(parents=True)
    (folder / "checkpoints").touch()  # where a folder has to be
    with pytest.raises(StorageError, match=r"trial_0000\d.pt: cannot be written .*the same command continues"):
        sweep()
    (folder / "checkpoints").unlink()
    frame = sweep()
    assert frame["status"].tolist() == ["COMPLETE"] * 4
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    assert frame["epochs"].tolist() == [2] * 4


def test_train_resumes_after_ctrl_c(train_config: TrainConfig, tmp_path: Path) -> None:
    config = train_config.with_overrides({"data.two_rooms.trajectories": 300, "training.num_epochs": 4})
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
    assert json.loads((folder / "finished.json").read_text())["seconds"] > 0
