"""A sweep whose processes are killed at random moments: the same command continues it, and the result is the same.

JEPA_RAY_CHAOS=10 kills ten times instead of twice, kills a node of a cluster, and fills a disk.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from helpers.reference_sweep import MEASURED, UNTRAINED, Swept
from helpers.running import Running, epochs_recorded, read_leaderboard, run, start, write
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from tracking_server import Server

from jepa_ray.config import METRICS

KILLS = int(os.environ.get("JEPA_RAY_CHAOS", "2"))
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600 + 120 * KILLS)]

long = pytest.mark.skipif("JEPA_RAY_CHAOS" not in os.environ, reason="minutes: with JEPA_RAY_CHAOS=10")
# Processes to kill, by a part of their command line; the sweep itself and its server are known by their ids.
VICTIMS = {"group": "ray::SweepTrial", "worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}


@pytest.fixture
def spec(reference: dict[str, Any]) -> dict[str, Any]:
    """Two trials for every kill: the reference sweep, with more learning rates where there are more kills."""
    rates = [*(round(4e-3 * 1.2**i, 6) for i in range(KILLS - 1)), UNTRAINED]
    return reference | {
        "space": reference["space"] | {"training.learning_rate": rates},
        "search": reference["search"] | {"num_trials": 2 * KILLS},
        "resources": {"max_failures": KILLS},  # all of them may hit the same trial
    }


@pytest.fixture
def undisturbed(spec: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest) -> pd.DataFrame:
    """The leaderboard of the same sweep without kills."""
    if KILLS == 2:
        swept: Swept = request.getfixturevalue("swept")
        assert (swept.spec["space"], swept.spec["search"]) == (spec["space"], spec["search"])
        return swept.board()
    run(write({**spec, "resources": {"max_concurrent": 1}}, tmp_path), tmp_path / "calm")
    return read_leaderboard(tmp_path / "calm").drop(columns=MEASURED)


def test_random_kills_change_nothing(spec: dict[str, Any], undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        spec["tracking"] = {"uri": server.uri}
        kills = stormy(write(spec, tmp_path), tmp_path / "storm", server, random.Random(KILLS))
        storm = read_leaderboard(tmp_path / "storm")
        pd.testing.assert_frame_equal(storm.drop(columns=MEASURED), undisturbed, check_exact=True)
        runs = MlflowClient(server.uri).search_runs(["1"])
        check_tracked(MlflowClient(server.uri), runs, storm.set_index("mlflow_run_id")["epochs"].to_dict())
    finally:
        server.kill()
    assert len(kills) == KILLS


@pytest.fixture
def steady(spec: dict[str, Any]) -> dict[str, Any]:
    """Trials that all train three epochs, at chance or not."""
    spec["base"]["training"]["collapse_epochs"] = None
    spec["evaluation"] = {}
    spec["search"] = {"algorithm": "grid", "num_trials": 6}
    return spec


@long
def test_a_node_that_dies_costs_no_trial(steady: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL ends another node's raylet and the group there; no node replaces it."""
    path, output = write(steady, tmp_path), tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    try:
        sweep = Running("jepa_ray.sweep", str(path), "--output", str(output), "--address", cluster.address)
        sweep.wait_for(lambda: epochs_recorded(output) >= 2)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        assert any("RayTrainWorker" in " ".join(p.cmdline()) for p in raylet.children(recursive=True))
        raylet.kill()
        sweep.finish()
        frame = read_leaderboard(output)
        assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(6)]
        assert (frame["status"].tolist(), frame["epochs"].tolist()) == (["COMPLETE"] * 6, [3] * 6)
    finally:
        cluster.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # MLflow, in this process, may still have its file open


@long
def test_a_full_disk_ends_the_sweep_and_the_same_command_continues(
    steady: dict[str, Any], tmp_path: Path, small_disk: Path
) -> None:
    steady["search"]["num_trials"] = 4
    path = write(steady, tmp_path)
    sweep = start(path, small_disk)
    sweep.wait_for(lambda: epochs_recorded(small_disk) >= 2)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    printed = sweep.finish(code=1)
    assert "the same command continues" in printed
    assert "Traceback" not in printed
    filler.unlink()
    run(path, small_disk)
    frame = read_leaderboard(small_disk)
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    assert (frame["status"].tolist(), frame["epochs"].tolist()) == (["COMPLETE"] * 4, [3] * 4)
    runs = MlflowClient(f"sqlite:///{small_disk / 'mlflow.db'}").search_runs(["1"])
    assert len(runs) == 5  # the sweep's and its trials'


def stormy(spec: Path, output: Path, server: Server, rng: random.Random) -> list[str]:
    """Run the sweep to its end, starting it again after each kill that ends it. Returns the kills, in order."""
    kills: list[str] = []
    sweep, dead = start(spec, output), []
    while len(kills) < KILLS:
        wait_for_an_epoch(sweep, output)
        time.sleep(rng.uniform(0, 2))
        assert sweep.process.poll() is None, f"the sweep ended after {kills}: {sweep.printed()}"
        kills.append(hit(sweep, server, rng))
        if "sweep" in kills[-1]:
            sweep.wait(60)
            dead.append(sweep)
            sweep = start(spec, output)  # at once, while processes of the dead session may still run
    sweep.finish()
    for each in dead:
        gone(each)
    return kills


def wait_for_an_epoch(sweep: Running, output: Path) -> None:
    known = epochs_recorded(output)
    sweep.wait_for(lambda: epochs_recorded(output) > known)


def hit(sweep: Running, server: Server, rng: random.Random) -> str:
    """Kill a random process, and start again what a supervisor would. Returns which one it was."""
    choice = rng.choice(["sweep", "sweep, with notice", "server", *VICTIMS])
    if choice == "sweep":
        sweep.kill(sweep.process.pid)
    elif choice == "sweep, with notice":
        sweep.kill(sweep.process.pid, signal.SIGTERM)
        assert sweep.wait(30) in (130, 0), sweep.printed()  # the notice that preemption gives
    elif choice == "server":
        server.kill()
        server.start()
    elif found := sweep.named(VICTIMS[choice]):
        sweep.kill(rng.choice(found).pid)
    return choice


def gone(sweep: Running) -> None:
    """Assert that no process of a dead sweep is left."""
    _, alive = psutil.wait_procs(sweep.family, timeout=180)
    assert [" ".join(p.cmdline()) for p in alive] == []


def check_tracked(client: MlflowClient, runs: list[Any], epochs: dict[str, int]) -> None:
    """One parent and one run a trial, each with every epoch of every metric. `epochs`: by the trial's run."""
    assert {r.info.run_id for r in runs if "mlflow.parentRunId" in r.data.tags} == epochs.keys()
    assert len(runs) == len(epochs) + 1
    for run_id, count in epochs.items():
        for metric in METRICS:
            steps = {m.step for m in client.get_metric_history(run_id, metric)}
            assert steps == set(range(1, count + 1)), metric
        assert client.get_run(run_id).info.status == "FINISHED"
