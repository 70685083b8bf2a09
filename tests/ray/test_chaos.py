"""A sweep whose processes are killed at random moments: the same command continues, and the result is the same.

JEPA_RAY_CHAOS=10 kills ten times instead of twice, and a node of a cluster; and fills a disk.
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
from helpers.running import Running, board, epochs_recorded, run, start, write
from mlflow import MlflowClient
from ray.cluster_utils import Cluster
from tracking_server import Server

from jepa_ray.config import METRICS, TrainConfig

KILLS = int(os.environ.get("JEPA_RAY_CHAOS", "2"))
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600 + 120 * KILLS)]

long = pytest.mark.skipif("JEPA_RAY_CHAOS" not in os.environ, reason="minutes: with JEPA_RAY_CHAOS=10")
TIMES = ["seconds", "samples_per_s", "epoch_s", "mlflow_run_id"]
# What is killed, by how its command line begins or reads; the sweep itself and its server are known by their ids.
VICTIMS = {"group": "ray::SweepTrial", "worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}


@pytest.fixture
def spec(train_config: TrainConfig) -> dict[str, Any]:
    """Two trials of three epochs for every kill, long enough to be hit in the middle."""
    rates = [round(1e-4 * 1.2**i, 6) for i in range(KILLS)]
    base = train_config.with_overrides({"data.two_rooms.trajectories": 200}).to_dict()
    return {
        "name": "unit",
        "base": base,
        "space": {"training.learning_rate": rates, "model.latent_dim_state": [16, 32]},
        "search": {"algorithm": "grid", "num_trials": 2 * KILLS},
        "early_stopping": {"enabled": False, "max_epochs": 3},
        "resources": {"max_failures": KILLS},  # as many as may hit the same trial
    }


def test_random_kills_change_nothing(spec: dict[str, Any], tmp_path: Path) -> None:
    run(write({**spec, "resources": {"max_concurrent": 1}}, tmp_path), tmp_path / "calm")
    server = Server(tmp_path)
    try:
        spec["tracking"] = {"uri": server.uri}
        seen = stormy(write(spec, tmp_path), tmp_path / "storm", server, random.Random(KILLS))
        calm, storm = (board(tmp_path / side).drop(columns=TIMES) for side in ("calm", "storm"))
        pd.testing.assert_frame_equal(calm, storm, check_exact=True)
        runs = MlflowClient(server.uri).search_runs(["1"])
        check_tracked(MlflowClient(server.uri), runs, set(board(tmp_path / "storm")["mlflow_run_id"]))
    finally:
        server.kill()
    assert len(seen) == KILLS


@long
def test_a_node_that_dies_costs_no_trial(spec: dict[str, Any], tmp_path: Path) -> None:
    """kill -9 of another node's raylet, and with it of the group there; no node takes its place."""
    spec["search"]["num_trials"] = 6
    path, output = write(spec, tmp_path), tmp_path / "out"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    try:
        sweep = Running("jepa_ray.sweep", str(path), "--output", str(output), "--address", cluster.address)
        sweep.wait_for(lambda: epochs_recorded(output) >= 2)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        assert any("RayTrainWorker" in " ".join(p.cmdline()) for p in raylet.children(recursive=True))
        raylet.kill()
        sweep.finish()
        frame = board(output)
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
    spec: dict[str, Any], tmp_path: Path, small_disk: Path
) -> None:
    spec["search"]["num_trials"] = 4
    path = write(spec, tmp_path)
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
    frame = board(small_disk)
    assert sorted(frame["trial_id"]) == [f"trial_{i:05d}" for i in range(4)]
    assert (frame["status"].tolist(), frame["epochs"].tolist()) == (["COMPLETE"] * 4, [3] * 4)
    runs = MlflowClient(f"sqlite:///{small_disk / 'mlflow.db'}").search_runs(["1"])
    assert len(runs) == 5  # the sweep's and its trials'


def stormy(spec: Path, output: Path, server: Server, rng: random.Random) -> list[str]:
    """Run the sweep to its end, started again whenever it ends before; the kills, in order."""
    seen: list[str] = []
    sweep, dead = start(spec, output), []
    while len(seen) < KILLS:
        wait_for_an_epoch(sweep, output)
        time.sleep(rng.uniform(0, 2))
        assert sweep.process.poll() is None, f"it ended before it was killed enough: {seen} {sweep.printed()}"
        seen.append(strike(sweep, server, rng))
        if "sweep" in seen[-1]:
            sweep.wait(60)
            dead.append(sweep)
            sweep = start(spec, output)  # at once, as an impatient user does: what Ray left takes a minute to go
    sweep.finish()
    for each in dead:
        gone(each)
    return seen


def wait_for_an_epoch(sweep: Running, output: Path) -> None:
    known = epochs_recorded(output)
    sweep.wait_for(lambda: epochs_recorded(output) > known)


def strike(sweep: Running, server: Server, rng: random.Random) -> str:
    """Kill something, and bring back what a supervisor would; says what it was."""
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
    """No process of a dead sweep stays."""
    _, alive = psutil.wait_procs(sweep.family, timeout=180)
    assert [" ".join(p.cmdline()) for p in alive] == []


def check_tracked(client: MlflowClient, runs: list[Any], trials: set[str]) -> None:
    """One parent and one run a trial, each with every epoch of every metric."""
    assert {r.info.run_id for r in runs if "mlflow.parentRunId" in r.data.tags} == trials
    assert len(runs) == len(trials) + 1
    for run_id in trials:
        for metric in METRICS:
            assert {m.step for m in client.get_metric_history(run_id, metric)} == {1, 2, 3}, metric
        assert client.get_run(run_id).info.status == "FINISHED"
