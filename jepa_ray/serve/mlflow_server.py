"""Command line of `mlflow server` with users and known host names, without features that run code for callers."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jepa_ray.errors import ConfigError
from jepa_ray.machine import is_loopback
from jepa_ray.serve.program import Program

MIN_PASSWORD = 12  # characters, MLflow's own minimum
KNOWN_PASSWORDS = {"password1234"}  # MLflow's former default, which attackers try
WHY = "anyone who can reach an MLflow server without authentication can read, change and delete every run and model"

# Switches off the features that run code, read files or send requests for callers, and telemetry.
SAFE_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_ENV": "false",
    "MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_FILE": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    "MLFLOW_SERVER_ENABLE_GRAPHQL_AUTH": "true",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Not passed on: the target of MLflow's proxy, and a configuration of users that ours replaces.
REMOVED_VARIABLES = ("MLFLOW_DEPLOYMENTS_TARGET", "MLFLOW_AUTH_CONFIG_PATH")


@dataclass(frozen=True)
class ServerSettings:
    """The address and the stores of an MLflow server."""

    host: str
    port: int
    store: str | None  # SQLAlchemy URI without a password; None: MLFLOW_BACKEND_STORE_URI
    artifacts: str  # URI
    allowed_hosts: str | None  # comma-separated host names that browsers and clients use
    state: Path  # private folder for the configuration of users
    workers: int  # processes
    auth: bool


def server_program(server: ServerSettings, env: Mapping[str, str]) -> Program:
    """The server's command line and environment. Raises `ConfigError` if other machines could reach it unprotected."""
    _check(server, env)
    changed = {**env, **SAFE_SETTINGS, "MLFLOW_BACKEND_STORE_URI": _store(server, env)}
    for name in REMOVED_VARIABLES:
        changed.pop(name, None)
    options = [
        f"--host={server.host}",
        f"--port={server.port}",
        f"--artifacts-destination={server.artifacts}",
        f"--workers={server.workers}",
        "--x-frame-options=DENY",
    ]
    if server.allowed_hosts:
        options.append(f"--allowed-hosts={server.allowed_hosts}")
    if server.auth:
        options.append("--app-name=basic-auth")
        changed |= _configure_users(server, env, changed["MLFLOW_BACKEND_STORE_URI"])
    return Program([sys.executable, "-m", "mlflow", "server", *options], changed)


def _check(server: ServerSettings, env: Mapping[str, str]) -> None:
    """Raise `ConfigError` for a server that is not protected by users, a password and a list of host names."""
    if not is_loopback(server.host):
        option = f"--host {server.host}"
        if not server.auth:
            raise ConfigError(f"{option}: --no-auth is for loopback only, since {WHY}")
        if not server.allowed_hosts:
            raise ConfigError(
                f"{option}: --allowed-hosts is missing; list the host names that clients use, for example"
                " mlflow:5000,localhost:5000 (a request for another name may come from a malicious web page)"
            )
    if any(not name.strip().strip("*:") for name in (server.allowed_hosts or "x").split(",")):
        raise ConfigError(
            f"--allowed-hosts {server.allowed_hosts!r} allows every name: list the names, for example mlflow:5000"
        )
    if server.auth:
        _check_password(env.get("MLFLOW_AUTH_ADMIN_PASSWORD", ""))


def _check_password(password: str) -> None:
    name = "MLFLOW_AUTH_ADMIN_PASSWORD (or MLFLOW_AUTH_ADMIN_PASSWORD_FILE)"
    if not password:
        raise ConfigError(f"{name} is not set, but the server needs an administrator's password")
    if password in KNOWN_PASSWORDS:
        raise ConfigError(f"{name} is a publicly known default password: choose another (openssl rand -hex 16)")
    if len(password) < MIN_PASSWORD:
        raise ConfigError(
            f"{name} has {len(password)} characters, but needs at least {MIN_PASSWORD} (openssl rand -hex 16)"
        )


def _store(server: ServerSettings, env: Mapping[str, str]) -> str:
    """The URI of the database. Raises `ConfigError` if it is missing, names no driver or contains a password."""
    if server.store is None:
        if store := env.get("MLFLOW_BACKEND_STORE_URI"):
            return store
        raise ConfigError("--backend-store-uri and MLFLOW_BACKEND_STORE_URI are both missing: set one of them")
    parts = urlsplit(server.store)
    if parts.scheme == "postgresql":
        raise ConfigError(f"--backend-store-uri {server.store}: name the driver, postgresql+psycopg2://...")
    if parts.password:
        raise ConfigError(
            "--backend-store-uri contains a password, and all users of this machine can read command lines:"
            " put the password into PGPASSWORD or PGPASSWORD_FILE, or the whole URI into MLFLOW_BACKEND_STORE_URI"
        )
    return server.store


def _configure_users(server: ServerSettings, env: Mapping[str, str], store: str) -> dict[str, str]:
    """Write the configuration of users; returns the variables that refer to it.

    The file does not contain the administrator's password, which stays in the environment.
    """
    path = server.state / "auth.ini"
    server.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = {store.replace('%', '%%')}\n"  # configparser interpolates %
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": env.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": env.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or secrets.token_hex(32),
    }
