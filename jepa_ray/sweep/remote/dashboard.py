"""HTTP client of a Ray cluster's dashboard and its Jobs API.

Every network or server error becomes an exception with a message of one line. `jobs.py` uses this client for sweeps.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from jepa_ray import secrets
from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.machine import Machine, is_loopback

MIN_RAY = (2, 59)  # as in pyproject.toml: the driver runs with the cluster's Ray
TIMEOUT_S = (10.0, 60.0)  # to connect, and for an answer; Ray's own client waits forever
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
REMEDY = "set RAY_AUTH_TOKEN_PATH to a file that holds it, save it as ~/.ray/auth_token, or set RAY_AUTH_TOKEN"


class Unreachable(ConfigError):
    """Nothing answers at the address at the moment; trying again may help."""


class UnknownJob(JepaRayError):
    """The cluster does not have this job, or no longer has it."""


@dataclass(frozen=True)
class Job:
    """A submitted job as the cluster reports it."""

    id: str
    state: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    started: float  # Unix time of its submission
    ended: float | None = None
    exit_code: int | None = None  # of its command, if that ended by itself
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("PENDING", "RUNNING")


class Dashboard:
    """Client of one cluster's dashboard. Its methods raise `Unreachable`, `UnknownJob` and `ConfigError` only.

    Args:
        address: http://HOST:PORT or https://HOST:PORT. The constructor connects to it and checks its version of Ray.
    """

    def __init__(self, address: str) -> None:
        self.address = _check_address(address)
        disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
        self._token = None if disabled else secrets.find_ray_token()  # in our headers: Ray's client reads its mode once
        self._headers = {"Authorization": f"Bearer {self._token.value}"} if self._token else {}
        if self._token:
            _check_transport(self.address)
        # Ray's client uses two HTTP libraries; both verify against this file of certificates.
        self._verify = os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        with self._translate_errors():
            self.ray_version = self._ask_version()
            self._client = self._connected()

    def jobs(self) -> list[Job]:
        """All submitted jobs, newest first."""
        with self._translate_errors():
            found = [_job(details) for details in self._client.list_jobs() if details.type.value == "SUBMISSION"]
        return sorted(found, key=lambda job: job.started, reverse=True)

    def job(self, job_id: str) -> Job:
        """One job."""
        with self._translate_errors():
            return _job(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """What the job has printed so far; empty before it starts, and after its node is lost."""
        with self._translate_errors():
            return str(self._client.get_job_logs(job_id))

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """What the job prints, from the beginning, in pieces; ends with the job, or when the connection is closed."""
        with self._translate_errors():
            async for piece in self._client.tail_job_logs(job_id):
                yield piece

    def submit(
        self, job_id: str, command: str, package: Path, env: Mapping[str, str], notes: Mapping[str, str]
    ) -> None:
        """Run a shell command on the cluster, in a folder with the contents of `package`, a zip file.

        `notes` becomes the job's metadata, which anyone who can open the dashboard can read.
        """
        with self._translate_errors():
            self._client.submit_job(
                submission_id=job_id,
                entrypoint=command,
                runtime_env={"working_dir": str(package), "env_vars": dict(env)},
                metadata=dict(notes),
            )

    def stop(self, job_id: str) -> None:
        """Send the job SIGTERM; returns at once."""
        with self._translate_errors():
            self._client.stop_job(job_id)

    def size(self) -> Machine:
        """The sum of the CPUs and GPUs of all live nodes."""
        with self._translate_errors():
            answer = self._get("/api/v0/nodes?detail=1").json()
            nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
        totals = [node["resources_total"] for node in nodes]
        return Machine(sum(t.get("CPU", 0) for t in totals), sum(t.get("GPU", 0) for t in totals))

    def _get(self, path: str) -> requests.Response:
        answer = requests.get(self.address + path, headers=self._headers, verify=self._verify, timeout=TIMEOUT_S)
        if answer.status_code in (401, 403):
            raise self._refused(answer.status_code)
        if answer.status_code >= 500:
            raise Unreachable(
                f"{self.address}: answers {answer.status_code} {answer.reason}; is the cluster's head running?"
            )
        return answer

    def _ask_version(self) -> str:
        """The cluster's version of Ray. Our own request, since Ray's client does not explain unexpected answers."""
        answer = self._get("/api/version")
        try:
            version = str(answer.json()["ray_version"])
        except (requests.JSONDecodeError, KeyError, TypeError):
            raise ConfigError(
                f"{self.address}: is a web server, but not a Ray dashboard (GET /api/version answers"
                f" {answer.status_code} without Ray's version); the dashboard's default port is 8265"
            ) from None
        major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
        if (major, minor) < MIN_RAY or major > MIN_RAY[0]:
            wanted = ".".join(map(str, MIN_RAY))
            raise ConfigError(f"{self.address}: runs Ray {version}, but jepa-ray needs {wanted} or later, below 3")
        return version

    def _connected(self) -> JobSubmissionClient:
        """Ray's client, without its log messages."""
        logging.getLogger("ray").setLevel(logging.WARNING)
        for name in ("sdk", "dashboard_sdk"):
            logging.getLogger(f"ray.dashboard.modules.{'job.' if name == 'sdk' else ''}{name}").setLevel(
                logging.WARNING
            )
        with _without(ADDRESS_VARIABLES):  # each of them would take precedence over the argument
            return _Client(self.address, headers=dict(self._headers), verify=self._verify)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate the exceptions of Ray's client and its libraries into those of this package."""
        try:
            yield
        except JepaRayError:
            raise
        except requests.exceptions.SSLError as error:
            why, hint = _reason(error), "does the server speak http only?"
            if "certificate" in why.lower():
                hint = "set SSL_CERT_FILE to a file with the certificate of the authority that signed the server's"
            raise ConfigError(f"{self.address}: no secure connection is possible ({why}); {hint}") from None
        except aiohttp.WSServerHandshakeError as error:
            raise self._error_for_status(error.status, error.message) from None
        except (
            requests.ConnectionError,
            requests.Timeout,
            ConnectionError,
            TimeoutError,
            aiohttp.ClientError,
        ) as error:
            raise self._unreachable(error) from None
        except AuthenticationError as error:
            raise self._refused(401 if "required" in error.message else 403) from None
        except RuntimeError as error:
            status = re.search(r"status code (\d{3}): (.*)", str(error), re.DOTALL)
            raise self._error_for_status(
                int(status[1]) if status else 500, status[2] if status else str(error)
            ) from None

    def _error_for_status(self, status: int, text: str) -> JepaRayError:
        """The exception for an HTTP error status, with the last line of the server's answer."""
        if status in (401, 403):
            return self._refused(status)
        what = (text.strip().splitlines() or [""])[-1].rstrip(".")
        if status == 404:
            return UnknownJob(f"{self.address}: {what}")
        return (Unreachable if status >= 500 else ConfigError)(f"{self.address}: answers {status} ({what})")

    def _refused(self, status: int) -> ConfigError:
        if not self._token:
            return ConfigError(f"{self.address}: asks for a token ({status}), but there is no token: {REMEDY}")
        return ConfigError(
            f"{self.address}: refuses the token in {self._token.source} ({status}): it belongs to another cluster"
        )

    def _unreachable(self, error: Exception) -> Unreachable:
        host = urlsplit(self.address).hostname or ""
        hint = "is the cluster running?"
        if is_loopback(host):
            hint = "is the cluster running, or the tunnel to it (ssh -L 8265:127.0.0.1:8265 HEAD)?"
        return Unreachable(f"{self.address}: cannot be reached ({_reason(error)}); {hint}")


