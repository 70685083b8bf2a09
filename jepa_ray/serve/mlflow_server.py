"""The MLflow server as `mlflow server`, with users, known host names, and nothing that runs code for its callers."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from jepa_ray.errors import ConfigError
from jepa_ray.serve.program import Program, is_loopback

MIN_PASSWORD = 12  # characters, as many as MLflow itself asks for
KNOWN_PASSWORDS = {"password1234"}  # MLflow's default of old, which is tried on every server that is found
WHY = "whoever reaches an MLflow server without authentication reads, changes and deletes every run and model"

# What would run code, read files or call out for its callers, and what phones home.
SAFE = {
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
REPLACED = ("MLFLOW_DEPLOYMENTS_TARGET", "MLFLOW_AUTH_CONFIG_PATH")  # a proxy to elsewhere; another file of users


@dataclass(frozen=True)
class Server:
    """Where it listens, and where it keeps what it is told."""

    host: str
    port: int
    store: str | None  # SQLAlchemy URI without a password; None: MLFLOW_BACKEND_STORE_URI
    artifacts: str
    allowed_hosts: str | None  # comma-separated, as browsers and clients name the server
    state: Path  # a private folder for the configuration of its users
    workers: int
    auth: bool


def mlflow(server: Server, env: Mapping[str, str]) -> Program:
    """The server's command line and environment. Raises `ConfigError` if others would reach it unprotected."""
    _check(server, env)
    told = {**env, **SAFE, "MLFLOW_BACKEND_STORE_URI": _store(server, env)}
    for name in REPLACED:
        told.pop(name, None)
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
        told |= _users(server, env, told["MLFLOW_BACKEND_STORE_URI"])
    return Program([sys.executable, "-m", "mlflow", "server", *options], told)


def _check(server: Server, env: Mapping[str, str]) -> None:
    if not is_loopback(server.host):
        where = f"--host {server.host}"
        if not server.auth:
            raise ConfigError(f"{where}: --no-auth is for loopback only, since {WHY}")
        if not server.allowed_hosts:
            raise ConfigError(
                f"{where}: --allowed-hosts is missing; name the hosts that clients use, like mlflow:5000,localhost:5000"
                " (any other name may be a web page that reaches in through a browser)"
            )
    if any(not name.strip().strip("*:") for name in (server.allowed_hosts or "x").split(",")):
        raise ConfigError(f"--allowed-hosts {server.allowed_hosts!r} lets every name in: list names, like mlflow:5000")
    if server.auth:
        _check_password(env.get("MLFLOW_AUTH_ADMIN_PASSWORD", ""))


def _check_password(password: str) -> None:
    named = "MLFLOW_AUTH_ADMIN_PASSWORD (or MLFLOW_AUTH_ADMIN_PASSWORD_FILE)"
    if not password:
        raise ConfigError(f"{named} is not set, but the server needs an administrator's password")
    if password in KNOWN_PASSWORDS:
        raise ConfigError(f"{named} is a password that everybody knows: choose another (openssl rand -hex 16)")
    if len(password) < MIN_PASSWORD:
        raise ConfigError(
            f"{named} has {len(password)} characters, but needs at least {MIN_PASSWORD} (openssl rand -hex 16)"
        )


def _store(server: Server, env: Mapping[str, str]) -> str:
    if server.store is None:
        if store := env.get("MLFLOW_BACKEND_STORE_URI"):
            return store
        raise ConfigError("--backend-store-uri is missing, and so is MLFLOW_BACKEND_STORE_URI: say where runs are kept")
    parts = urlsplit(server.store)
    if parts.scheme == "postgresql":
        raise ConfigError(f"--backend-store-uri {server.store}: name the driver, postgresql+psycopg2://...")
    if parts.password:
        raise ConfigError(
            "--backend-store-uri has a password in it, which everyone on the machine can read there:"
            " put the password into PGPASSWORD or PGPASSWORD_FILE, or the whole URI into MLFLOW_BACKEND_STORE_URI"
        )
    return server.store


def _users(server: Server, env: Mapping[str, str], store: str) -> dict[str, str]:
    """Write the configuration of the users, and name it. The administrator's password stays in the environment."""
    path = server.state / "auth.ini"
    server.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            "[mlflow]\n"
            "default_permission = READ\n"
            f"database_uri = {store.replace('%', '%%')}\n"  # configparser reads % as a reference
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(path),
        "MLFLOW_AUTH_ADMIN_USERNAME": env.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": env.get("MLFLOW_FLASK_SERVER_SECRET_KEY") or secrets.token_hex(32),
    }
