"""A Ray session: a local cluster or a connection to one. Ray's own output goes to a file, not to the terminal."""

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

# Settings of Ray that apply unless the user sets the variables. They switch off output and files that are not needed.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES as it is in processes without a GPU
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are recorded in optuna.db and MLflow
    "RAY_AIR_NEW_OUTPUT": "0",  # no progress tables of Ray Tune
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Ray Tune's snapshots are not needed: a sweep resumes from its study
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # no warnings about these snapshots
}


@dataclass(frozen=True)
class RaySession:
    """A connected cluster."""

    dashboard: str | None  # URL
    token: str | None  # where the dashboard's token is stored; never the token itself, since job logs are stored


@contextmanager
def ray_session(address: str | None, cpus: float, gpus: float, log: Path) -> Iterator[RaySession]:
    """Start a local cluster of the given size, or connect to `address`; on exit, all processes started here end.

    While it lasts, stdout, stderr and Ray's log messages of this process go to the file `log`. To print to the
    terminal, use a console that holds the real stdout.

    Raises `ConfigError` if there is no cluster at `address`, `JepaRayError` if no local one can be started.
    """
    os.environ.update({key: value for key, value in QUIET.items() if key not in os.environ})
    size: dict[str, Any] = {} if address else {"num_cpus": int(cpus), "num_gpus": int(gpus), "include_dashboard": True}
    log.parent.mkdir(parents=True, exist_ok=True)
    _find_token()
    with _redirected(log) as sink:
        _send_log_to(sink)
        try:
            context = ray.init(address=address or "local", log_to_driver=False, **size)
            _send_log_to(sink)  # ray.init installs its own handler again
        except Exception as error:  # Ray raises many kinds, a plain Exception after a timeout
            why = secrets.mask(str(error))
            if address:
                raise ConfigError(
                    f"--address {address}: no Ray cluster can be reached at this address ({why})"
                ) from None
            raise JepaRayError(f"Ray could not be started on this machine: {why} (details in {log})") from None
        try:
            url = f"http://{context.dashboard_url}" if context.dashboard_url else None
            yield RaySession(url, _find_token())
        finally:
            ray.shutdown()


@contextmanager
def _redirected(log: Path) -> Iterator[TextIO]:
    """Redirect stdout and stderr to a file, with secrets masked."""
    with log.open("a") as file:
        sink = cast(TextIO, secrets.Masked(file))
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield sink


def _send_log_to(sink: TextIO) -> None:
    """Send Ray's log messages to `sink` only."""
    handler = logging.StreamHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("ray").handlers[:] = [handler]


def _find_token() -> str | None:
    """Where the cluster's token is stored, as text; its value is masked from now on. None: Ray asks for no token."""
    variable, mode = os.environ.get("RAY_AUTH_TOKEN", "").strip(), os.environ.get("RAY_AUTH_MODE", "").lower()
    if not variable and mode != "token":  # Ray reads token files in this mode only
        return None
    token = secrets.find_ray_token()
    if token is None:
        return None
    return "the environment's RAY_AUTH_TOKEN" if variable else f"the file {token.source}"