class _Client(JobSubmissionClient):
    """Ray's client with a timeout for each request."""

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **more})


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        state=details.status.value,
        started=(details.start_time or 0) / 1000,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=details.metadata or {},
    )


def _check_address(address: str) -> str:
    """The address without a slash at its end. Raises `ConfigError` unless it is an HTTP URL without a password."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, brackets that do not close
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ConfigError(
            f"--address {address}: must read http://HOST:PORT or https://HOST:PORT, the address of a Ray dashboard"
        )
    if parts.username or parts.password:
        raise ConfigError("--address: must not contain a user or a password, since it is printed and logged")
    return address.rstrip("/")


def _check_transport(address: str) -> None:
    """Refuse to send the token over plain http to a public address: anyone who reads it can run programs there.

    Raises `ConfigError` for such an address, `Unreachable` if the host name cannot be resolved.
    """
    parts = urlsplit(address)
    if parts.scheme.lower() == "https":
        return
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{address}: the host name {host} cannot be resolved ({_reason(error)})") from None
    if public := [str(at[4][0]) for at in found if ipaddress.ip_address(str(at[4][0]).partition("%")[0]).is_global]:
        raise ConfigError(
            f"{address}: {public[0]} is a public address, and http would send the cluster's token unencrypted:"
            f" use https, or a tunnel (ssh -L 8265:127.0.0.1:8265 {host}) and http://127.0.0.1:8265"
        )


def _reason(error: BaseException) -> str:
    """The innermost cause as a short text: requests wraps a refused connection three times."""
    while (
        cause := error.__cause__ or error.__context__ or getattr(error.args[0] if error.args else None, "reason", None)
    ):
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Remove variables from the environment for the duration of the block."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
