"""The services of docker/compose.yaml as processes on this machine, with its commands and its order, on free ports."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from helpers import compose_file
from helpers.compose_file import DOCKER

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")) or [Path(shutil.which("postgres") or "-")]
HERE = "127.0.0.1"
STARTS = 3  # like `restart: unless-stopped`: Ray gives up if its agents take more than 15 s to start on a busy machine


class Services:
    """The services, started by `up` and ended by `down`, except Prometheus and Grafana, whose programs are missing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, _free_ports()
        shutil.copy(DOCKER / "init.sh", folder)
        shutil.copy(DOCKER / ".env.example", folder)
        subprocess.run(["sh", "init.sh"], cwd=folder, check=True, capture_output=True)
        self.secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
        allowed = f"mlflow:5000,{HERE}:{self.ports['mlflow']}"
        compose = compose_file.load({"WORKER_CPUS": "1", "MLFLOW_ALLOWED_HOSTS": allowed})
        self.services: dict[str, Any] = compose["services"]
        self.order = [name for name in compose_file.start_order(self.services) if name not in ("prometheus", "grafana")]
        self.running: dict[str, subprocess.Popen[bytes]] = {}  # the latest of each
        self._started: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        """Start each service after the services that it depends on are healthy."""
        for name in self.order:
            getattr(self, f"_start_{name.replace('-', '_')}")(self.services[name])

    def down(self) -> None:
        """End all processes that were started, and their children."""
        family = []
        for process in self._started:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        for process in self._started:
            process.wait()

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The service's environment, with the paths of secrets and the addresses of services on this machine."""
        given = {name: self._here(str(value)) for name, value in service.get("environment", {}).items()}
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return {**kept, "HOME": str(self.folder), "OMP_NUM_THREADS": "1", **given}

    def _here(self, text: str) -> str:
        for name, there in {"s3": 8333, "postgres": 5432, "mlflow": 5000, "ray-head": 6379}.items():
            text = text.replace(f"{name}:{there}", f"{HERE}:{self.ports[name]}")
        return text.replace("/run/secrets", str(self.folder / "secrets")).replace("/tmp/mlflow", f"{self.folder}/state")

    def _start_postgres(self, service: dict[str, Any]) -> None:
        env, binaries, data = self.environment(service), POSTGRES[-1].parent, self.temp / "postgres"
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        data.mkdir(parents=True)
        password = self.temp / "password"  # a copy that PostgreSQL's user can read
        shutil.copy(env["POSTGRES_PASSWORD_FILE"], password)
        for path in (data, password) if user else ():
            shutil.chown(path, "postgres")
        arguments = ["-U", env["POSTGRES_USER"], "--pwfile", password, "--no-sync"]
        initdb = [binaries / "initdb", "-D", data, *arguments, *env["POSTGRES_INITDB_ARGS"].split()]
        with (self.folder / "initdb.log").open("wb") as log:
            subprocess.run([*user, *initdb], cwd="/", check=True, stdout=log, stderr=log)
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={data}", "fsync=off")
        options = [option for setting in settings for option in ("-c", setting)]
        port = str(self.ports["postgres"])
        self._start("postgres", [*user, str(binaries / "postgres"), "-D", str(data), "-p", port, *options], {}, cwd="/")
        wait_until(self._connects("postgres"), 60, "postgres")
        made = {"PGPASSWORD": self.secrets["postgres_password"]}
        command = [binaries / "createdb", "-h", HERE, "-p", port, "-U", env["POSTGRES_USER"], env["POSTGRES_DB"]]
        wait_until(lambda: not subprocess.run(command, env=made, capture_output=True, check=False).returncode, 60, "db")

    def _start_s3(self, service: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", HERE, "-p", str(self.ports["s3"])]
        self._start("s3", command, {name: os.environ[name] for name in ("PATH",)})
        wait_until(self._connects("s3"), 60, "the store")

    def _start_bucket(self, service: dict[str, Any]) -> None:
        subprocess.run(self._serve(service), env=self.environment(service), check=True, capture_output=True)

    def _start_mlflow(self, service: dict[str, Any]) -> None:
        command = [*self._serve(service, {"--port=5000": f"--port={self.ports['mlflow']}"}), "--workers=1"]
        self._start_healthy("mlflow", command, service, {5000: ("mlflow", 0)})

    def _start_ray_head(self, service: dict[str, Any]) -> None:
        mapped = {
            "--port=6379": f"--port={self.ports['ray-head']}",
            "--dashboard-port=8265": f"--dashboard-port={self.ports['dashboard']}",
        }
        command = [*self._serve(service, mapped), f"--client-port={self.ports['client']}", *self._node("head")]
        self._start_healthy("head", command, service, {8265: ("dashboard", 0)})

    def _start_ray_worker(self, service: dict[str, Any]) -> None:
        command = [*self._serve(service), *self._node("worker")]
        self._start_healthy("worker", command, service, {6384: ("worker-node", 4)})

    def _node(self, name: str) -> list[str]:
        first = self.ports[f"{name}-workers"]
        return [
            f"--node-ports={self.ports[f'{name}-node']}",
            f"--metrics-port={self.ports[f'{name}-metrics']}",
            f"--worker-ports={first}-{first + 30}",
            f"--temp-dir={self.temp / 'ray'}",
            "--object-store-memory=100000000",
        ]

    @property
    def temp(self) -> Path:
        """Folder of Ray's and PostgreSQL's files; a short path, since paths of sockets have at most 107 characters."""
        return Path("/tmp") / f"jepa-{os.getpid()}-{self.ports['dashboard']}"

    def _serve(self, service: Mapping[str, Any], mapped: Mapping[str, str] | None = None) -> list[str]:
        serve, *arguments = service["command"]
        assert serve == "serve"
        assert set(mapped or ()) <= set(arguments), arguments
        changed = [self._here((mapped or {}).get(argument, argument)) for argument in arguments]
        return [sys.executable, "-m", "jepa_ray.serve", *changed]

    def _start(
        self, name: str, command: list[str], env: Mapping[str, str], cwd: str | Path | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=env, cwd=cwd or self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(process)
        self.running[name] = process
        return process

    def _start_healthy(
        self, name: str, command: list[str], service: Mapping[str, Any], ports: Mapping[int, tuple[str, int]]
    ) -> None:
        """Start a service, and return when compose's own health check, with the ports changed, succeeds."""
        kind, python, option, code = service["healthcheck"]["test"]
        assert (kind, python, option) == ("CMD", "python", "-c")
        for there, (port, offset) in ports.items():
            assert f":{there}/" in code
            code = code.replace(f":{there}/", f":{self.ports[port] + offset}/")

        def check() -> bool:
            return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

        for _ in range(STARTS):
            process = self._start(name, command, self.environment(service))
            wait_until(lambda process=process: check() or process.poll() is not None, 240, name, every=1)
            if process.poll() is None:
                return
        raise AssertionError(f"{name} ended: {self.log(name)[-3000:]}")

    def log(self, name: str) -> str:
        """The output of a service."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _connects(self, name: str) -> Any:
        def connects() -> bool:
            with contextlib.suppress(OSError), socket.create_connection((HERE, self.ports[name]), timeout=1):
                return True
            return False

        return connects


def wait_until(condition: Any, seconds: float, what: str, every: float = 0.3) -> None:
    """Wait until `condition` holds. Raises `AssertionError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} took more than {seconds:g} s"
        time.sleep(every)


def _free_ports() -> dict[str, int]:
    """The first of the free, consecutive ports that each name needs."""
    needed = {
        "postgres": 1, "s3": 1, "mlflow": 1, "ray-head": 1, "dashboard": 1, "client": 1, "head-metrics": 1,
        "worker-metrics": 1, "head-node": 5, "worker-node": 5, "head-workers": 31, "worker-workers": 31,
    }  # fmt: skip
    first = 21100 + os.getpid() % 50 * 90
    while not all(_free(first + offset) for offset in range(sum(needed.values()))):
        first += 90
    found = {}
    for name, count in needed.items():
        found[name], first = first, first + count
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
