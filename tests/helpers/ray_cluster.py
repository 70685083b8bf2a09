"""A real Ray cluster on the hosts of a `Network`, started by `ray start` with token authentication."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from helpers.hosts import CHECKOUT, Host, Network, Process, eventually

RAY = str(Path(sys.executable).with_name("ray"))
EVERYWHERE = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(CHECKOUT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # jobs run `python`
}
# With 4 checks of 2 s, 0.5 s apart, a disconnected host is declared dead after 10 s instead of a minute.
ON_HEAD = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
SMALL = ["--object-store-memory", str(80 * 2**20), "--include-log-monitor", "false", "--disable-usage-stats"]
FETCH = """
import pathlib, sys, urllib.error, urllib.request
token = pathlib.Path.home() / ".ray" / "auth_token"
headers = {"Authorization": f"Bearer {token.read_text()}"} if token.exists() else {}
try:
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers), timeout=10) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""


class RayCluster:
    """A head and workers, with one `ray start --block` per host."""

    address, url = "head:6379", "http://head:8265"

    def __init__(self, network: Network, env: Mapping[str, str] | None = None) -> None:
        """`env`: further environment variables of all processes."""
        self.network, self._token = network, secrets.token_hex(16)
        self.env = EVERYWHERE | dict(env or {})
        self.daemons: dict[str, Process] = {}
        self._starters: dict[str, Callable[[], Process]] = {}
        self.restarts = 0
        self.head = network.add("head")
        self.trust(self.head)
        command = ["--head", "--num-cpus", "0", "--port", "6379", "--no-monitor"]
        dashboard = ["--dashboard-host", "0.0.0.0", "--dashboard-port", "8265"]
        self._start(self.head, [*command, *dashboard], ON_HEAD)
        self.wait_for("head")

    def trust(self, host: Host) -> None:
        """Write the cluster's token to the file on the host in which Ray looks for it."""
        file = host.home / ".ray" / "auth_token"
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(self._token)

    def add_worker(self, name: str, cpus: int = 1, *, wait: bool = True, calls_itself: str | None = None) -> Host:
        """Add a host that joins the cluster."""
        host = self.network.add(name, calls_itself=calls_itself)
        self.trust(host)
        self._start(host, ["--address", self.address, "--num-cpus", str(cpus)])
        if wait:
            self.wait_for(name)
        return host

    def _start(self, host: Host, arguments: list[str], env: dict[str, str] | None = None) -> None:
        command = [RAY, "start", "--block", *SMALL, *arguments]

        def start() -> Process:
            return host.start(*command, log="ray.log", env=self.env | (env or {}))

        self._starters[host.name] = start
        self.daemons[host.name] = start()

    def wait_for(self, *names: str, state: str = "ALIVE", seconds: float = 120) -> None:
        """Wait until the head reports `state` for all these hosts."""

        def reached() -> bool:
            now = self.nodes()
            if all(now.get(self.network.hosts[name].address) == state for name in names):
                return True
            if state == "ALIVE":
                self._restart_ended(names)
            return False

        eventually(reached, seconds, f"{', '.join(names)}: {state}")

    def _restart_ended(self, names: Sequence[str]) -> None:
        """Restart nodes that ended, as a container's restart policy does.

        On a busy machine `ray start` gives up after 30 s, a limit that cannot be configured.
        """
        for name in names:
            if not self.daemons[name].running:
                self.restarts += 1
                assert self.restarts <= 3, f"ray start on {name} ended again: {self.daemons[name].printed()}"
                for process in self.network.hosts[name].processes():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                self.daemons[name] = self._starters[name]()

    def nodes(self) -> dict[str, str]:
        """State of every node that the head knows, by address; empty if the head does not answer."""
        status, body = self.fetch(self.head, "/api/v0/nodes?detail=false")
        if status != 200:
            return {}
        return {node["node_ip"]: node["state"] for node in json.loads(body)["data"]["result"]["result"]}

    def fetch(self, host: Host, path: str) -> tuple[int, str]:
        """The dashboard's answer to a request from a host: status and body; 0 and the error without an answer."""
        status, _, body = host.run(sys.executable, "-c", FETCH, self.url + path).partition(" ")
        return int(status), body

    def python(self, host: Host, code: str, *arguments: str, timeout: float = 120, expect: int = 0) -> str:
        """Run a Python script on a host with Ray's address in RAY_ADDRESS, as a user with the token would."""
        env = self.env | {"RAY_ADDRESS": self.address}
        return host.run(sys.executable, "-c", code, *arguments, env=env, timeout=timeout, code=expect)
