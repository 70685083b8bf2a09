"""Ray's head and workers as `ray start --block`, and the token without which nobody may talk to them.

Whoever reaches a head without authentication submits a job, which is any command, as the user that runs Ray; clusters
left open like that are searched for and taken over. And a head can always be reached: only its dashboard can be bound
to loopback, while its other ports listen at every interface even with `--node-ip-address=127.0.0.1`. So there is no
node without a token here.
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
from jepa_ray.serve.program import Program, is_loopback, read_secret, split_address, wait_for

MIN_TOKEN = 32  # characters; Ray's own tokens are 64 hexadecimal digits
ASK_FOR_ONE = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with at least"
    f" {MIN_TOKEN} random characters (openssl rand -hex 32)"
)
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Ports:
    """The ports of one node, all of them fixed, so that a firewall can know them.

    `first` and the four after it: node manager, object manager, runtime environments, agent (gRPC), agent (HTTP).
    """

    first: int = 6380
    metrics: int = 8080
    workers: str = "10002-19999"

    def options(self) -> list[str]:
        """As options of `ray start`. Raises `ConfigError` if the range of the workers' ports is none."""
        low, _, high = self.workers.partition("-")
        if not (low.isdecimal() and high.isdecimal() and 1024 <= int(low) < int(high) <= 65535):
            raise ConfigError(f"--worker-ports {self.workers!r} must be LOW-HIGH, from 1024 to 65535")
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
    """What a node offers; None: what Ray counts."""

    cpus: int | None = None
    gpus: int | None = None
    custom: str = "{}"  # JSON, {"name": amount}
    object_store: int | None = None  # bytes
    temp: Path | None = None  # Ray's logs and sockets; None: /tmp/ray

    def options(self) -> list[str]:
        """As options of `ray start`. Raises `ConfigError` unless `custom` is an object of numbers."""
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
    """Where a head can be reached."""

    host: str  # the dashboard and the Jobs API
    dashboard_port: int
    node_ip: str | None  # which nodes and drivers join; None: Ray finds the node's interface
    port: int
    client_port: int  # Ray Client, which nobody needs here, and which cannot be left out


def head(addresses: BindAddresses, ports: Ports, resources: NodeResources, env: Mapping[str, str]) -> Program:
    """A head that is reached at `addresses`. Raises `ConfigError` unless it is protected by a token.

    With the dashboard on loopback, a token that is missing is made and kept where Ray keeps it.
    """
    if is_loopback(addresses.host) and mode(env) == "token" and token(env) is None:
        make_token(default_token(env))
    _need_token(env, f"--host {addresses.host}")
    options = [
        "--head",
        f"--port={addresses.port}",
        f"--dashboard-host={addresses.host}",
        f"--dashboard-port={addresses.dashboard_port}",
        "--include-dashboard=true",
        f"--ray-client-server-port={addresses.client_port}",
    ]
    return _start([*options, *_address(addresses.node_ip), *ports.options(), *resources.options()], env)


def worker(
    address: str, node_ip: str | None, ports: Ports, resources: NodeResources, env: Mapping[str, str], wait_s: float
) -> Program:
    """A worker that joins the head at `address` as soon as that listens. Raises `ConfigError` without a token."""
    split_address(address)
    _need_token(env, f"joining {address}")
    program = _start([f"--address={address}", *_address(node_ip), *ports.options(), *resources.options()], env)
    wait_for(address, wait_s, "Ray head")
    return program


def _start(options: list[str], env: Mapping[str, str]) -> Program:
    # Not the script `ray`: it may lie outside of PATH, or belong to another installation.
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    path = os.pathsep.join([str(Path(sys.executable).parent), *filter(None, [env.get("PATH")])])  # jobs say `python`
    return Program([*start, *options], {**env, **QUIET, "PATH": path, "RAY_AUTH_MODE": mode(env)})


def _address(node_ip: str | None) -> list[str]:
    return [] if node_ip is None else [f"--node-ip-address={node_ip}"]


def mode(env: Mapping[str, str]) -> str:
    """How Ray authenticates: by token, unless the environment says otherwise."""
    return env.get("RAY_AUTH_MODE", "").lower() or "token"


def token(env: Mapping[str, str]) -> str | None:
    """The token as Ray finds it: the environment, then a file, then Ray's default place. None: there is none."""
    if given := env.get("RAY_AUTH_TOKEN", "").strip():
        return given
    if path := env.get("RAY_AUTH_TOKEN_PATH"):
        return read_secret(Path(path), "RAY_AUTH_TOKEN_PATH")
    place = default_token(env)
    return read_secret(place, "Ray's token") if place.exists() else None


def default_token(env: Mapping[str, str]) -> Path:
    """Where Ray looks for a token when it is told nothing."""
    return Path(env.get("HOME") or Path.home()) / ".ray" / "auth_token"


def make_token(path: Path) -> None:
    """Write a new token that only its owner can read; its path is told, the token never."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    print(f"made a token for this cluster: {path}", flush=True)


def _need_token(env: Mapping[str, str], for_what: str) -> None:
    """Raise `ConfigError` unless Ray will ask for a token that cannot be guessed."""
    why = "whoever reaches a Ray head without authentication runs any command on it"
    if mode(env) != "token":
        raise ConfigError(f"{for_what}: RAY_AUTH_MODE is {mode(env)!r}, but {why}; {ASK_FOR_ONE}")
    found = token(env)
    if found is None:
        raise ConfigError(f"{for_what}: there is no token, but {why}; {ASK_FOR_ONE}")
    if len(found) < MIN_TOKEN:
        raise ConfigError(f"{for_what}: the token has {len(found)} characters and could be guessed; {ASK_FOR_ONE}")
