"""A sweep as a job on several hosts, with its state in an object store. Hosts fail and join, the driver is killed."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from helpers import stores
from helpers.hosts import CHECKOUT, Host, Network, Process, eventually, unsupported_reason
from helpers.ray_cluster import RayCluster
from helpers.running import Running

from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.sweep.storage.records import TrialRecord
from jepa_ray.sweep.storage.study import StudyView

UNSUPPORTED = unsupported_reason()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(UNSUPPORTED is not None, reason=UNSUPPORTED or ""),
    pytest.mark.timeout(900),
]

SMOKE = CHECKOUT / "sweeps" / "smoke.yaml"
SMALL = ["base.data.two_rooms.trajectories=80", "early_stopping.scheduler=none", "early_stopping.max_epochs=3"]
IN_S3 = {
    **stores.ENVIRONMENT,
    "AWS_ENDPOINT_URL": "http://store:9000",
    "JEPA_RAY_STORAGE": "s3://jepa/runs",
    "OMP_NUM_THREADS": "1",
}
READ = """
import pathlib, sys
from jepa_ray.storage import Storage
pathlib.Path(sys.argv[2]).write_bytes(Storage("s3://jepa/runs").read(sys.argv[1]))
"""
BUCKET = "import urllib.request as r; r.urlopen(r.Request('http://store:9000/jepa', method='PUT'), timeout=5)"
MEASURED = ["samples_per_s", "epoch_s", "seconds", "mlflow_run_id"]  # columns that differ between runs


class Service:
    """A cluster, an object store, and a client that has the token."""

    def __init__(self, network: Network) -> None:
        self.network = network
        store = network.add("store")
        self._server = store.start(sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "9000", log="moto.log")
        self.cluster = RayCluster(network, IN_S3)
        self.cluster.add_worker("worker1", wait=False)
        self.cluster.add_worker("worker2", wait=False, calls_itself="127.0.1.1")  # as on Debian
        self.client = network.add("client")
        self.cluster.trust(self.client)
        self.client.run(sys.executable, "-c", BUCKET)
        self.cluster.wait_for("worker1", "worker2")

    def command(self, *arguments: str) -> Process:
        """Start a command of `jepa_ray.sweep` on the client, in the background."""
        command = [sys.executable, "-m", "jepa_ray.sweep", *arguments, "--address", self.cluster.url]
        return self.client.start(*command, log=f"{arguments[0]}.log".replace("/", "_"), env=self.cluster.env)

    def sweep(self, name: str, *sets: str) -> Process:
        return self.command(str(SMOKE), *given(f"name={name}", *SMALL, *sets))

    def left(self, name: str, file: str) -> Path:
        """A copy of a file that a sweep has written to the object store."""
        path = self.network.shared / f"{name}-{file}"
        self.client.run(sys.executable, "-c", READ, f"sweeps/{name}/{file}", str(path), env=self.cluster.env)
        return path

    def board(self, name: str) -> pd.DataFrame:
        return in_order(pd.read_csv(self.left(name, "leaderboard.csv")))

    def records(self, name: str) -> list[TrialRecord]:
        spec: SweepConfig = load_sweep_config(self.left(name, "spec.yaml"))
        return StudyView.open(spec, self.left(name, "optuna.db")).records()

    def kill_driver(self) -> None:
        """Send SIGKILL to the driver, which runs on the head."""
        killed = 0
        for process in self.cluster.head.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline()[1:4] == ["-m", "jepa_ray.sweep", "run"]:
                    process.kill()
                    killed += 1
        assert killed == 1


def given(*sets: str) -> list[str]:
    return [argument for value in sets for argument in ("--set", value)]


def in_order(board: pd.DataFrame) -> pd.DataFrame:
    return board.sort_values("trial_id").reset_index(drop=True)


def hosts_of(records: list[TrialRecord]) -> set[str | None]:
    return {epoch.hosts for record in records for epoch in record.trained_by}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Network(tmp_path_factory.mktemp("service") / "network") as network:
        yield Service(network)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The leaderboard of the same sweep on this machine alone."""
    output = tmp_path_factory.mktemp("local")
    Running("jepa_ray.sweep", str(SMOKE), "--output", str(output), *given(*SMALL)).finish()
    return in_order(pd.read_csv(output / "sweeps" / "smoke" / "leaderboard.csv"))


def test_a_job_has_the_results_of_a_local_run(service: Service, local: pd.DataFrame) -> None:
    job = service.sweep("smoke")
    assert job.wait(300) == 0, job.printed()
    assert "smoke: best 4 of 4 trials by val_rollout_mrr" in job.printed()
    board = service.board("smoke")
    assert board["status"].tolist() == ["COMPLETE"] * 4
    pd.testing.assert_frame_equal(board.drop(columns=MEASURED), local.drop(columns=MEASURED), rtol=1e-4)
    assert hosts_of(service.records("smoke")) == {"worker1", "worker2"}


def test_workers_on_different_hosts_train_one_trial(service: Service, local: pd.DataFrame) -> None:
    job = service.sweep("wide", "resources.workers_per_trial=2", "search.num_trials=1")
    assert job.wait(300) == 0, job.printed()
    board, records = service.board("wide"), service.records("wide")
    assert hosts_of(records) == {"worker1 worker2"}
    same = local[(local["training.ema_decay"] == 0.99) & (local["training.learning_rate"] == 1e-3)]
    assert board["objective"].tolist() == pytest.approx(same["objective"].tolist(), abs=0.02)


def done(job: Process) -> int:
    """The number of ended trials that the job has printed."""
    return max([0, *(int(count) for count in re.findall(r"\[(\d+)/12", job.printed()))])


def lose(service: Service, host: Host) -> None:
    """Disconnect a host while it trains, wait until the cluster declares it dead, and end its processes."""
    host.link_down()
    service.cluster.wait_for(host.name, state="DEAD")
    host.kill()


def test_every_trial_is_trained_once_although_hosts_are_lost_and_the_driver_is_killed(
    service: Service, local: pd.DataFrame
) -> None:
    job = service.sweep("rough", "search.num_trials=12", "space.model.latent_dim_state=[64,48,32]")
    eventually(lambda: done(job) >= 2 or not job.running, 200, "two trials are done")
    lose(service, service.network.hosts["worker1"])
    before = done(job)
    service.cluster.add_worker("worker3")
    eventually(lambda: done(job) >= before + 3 or not job.running, 200, "three more are done")
    assert job.running, job.printed()
    service.kill_driver()
    assert job.wait(60) == 1, job.printed()
    again = service.command("resume", "rough")
    assert again.wait(400) == 0, again.printed()
    board, records = service.board("rough"), service.records("rough")
    assert board["status"].tolist() == ["COMPLETE"] * 12
    assert board["epochs"].tolist() == [3] * 12
    assert len({tuple(record.params.values()) for record in records}) == 12  # each point of the grid once
    assert hosts_of(records) >= {"worker1", "worker2", "worker3"}
    alike = board[board["model.latent_dim_state"] == 64]
    assert sorted(alike["objective"]) == pytest.approx(sorted(local["objective"]), rel=1e-4)
