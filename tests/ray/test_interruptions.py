"""A sweep that is disturbed in every ordinary way, with a secret in its spec, beside one that is not.

A worker is killed, then Ctrl-C ends the sweep, then the same command continues it. One sweep serves all these tests.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers.reference_sweep import MEASURED, UNTRAINED, Swept, reference_spec
from helpers.running import epochs_recorded, read_leaderboard, run, start, write
from mlflow import MlflowClient

from jepa_ray.config import SweepConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SECRET, TOKEN = "vault-4711-kestrel", "0123456789abcdef-token-of-the-cluster"


@dataclass(frozen=True)
class Disturbed:
    """What the sweep printed and left, before and after Ctrl-C."""

    spec: dict[str, Any]
    output: Path
    database: Path  # of MLflow; its path is the secret
    first_session: str
    interrupted: pd.DataFrame
    second_session: str
    frame: pd.DataFrame


@pytest.fixture(scope="module")
def disturbed(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    database, output = folder / SECRET, folder / "out"
    spec = reference_spec(train_config)
    spec["tracking"] = {"uri": "sqlite:///${env:JEPA_TEST_PLACE}", "registered_model": None}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JEPA_TEST_PLACE", str(database))
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", TOKEN)
        path = write(spec, folder)
        sweep = start(path, output)
        sweep.wait_for(lambda: epochs_recorded(output) >= 1)
        os.kill(sweep.named("RayTrainWorker")[0].pid, signal.SIGKILL)
        sweep.wait_for(lambda: epochs_recorded(output) >= 6)
        sweep.interrupt()
        first_session, interrupted = sweep.finish(code=130), read_leaderboard(output)
        second_session = run(path, output)
    return Disturbed(spec, output, database, first_session, interrupted, second_session, read_leaderboard(output))


def test_the_result_is_that_of_an_undisturbed_sweep(disturbed: Disturbed, swept: Swept) -> None:
    """Equal in every column but times: search, training on other groups, diagnosis and planning."""
    pd.testing.assert_frame_equal(disturbed.frame.drop(columns=MEASURED), swept.board(), check_exact=True)
    assert list_checkpoints(disturbed.output) == list_checkpoints(swept.output)


def list_checkpoints(output: Path) -> list[str]:
    """Training and periodic checkpoints, by their paths in the sweep's folder."""
    folder = output / "sweeps" / "unit" / "checkpoints"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.pt"))


def test_a_killed_worker_costs_no_trial(disturbed: Disturbed) -> None:
    assert "  is retried: " in disturbed.first_session
    assert "unknown error" not in disturbed.first_session
    frame = disturbed.frame
    trained = frame["training.learning_rate"] != UNTRAINED
    assert frame.loc[trained, "status"].tolist() == ["COMPLETE"] * 2
    assert frame.loc[trained, "epochs"].tolist() == [3] * 2
    assert frame.loc[~trained, "status"].tolist() == ["PRUNED"] * 2
    assert frame.loc[~trained, "epochs"].tolist() == [2] * 2

    for _, row in frame.iterrows():  # the same values as without Ray, and without a kill
        alone = trained_alone(disturbed.spec, {key: row[key] for key in disturbed.spec["space"]})
        assert row["objective"] == pytest.approx(alone, abs=1e-6)


def trained_alone(spec: dict[str, Any], overrides: dict[str, Any]) -> float:
    """The best objective of a configuration that this process trains."""
    config = SweepConfig.model_validate(spec).trial_config(overrides)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.training.cpus_per_worker)
    trainer = Trainer(config, TrajectoryDataset.from_config(config.data, torch.device("cpu")), Communicator())
    values = []
    while not trainer.finished:
        values.append(trainer.run_epoch()["val_rollout_mrr"])
    torch.set_num_threads(threads)
    return max(values)


def test_ctrl_c_keeps_all_results_and_the_same_command_continues(disturbed: Disturbed) -> None:
    assert "the same command continues" in disturbed.first_session
    interrupted, frame = disturbed.interrupted, disturbed.frame
    assert {"COMPLETE", "PRUNED"} & set(interrupted["status"])
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    done = interrupted.set_index("trial_id")["objective"]
    assert frame.set_index("trial_id")["objective"].loc[done.index].tolist() == done.tolist()
    ended_lines = [line for line in disturbed.second_session.splitlines() if " epochs  " in line]
    assert len(ended_lines) == 4 - len(done)  # a trial that had ended is not trained again
    assert not [line for line in ended_lines for trial in done.index if line.startswith(trial)]
    client = MlflowClient(f"sqlite:///{disturbed.database}")
    runs = client.search_runs([client.get_experiment_by_name("unit").experiment_id])
    assert len(runs) == 5  # the sweep's and its trials': resuming duplicates no run


def test_neither_the_secret_nor_rays_token_is_in_anything_that_it_leaves(disturbed: Disturbed) -> None:
    """The secret is a part of the database's path: that file exists, so the value was used."""
    assert disturbed.database.is_file()
    printed = disturbed.first_session + disturbed.second_session
    assert "mlflow ui --backend-store-uri sqlite:///${env:JEPA_TEST_PLACE}" in printed
    assert "its token is in the environment's RAY_AUTH_TOKEN" in printed
    files = {str(path): path.read_bytes() for path in disturbed.output.rglob("*") if path.is_file()}
    assert any(name.endswith("ray.log") for name in files)
    assert any(name.endswith("report.html") for name in files)
    for name, content in {**files, "printed": printed.encode()}.items():
        assert SECRET.encode() not in content, name
        assert TOKEN.encode() not in content, name
