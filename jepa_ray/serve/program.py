"""What the served programs are started with: secrets from files, addresses, a command line with its environment."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from jepa_ray.errors import ConfigError, JepaRayError

# NAME_FILE is read into NAME for these alone: SSL_CERT_FILE and its like mean something else.
SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "PGPASSWORD",
)


@dataclass(frozen=True)
class Program:
    """What a command becomes. Secrets are in `env` only: a command line is shown to everyone on the machine."""

    argv: list[str]
    env: Mapping[str, str] = field(repr=False)

    def become(self) -> NoReturn:
        """Replace this process, so that there is none between a container's init and the program."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvpe(self.argv[0], self.argv, {**self.env})  # noqa: S606 (a shell would be one more process)


def with_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """`env` with each NAME_FILE of `SECRETS` read into NAME. Raises `ConfigError`; says paths, never contents."""
    told = dict(env)
    for name in SECRETS:
        path = told.pop(f"{name}_FILE", None)
        if not path:
            continue
        if told.get(name):
            raise ConfigError(f"{name} and {name}_FILE are both set: keep one of them")
        told[name] = read_secret(Path(path), f"{name}_FILE")
    return told


def read_secret(path: Path, named: str) -> str:
    """The text of a secret's file without the line break at its end."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"{named}: {path} cannot be read ({reason})") from None
    if not text:
        raise ConfigError(f"{named}: {path} is empty, but must hold a secret")
    return text


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name other than localhost is not looked up: it may change."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def wait_for(address: str, seconds: float, what: str) -> None:
    """Return once something listens at `address`, HOST:PORT. Raises `JepaRayError` when the time is over."""
    host, port = split_address(address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=2):
                return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise JepaRayError(f"{address}: no {what} answered within {seconds:g} s ({error})") from None
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT in its two parts. Raises `ConfigError` if it is anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"address {address!r} must be HOST:PORT, for example ray-head:6379")
    return host.strip("[]"), int(port)
