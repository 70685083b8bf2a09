"""A Ray session: a local cluster, or a connection to one, with Ray's own noise kept out of the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

import ray

from jepa_ray import secrets
from jepa_ray.errors import ConfigError, JepaRayError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are recorded in optuna.db and MLflow
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's snapshots are read by nobody: a sweep resumes from its study
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class RaySession:
    """A connected cluster."""

    dashboard: str | None  # URL
    token: str | None  # where the token is that the dashboard asks for; what a driver prints is stored as a job's log


@contextmanager
def ray_session(address: str | None, cpus: float, gpus: float, log: Path) -> Iterator[RaySession]:
    """Start a local cluster of the given size, or connect to `address`; everything of ours is gone on exit.

    While it lasts, whatever Ray logs or prints in this process goes to the file `log`: write to a console that
    holds the real stdout. Raises `ConfigError` if there is no cluster at `address`, `JepaRayError` if none starts.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    size: dict[str, Any] = {} if address else {"num_cpus": int(cpus), "num_gpus": int(gpus), "include_dashboard": True}
    log.parent.mkdir(parents=True, exist_ok=True)
    _token()
    with _redirected(log) as sink:
        _send_log_to(sink)
        try:
            context = ray.init(address=address or "local", log_to_driver=False, **size)
            _send_log_to(sink)  # ray.init brings its own handler back
        except Exception as error:  # Ray raises many kinds, a bare Exception for a local start that takes too long
            if address:
                why = secrets.mask(str(error))
                raise ConfigError(f"--address {address}: no Ray cluster can be used there ({why})") from None
            raise JepaRayError(f"Ray could not be started here: {error} (details in {log})") from None
        try:
            url = f"http://{context.dashboard_url}" if context.dashboard_url else None
            yield RaySession(url, _token())
        finally:
            ray.shutdown()


@contextmanager
def _redirected(log: Path) -> Iterator[TextIO]:
    """A file that stdout and stderr go to meanwhile, secrets masked."""
    with log.open("a") as file:
        sink = cast(TextIO, secrets.Masked(file))
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield sink


def _send_log_to(sink: TextIO) -> None:
    handler = logging.StreamHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("ray").handlers[:] = [handler]


def _token() -> str | None:
    """Where Ray keeps the cluster's token, which is masked from now on."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        secrets.remember("RAY_AUTH_TOKEN", token)
        return "the environment's RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_MODE") != "token" or not path.is_file():
        return None
    secrets.remember("RAY_AUTH_TOKEN", path.read_text())
    return f"the file {path}"
