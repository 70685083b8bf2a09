"""A sweep as a job of a real Ray cluster with a token: it is submitted, followed again, stopped and resumed."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.hosts import eventually
from helpers.running import Running, read_leaderboard, write
from rich.console import Console

from jepa_ray.config import TrainConfig, load_sweep_config
from jepa_ray.sweep.remote import jobs
from jepa_ray.sweep.remote.dashboard import Dashboard

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cluster:
    """A head on loopback, and the file with its token."""

    address: str
    token_file: Path


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    temp = Path(tempfile.mkdtemp(prefix="jr", dir="/tmp"))  # short: paths of sockets have at most 107 characters
    token_file = temp / "token"
    token_file.write_text(secrets.token_hex(16))
    gcs, dashboard, agent, client = free_ports(4)
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    env = {name: value for name, value in env.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONPATH")}
    command = [*(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2")]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={temp / 'ray'}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={client}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # jobs run `python`
    with (temp / "head.log").open("w") as log:
        head = subprocess.Popen(
            command, env=env | {"PATH": path}, cwd=temp, stdout=log, stderr=log, start_new_session=True
        )
    try:
        eventually(lambda: answers(dashboard) or head.poll() is not None, 120, "the dashboard answers")
        assert head.poll() is None, (temp / "head.log").read_text()
        yield Cluster(f"http://127.0.0.1:{dashboard}", token_file)
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        head.wait()
        shutil.rmtree(temp, ignore_errors=True)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(autouse=True)
def _token(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token_file))


@pytest.fixture(scope="module")
def rooms_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that only the client has."""
    path = tmp_path_factory.mktemp("client") / "rooms.h5"
    sets = ["--set", "trajectories=40", "--set", "steps=12"]
    command = [sys.executable, "-m", "jepa_ray.data", "two-rooms", "--out", str(path), *sets]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return path


def spec(train_config: TrainConfig, data: Path, name: str = "unit") -> dict[str, Any]:
    base = train_config.to_dict()
    return {
        "name": name,
        "base": base | {"data": {"path": str(data), "cache_dir": base["data"]["cache_dir"]}},
        "space": {"training.learning_rate": [1e-4, 3e-4, 1e-3], "model.latent_dim_state": [16, 32]},
        "search": {"algorithm": "grid", "num_trials": 6},
        "early_stopping": {"enabled": False, "max_epochs": 4},
        "resources": {"max_concurrent": 1},
    }


def submitted(cluster: Cluster, path: Path, output: Path) -> Running:
    return Running("jepa_ray.sweep", str(path), "--address", cluster.address, "--output", str(output))


def the_log(cluster: Cluster, name: str = "unit") -> str:
    found = Dashboard(cluster.address)
    job = next(job for job in found.jobs() if job.metadata.get(jobs.SWEEP) == name)
    return found.log(job.id)


