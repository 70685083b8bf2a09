"""How a service program is started: secrets read from files, addresses, a command line and its environment."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.secrets import read_secret_file

# NAME_FILE is read into NAME for these variables only: SSL_CERT_FILE and similar variables have another meaning.
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
    """A command line and its environment. Secrets are in `env` only: all users of the machine can see command lines."""

    argv: list[str]
    env: Mapping[str, str] = field(repr=False)

    def replace_process(self) -> NoReturn:
        """Replace this process by the program, which then receives the signals of a container's init directly."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvpe(self.argv[0], self.argv, {**self.env})  # noqa: S606 (a shell would be one more process)


def with_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """A copy of `env` in which each NAME_FILE of `SECRETS` is read into NAME.

    Raises `ConfigError`, whose message names paths but never contents, if both are set or the file cannot be read.
    """
    filled = dict(env)
    for name in SECRETS:
        path = filled.pop(f"{name}_FILE", None)
        if not path:
            continue
        if filled.get(name):
            raise ConfigError(f"{name} and {name}_FILE are both set: keep one of them")
        filled[name] = read_secret_file(Path(path), f"{name}_FILE")
    return filled


def wait_for(address: str, seconds: float, what: str) -> None:
    """Return once a server listens at `address`, HOST:PORT. Raises `JepaRayError` if none listens within `seconds`."""
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
    """Split HOST:PORT into its two parts. Raises `ConfigError` if `address` does not have this form."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"address {address!r} must be HOST:PORT, for example ray-head:6379")
    return host.strip("[]"), int(port)
