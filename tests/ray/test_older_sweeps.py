"""Sweeps that an older version wrote are shown, reported, compared and resumed by this one.

`fixtures/sweeps_0_1_0.zip` is an output root that the first 0.1.0 wrote: sweep `old` is finished, sweep `unfinished`
was killed while it trained. OUTPUT stands for the path of that root.
"""

from __future__ import annotations

import sqlite3
import zipfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.running import Running, read_leaderboard
from mlflow import MlflowClient

import jepa_ray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
ARCHIVE = Path(__file__).parents[1] / "fixtures" / "sweeps_0_1_0.zip"
OLD_NUMBERS = [0, 1, 2, 4, 6, 8, 10]  # that version left gaps where a suggestion was a duplicate


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("older") / "out"
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(root)
    with sqlite3.connect(root / "mlflow.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in database.execute(f"PRAGMA table_info({table})")]:
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, 'OUTPUT', ?) WHERE typeof({column}) = 'text'",
                    (str(root),),
                )
    database.close()
    for described in root.rglob("MLmodel"):
        described.write_text(described.read_text().replace("OUTPUT", str(root)))
    return root


def sweep(output: Path, name: str) -> str:
    """What the sweep command prints for the spec that the older version left in the sweep's folder."""
    spec = output / "sweeps" / name / "spec.yaml"
    return Running("jepa_ray.sweep", str(spec), "--output", str(output)).finish()


def test_a_finished_sweep_is_shown_as_it_was(output: Path) -> None:
    folder = output / "sweeps" / "old"
    before = {name: (folder / name).read_bytes() for name in ("leaderboard.csv", "optuna.db")}
    printed = sweep(output, "old")
    assert "is finished" in printed
    assert "0.2143" in printed
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_killed_sweep_is_resumed(output: Path) -> None:
    """Its trials keep their numbers and results; new ones continue after the largest number, without gaps."""
    with sqlite3.connect(f"file:{output / 'sweeps/unfinished/optuna.db'}?mode=ro", uri=True) as database:
        query = "SELECT number, step, intermediate_value FROM trial_intermediate_values JOIN trials USING (trial_id)"
        recorded = set(database.execute(query))
        waiting = {number for (number,) in database.execute("SELECT number FROM trials WHERE state = 'RUNNING'")}
    assert waiting == {4}
    sweep(output, "unfinished")
    frame = read_leaderboard(output, "unfinished")
    numbers = sorted(int(name.removeprefix("trial_")) for name in frame["trial_id"])
    assert numbers == [0, 1, 2, 4, 5, 6, 7]
    with sqlite3.connect(f"file:{output / 'sweeps/unfinished/optuna.db'}?mode=ro", uri=True) as database:
        assert recorded < set(database.execute(query))
    assert not frame["status"].isin(["RUNNING", "FAILED"]).any()
    assert (output / "sweeps/unfinished/best_jepa_model.pt").exists()

    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("unfinished").experiment_id])
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert {run.info.run_id for run in trials} == set(frame["mlflow_run_id"])
    assert sorted(run.data.tags["trial_id"] for run in trials) == sorted(frame["trial_id"])
    assert all(run.info.status == "FINISHED" for run in runs)


def test_its_registered_model_is_loaded(output: Path) -> None:
    """By the copy of the older code that was registered with it."""
    mlflow.set_tracking_uri(f"sqlite:///{output / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/old@best").get_raw_model()
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    ours = jepa_ray.load(output / "sweeps/old/best_jepa_model.pt")
    torch.testing.assert_close(torch.as_tensor(model.encode(pixels)), torch.as_tensor(ours.encode(pixels)))


def test_a_report_and_a_comparison_are_written(output: Path) -> None:
    old, unfinished = output / "sweeps" / "old", output / "sweeps" / "unfinished"
    Running("jepa_ray.report", str(old)).finish()
    page = (old / "report.html").read_text()
    assert all(f"trial_{number:05d}" in page for number in OLD_NUMBERS)
    page = output / "compare.html"
    Running("jepa_ray.report", "--compare", str(old), str(unfinished), "--out", str(page)).finish()
    assert "unfinished" in page.read_text()
    assert pd.read_csv(old / "leaderboard.csv")["objective"].max() == pytest.approx(0.2143, abs=1e-4)