def test_a_sweep_is_followed_again_stopped_and_resumed(
    cluster: Cluster, train_config: TrainConfig, rooms_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shared"
    data = Path(shutil.copy(rooms_file, tmp_path))
    path = write(spec(train_config, data), tmp_path)

    # The client may disconnect, and its data may be deleted: the sweep goes on.
    mine = submitted(cluster, path, output)
    mine.wait_for(lambda: "submitted sweep" in mine.printed())
    data.unlink()
    mine.wait_for(lambda: "results in" in mine.printed())
    mine.interrupt()
    assert mine.wait(60) == 130
    assert "the sweep goes on as job unit-" in mine.printed()
    assert "--packed data/rooms.h5" in mine.printed()  # Ray writes the command into the log
    say = Console(file=io.StringIO(), width=250)
    jobs.status("unit", cluster.address, say)
    assert say.file.getvalue().splitlines()[1].split()[2] == "RUNNING"  # type: ignore[attr-defined]

    # The same command follows the running job, from any working directory.
    again = submitted(cluster, path, output)
    again.wait_for(lambda: "results in" in again.printed())
    assert "sweep unit is already running on this cluster" in again.printed()
    assert len([job for job in Dashboard(cluster.address).jobs() if job.active]) == 1
    # The follower's output is behind the log.
    eventually(lambda: "trial_00000  COMPLETE" in the_log(cluster), 180, "trial 0 is complete")

    # A stopped driver writes its results first, and the commands that follow it exit with the code of an interruption.
    jobs.stop("unit", cluster.address, say)
    assert "continues the sweep" in say.file.getvalue()  # type: ignore[attr-defined]
    assert again.wait(60) == 130
    assert "interrupted with" in again.printed()
    assert again.printed().count("results in") == 1
    assert 1 <= len(read_leaderboard(output)) < 6
    begun = read_leaderboard(output)["trial_id"].tolist()

    # Resuming needs only the name, and no file of the client.
    path.unlink()
    resumed = Running("jepa_ray.sweep", "resume", "unit", "--address", cluster.address)
    assert resumed.wait(240) == 0, resumed.printed()
    frame = read_leaderboard(output)
    assert frame["status"].tolist() == ["COMPLETE"] * 6
    assert frame["trial_id"].nunique() == 6
    assert set(begun) <= set(frame["trial_id"])
    assert "done in" in resumed.printed()
    assert (output / "sweeps/unit/report.html").is_file()
    assert cluster.token_file.read_text() not in mine.printed() + again.printed() + resumed.printed()

    # The log and the exit code of an ended job are available.
    looked = Running("jepa_ray.sweep", "logs", "unit", "--address", cluster.address)
    assert looked.wait(60) == 0
    assert looked.printed() == the_log(cluster).expandtabs()


def test_the_exit_code_of_a_driver_that_refuses_its_spec_is_returned(
    cluster: Cluster, train_config: TrainConfig, tmp_path: Path
) -> None:
    path = write(spec(train_config, Path("/not/here/but/there.h5"), "refused"), tmp_path)
    command = submitted(cluster, path, tmp_path / "shared")
    assert command.wait(120) == 2, command.printed()
    assert "error: /not/here/but/there.h5: cannot be read" in command.printed()


def test_a_stopped_driver_has_more_time_than_rays_three_seconds(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray reads the time limit from the environment of the job's supervisor, which includes the job's variables."""
    done = tmp_path / "done"
    slow = tmp_path / "slow.sh"
    slow.write_text(f"trap 'sleep 5; touch {done}; exit 0' TERM\necho ready\nwhile :; do sleep 0.1; done\n")
    bundle = tmp_path / "bundle.zip"
    bundle.write_bytes(b"PK\5\6" + bytes(18))  # an empty zip file
    found = Dashboard(cluster.address)
    found.submit("slow-1", f"exec bash {slow}", bundle, jobs.ENV, {jobs.SWEEP: "slow"})
    eventually(lambda: "ready" in found.log("slow-1"), 180, "the job is ready")
    jobs.stop("slow", cluster.address, Console(file=io.StringIO()))
    assert done.exists()
    assert found.job("slow-1").state == "STOPPED"


def test_a_client_without_the_token_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for environment, message in (
        ({"RAY_AUTH_TOKEN_PATH": ""}, "asks for a token (401)"),
        ({"RAY_AUTH_TOKEN": "0" * 32}, "refuses the token in RAY_AUTH_TOKEN (403)"),
    ):
        command = [sys.executable, "-m", "jepa_ray.sweep", "status", "--address", cluster.address]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_job_runs_the_code_of_the_client(
    cluster: Cluster, train_config: TrainConfig, rooms_file: Path, tmp_path: Path
) -> None:
    """Not the code of the package that is installed on the cluster."""
    config = load_sweep_config(write(spec(train_config, rooms_file, "mine"), tmp_path))
    bundle = tmp_path / "bundle.zip"
    jobs.pack(bundle, config)
    found = Dashboard(cluster.address)
    look = (
        "import jepa_ray, os; print('HERE', os.path.dirname(jepa_ray.__path__[0]) == os.getcwd(), sorted(os.listdir()))"
    )
    found.submit("mine-1", f'exec python -c "{look}"', bundle, jobs.ENV, {})
    eventually(lambda: not found.job("mine-1").active, 180, "the job has ended")
    assert "HERE True ['data', 'jepa_ray', 'spec.yaml']" in found.log("mine-1")
