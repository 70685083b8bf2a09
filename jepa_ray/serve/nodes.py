"""Command lines of Ray's head and workers (`ray start --block`), and the token that protects them.

Anyone who can reach a head without authentication can submit a job, that is, run any command as the user that runs
Ray; attackers search for such clusters. A head can always be reached: only its dashboard can be bound to loopback,
while its other ports listen on every interface even with `--node-ip-address=127.0.0.1`. Therefore no node is started
without a token.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jepa_ray.errors import ConfigError
from jepa_ray.machine import is_loopback
from jepa_ray.secrets import default_ray_token_path, find_ray_token
from jepa_ray.serve.program import Program, split_address, wait_for

MIN_TOKEN = 32  # characters; Ray's own tokens are 64 hexadecimal digits
REMEDY = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with at least"
    f" {MIN_TOKEN} random characters (openssl rand -hex 32)"
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Ports:
    """The ports of one node. All are fixed, so that firewall rules can name them.

    The node manager, object manager, runtime environments, agent (gRPC) and agent (HTTP) use `first` and the four
    ports after it.
    """

    first: int = 6380
    metrics: int = 8080
    workers: str = "10002-19999"

    def options(self) -> list[str]:
        """The options of `ray start`. Raises `ConfigError` if `workers` is not a valid range of ports."""
        low, _, high = self.workers.partition("-")
        if not (low.isdecimal() and high.isdecimal() and 1024 <= int(low) < int(high) <= 65535):
            raise ConfigError(
                f"--worker-ports {self.workers!r}: must be LOW-HIGH with 1024 <= LOW < HIGH <= 65535, for example"
                f" {Ports.workers}"
            )
        services = ("node-manager", "object-manager", "runtime-env-agent", "dashboard-agent-grpc")
        named = [f"--{name}-port={self.first + offset}" for offset, name in enumerate(services)]
        return [
            *named,
            f"--dashboard-agent-listen-port={self.first + len(services)}",
            f"--metrics-export-port={self.metrics}",
            f"--min-worker-port={low}",
            f"--max-worker-port={high}",
        ]


@dataclass(frozen=True)
class NodeResources:
    """The resources that a node offers. None: Ray detects the amount."""

    cpus: int | None = None
    gpus: int | None = None
    custom: str = "{}"  # JSON, {"name": amount}
    object_store: int | None = None  # bytes
    temp: Path | None = None  # folder of Ray's logs and sockets; None: /tmp/ray

    def options(self) -> list[str]:
        """The options of `ray start`. Raises `ConfigError` unless `custom` is a JSON object of numbers."""
        try:
            amounts = json.loads(self.custom)
        except ValueError:
            amounts = None
        if not isinstance(amounts, dict) or not all(isinstance(amount, int | float) for amount in amounts.values()):
            raise ConfigError(f'--resources {self.custom!r} must be a JSON object of numbers, like {{"fast_disk": 1}}')
        given = {
            "num-cpus": self.cpus,
            "num-gpus": self.gpus,
            "resources": self.custom if amounts else None,
            "object-store-memory": self.object_store,
            "temp-dir": self.temp,
        }
        return [f"--{name}={value}" for name, value in given.items() if value is not None]


@dataclass(frozen=True)
class BindAddresses:
    """The addresses and ports on which a head listens."""

    host: str  # of the dashboard and the Jobs API
    dashboard_port: int
    node_ip: str | None  # that nodes and drivers connect to; None: Ray detects the node's interface
    port: int  # that nodes and drivers connect to
    client_port: int  # of Ray Client, which is unused here but cannot be disabled


def head_program(addresses: BindAddresses, ports: Ports, resources: NodeResources, env: Mapping[str, str]) -> Program:
    """The command line of a head. Raises `ConfigError` unless a token protects it.

    If the dashboard is on loopback and there is no token, a new one is written to Ray's default file.
    """
    if is_loopback(addresses.host) and authentication_mode(env) == "token" and find_ray_token(env) is None:
        make_token(default_ray_token_path(env))
    _require_token(env, f"--host {addresses.host}")
    options = [
        "--head",
        f"--port={addresses.port}",
        f"--dashboard-host={addresses.host}",
        f"--dashboard-port={addresses.dashboard_port}",
        "--include-dashboard=true",
        f"--ray-client-server-port={addresses.client_port}",
    ]
    return _start([*options, *_address(addresses.node_ip), *ports.options(), *resources.options()], env)


def worker_program(
    address: str, node_ip: str | None, ports: Ports, resources: NodeResources, env: Mapping[str, str], wait_s: float
) -> Program:
    """The command line of a worker node, returned as soon as the head at `address` listens.

    Raises `ConfigError` if there is no token, `JepaRayError` if the head does not listen within `wait_s` seconds.
    """
    split_address(address)
    _require_token(env, f"joining {address}")
    program = _start([f"--address={address}", *_address(node_ip), *ports.options(), *resources.options()], env)
    wait_for(address, wait_s, "Ray head")
    return program


def _start(options: list[str], env: Mapping[str, str]) -> Program:
    """`ray start` with these options, in the foreground."""
    # The script `ray` is not used: it may be missing from PATH, or belong to another installation.
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    path = os.pathsep.join([str(Path(sys.executable).parent), *filter(None, [env.get("PATH")])])  # jobs run `python`
    return Program([*start, *options], {**env, **QUIET, "PATH": path, "RAY_AUTH_MODE": authentication_mode(env)})


def _address(node_ip: str | None) -> list[str]:
    return [] if node_ip is None else [f"--node-ip-address={node_ip}"]


def authentication_mode(env: Mapping[str, str]) -> str:
    """Ray's authentication mode: RAY_AUTH_MODE in lower case, `token` if it is not set."""
    return env.get("RAY_AUTH_MODE", "").lower() or "token"


def make_token(path: Path) -> None:
    """Write a new token to a file that only its owner can read, and print the path, never the token.

    An empty file is replaced. Raises `FileExistsError` for any other file, which may hold the token of a cluster.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_file() and not path.read_bytes().strip():
        path.unlink()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    print(f"made a token for this cluster: {path}", flush=True)


def _require_token(env: Mapping[str, str], purpose: str) -> None:
    """Raise `ConfigError` unless Ray will ask for a token that cannot be guessed."""
    why = "anyone who can reach a Ray head without authentication can run any command on it"
    mode = authentication_mode(env)
    if mode != "token":
        raise ConfigError(f"{purpose}: RAY_AUTH_MODE is {mode!r}, but {why}; {REMEDY}")
    token = find_ray_token(env)
    if token is None:
        raise ConfigError(f"{purpose}: there is no token, but {why}; {REMEDY}")
    if len(token.value) < MIN_TOKEN:
        raise ConfigError(f"{purpose}: the token has {len(token.value)} characters and could be guessed; {REMEDY}")
