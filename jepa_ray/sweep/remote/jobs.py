"""A sweep as a Ray job: its driver runs on the cluster, and this process submits and follows it.

    submit -> bundle (zip), command, notes -> Ray's dashboard -> `python -m jepa_ray.sweep run spec.yaml` on the cluster
    follow <- the log, line by line, until the job ends; Ctrl-C does not stop the job

A job's notes (Ray's metadata) say which sweep it runs. Anyone who can open the dashboard can read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

import jepa_ray
from jepa_ray import cli, secrets
from jepa_ray.config import SweepConfig, check_name, dump_yaml
from jepa_ray.errors import ConfigError, Interrupted, JepaRayError, first_line
from jepa_ray.formatting import format_duration
from jepa_ray.sweep.remote.bundle import pack
from jepa_ray.sweep.remote.dashboard import Dashboard, Job, UnknownJob, Unreachable

SWEEP, SPEC, OUTPUT, STORAGE = "jepa_ray_sweep", "jepa_ray_spec", "jepa_ray_output", "jepa_ray_storage"  # keys of notes
# From SIGTERM to SIGKILL. In this time the driver writes its results, and waits up to 10 s for the tracking server.
STOP_WAIT_S = 60
ENV = {
    "JEPA_RAY_JOB": "1",
    "PYTHONUNBUFFERED": "1",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),  # read by the job's supervisor, which has the same environment
}
RECONNECT_TIMEOUT_S = 300.0  # time that the dashboard may be unavailable while a log is followed
PAUSE_S = 2.0  # between two connections to the log
SILENCE_S = 60.0  # a connection that brings nothing for this long is opened again: it may be broken unnoticed
MAX_JOBS_SHOWN = 20
CLOSED_PIPE = 141  # exit code of a program whose output pipe was closed, as by `| head`


def submit(
    spec: SweepConfig, address: str, console: Console, *, output: Path | None = None, fresh: bool = False
) -> int:
    """Run the sweep on the cluster and follow it; if a job runs it already, follow that job. Returns the exit code.

    Raises `ConfigError` if a job runs a sweep of this name with another spec, or any sweep of this name with `fresh`.
    """
    _check_options(output)
    dashboard = Dashboard(address)
    digest = hashlib.sha256(dump_yaml(spec.to_dict()).encode()).hexdigest()[:16]
    if running := _find_running(dashboard, spec.name):
        _check_same(running, spec.name, digest, fresh, address)
        _say(console, f"sweep {spec.name} is already running on this cluster: this is its log")
        return follow(dashboard, running, console)
    options = ["--fresh"] if fresh else []
    options += ["--output", str(output)] if output else []
    notes = {SPEC: digest, STORAGE: spec.storage, OUTPUT: output}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle.zip"
        packed = pack(bundle, spec)
        options += ["--packed", str(packed)] if packed else []
        command = ["run", "spec.yaml", "--address", "auto", *options]
        job = _submit(dashboard, spec.name, command, bundle, notes, console)
    return follow(dashboard, job, console)


def resume(name: str, address: str, console: Console, *, storage: str | None = None, output: Path | None = None) -> int:
    """Continue a sweep from the state in its storage, and follow it. Returns the exit code.

    Without `storage` and `output`, those of the sweep's newest job are used.
    """
    check_name(name)
    _check_options(output, storage)
    dashboard = Dashboard(address)
    if running := _find_running(dashboard, name):
        _say(console, f"sweep {name} is already running on this cluster: this is its log")
        return follow(dashboard, running, console)
    before = next((job.metadata for job in _list_jobs(dashboard, name)), {})
    if not (storage or output):
        storage, root = before.get(STORAGE), before.get(OUTPUT)
        output = Path(root) if root else None
    command = ["resume", name, "--address", "auto"]
    command += ["--storage", storage] if storage else []
    command += ["--output", str(output)] if output else []
    notes = {SPEC: before.get(SPEC), STORAGE: storage, OUTPUT: output}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle.zip"
        pack(bundle)
        job = _submit(dashboard, name, command, bundle, notes, console)
    return follow(dashboard, job, console)


def logs(name: str, address: str, console: Console, *, wait: bool = True) -> int:
    """Print the log of the sweep's newest job. Returns the job's exit code; 0 without `wait`, which follows the job."""
    dashboard = Dashboard(address)
    job = _newest(dashboard, name)
    if wait:
        return follow(dashboard, job, console)
    with _to_stdout() as printer:
        printer.show(0, dashboard.log(job.id))
        printer.finish()
    return printer.code


def stop(name: str, address: str, console: Console) -> None:
    """Stop the sweep's driver, which first writes its results, and wait until it has ended."""
    dashboard = Dashboard(address)
    job = _newest(dashboard, name)
    if not job.active:
        _say(console, f"sweep {name} is not running: its newest job {job.id} ended as {job.state}")
        return
    dashboard.stop(job.id)
    _say(console, f"asked {job.id} to stop: it writes its results first, for at most {STOP_WAIT_S} s")
    deadline = time.monotonic() + STOP_WAIT_S + 30
    while (job := dashboard.job(job.id)).active:
        if time.monotonic() > deadline:
            raise JepaRayError(f"job {job.id} was asked to stop and is still {job.state}: is its node running?")
        time.sleep(PAUSE_S / 4)
    _say(console, f"job {job.id} has {job.state.lower()}; `{_command('resume', name, address)}` continues the sweep")


def status(name: str | None, address: str, console: Console) -> None:
    """Print a table of the sweeps' jobs, newest first, each with the last line of its log."""
    dashboard = Dashboard(address)
    found = _list_jobs(dashboard, name)
    if not found:
        if name:
            raise _unknown(dashboard, name)
        console.print("no sweep has been submitted to this cluster")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("sweep", "job", "state", "since", "for"):
        table.add_column(heading, no_wrap=True)
    table.add_column("last line", no_wrap=True, overflow="ellipsis")
    for job in found[:MAX_JOBS_SHOWN]:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        took = format_duration((job.ended or time.time()) - job.started)
        row = (job.metadata[SWEEP], job.id, job.state, since, took, _last_line(dashboard, job))
        table.add_row(*map(Text, row))  # Text, since brackets in a log are not markup
    console.print(table)
    if len(found) > MAX_JOBS_SHOWN:
        console.print(f"and {len(found) - MAX_JOBS_SHOWN} older jobs")


def follow(dashboard: Dashboard, job: Job, console: Console) -> int:
    """Print the job's log until the job ends. Returns the exit code of its driver, 130 if it was stopped.

    A broken connection is opened again, and nothing is printed twice. Ctrl-C ends the following, not the job. Raises
    `JepaRayError` if the dashboard is unavailable for too long, or if the job failed without an exit code of its own.
    """
    with _to_stdout() as printer:
        try:
            job = _watch(dashboard, job, printer)
        except KeyboardInterrupt:
            printer.finish()
            _say(console, _detached(dashboard, job))
            return 130
    return printer.code or _exit_code(job)


def _watch(dashboard: Dashboard, job: Job, printer: _Printer) -> Job:
    """Print the log until the job has ended; returns the ended job."""
    lost = None  # time at which the connection was lost
    while True:
        try:
            asyncio.run(_tail_once(dashboard, job.id, printer))
            job = dashboard.job(job.id)
            if not job.active:
                printer.show(0, dashboard.log(job.id))  # the connection may have ended before the end of the log
                printer.finish()
                return job
            lost = None
        except Unreachable as error:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > RECONNECT_TIMEOUT_S:
                again = _command("logs", _name(job), dashboard.address)
                raise JepaRayError(
                    f"{error}; gave up after {RECONNECT_TIMEOUT_S:.0f} s: the job goes on, `{again}` follows it again"
                ) from None
        except UnknownJob:
            again = _command("resume", _name(job), dashboard.address)
            raise JepaRayError(
                f"the cluster no longer knows job {job.id}, since its head was restarted: `{again}` continues the sweep"
            ) from None
        time.sleep(PAUSE_S)


async def _tail_once(dashboard: Dashboard, job_id: str, printer: _Printer) -> None:
    """Print what one connection brings. Each connection sends the log from its beginning."""
    pieces: AsyncIterator[str] = dashboard.tail(job_id)
    position = 0
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), SILENCE_S)
        except (StopAsyncIteration, TimeoutError):
            return
        printer.show(position, piece)
        position += len(piece)


class _Printer:
    """Prints each line of a log once on stdout, with secrets masked and control characters escaped."""

    def __init__(self) -> None:
        self.code = 0  # exit code of the command, unless it is that of the job
        self._seen = 0  # characters of the log
        self._line = ""  # the last line, not complete yet

    def show(self, position: int, text: str) -> None:
        """Print the lines that `text`, which begins at character `position` of the log, completes."""
        new = text[max(0, self._seen - position) :]
        self._seen += len(new)
        *lines, self._line = (self._line + new).split("\n")
        for line in lines:
            print(_sanitize(line))
        sys.stdout.flush()

    def finish(self) -> None:
        """Print the last line if it has no line break."""
        if self._line:
            print(_sanitize(self._line), flush=True)
            self._line = ""


@contextlib.contextmanager
def _to_stdout() -> Iterator[_Printer]:
    """A printer. If the reader of stdout has closed the pipe, its `code` becomes `CLOSED_PIPE`; nothing is raised."""
    printer = _Printer()
    try:
        yield printer
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout on exit
        printer.code = CLOSED_PIPE


def _submit(
    dashboard: Dashboard, name: str, command: list[str], bundle: Path, notes: Mapping[str, object], console: Console
) -> Job:
    job_id = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    metadata = {SWEEP: name, "jepa_ray_version": jepa_ray.__version__}
    metadata |= {key: str(value) for key, value in notes.items() if value}
    # With `exec`, the stop signal reaches the driver instead of the shell that started it.
    dashboard.submit(job_id, f"exec python -m jepa_ray.sweep {shlex.join(command)}", bundle, ENV, metadata)
    _say(console, f"submitted sweep {name} as job {job_id} (Ray {dashboard.ray_version}); Ctrl-C leaves it running")
    return dashboard.job(job_id)


def _check_options(output: Path | None, storage: str | None = None) -> None:
    """Refuse a relative output root, and secrets in the storage: anyone who opens the dashboard can read both."""
    if output and not output.is_absolute():
        raise ConfigError(f"--output {output}: must be an absolute path that all nodes of the cluster can write to")
    try:
        secrets.check(storage or "")
    except ValueError as error:
        raise ConfigError(f"--storage {secrets.mask(storage or '')}: {error}") from None


def _check_same(running: Job, name: str, digest: str, fresh: bool, address: str) -> None:
    """Raise `ConfigError` if the running job has another spec, or if `fresh` would delete its results."""
    stop_it = f"`{_command('stop', name, address)}` stops it"
    if fresh:
        raise ConfigError(f"--fresh would delete sweep {name} while job {running.id} runs it: {stop_it}")
    if running.metadata.get(SPEC, digest) != digest:
        raise ConfigError(
            f"name is {name}, but job {running.id} runs a sweep of that name with another spec: choose another name"
            f" (`{_command('logs', name, address)}` shows that sweep, {stop_it})"
        )


def _find_running(dashboard: Dashboard, name: str) -> Job | None:
    return next((job for job in _list_jobs(dashboard, name) if job.active), None)


def _newest(dashboard: Dashboard, name: str) -> Job:
    """The job that runs the sweep, otherwise its newest job. Raises `ConfigError` if there is no job."""
    found = _list_jobs(dashboard, name)
    if not found:
        raise _unknown(dashboard, name)
    return next((job for job in found if job.active), found[0])


def _list_jobs(dashboard: Dashboard, name: str | None) -> list[Job]:
    """The jobs of one sweep, or of all sweeps, newest first."""
    jobs = [job for job in dashboard.jobs() if SWEEP in job.metadata]
    return [job for job in jobs if name is None or job.metadata[SWEEP] == name]


def _unknown(dashboard: Dashboard, name: str) -> ConfigError:
    """The error for a sweep without jobs; it names the sweeps that have jobs."""
    names = sorted({job.metadata[SWEEP] for job in _list_jobs(dashboard, None)})
    known = f"it has jobs of {', '.join(names)}" if names else "it has no jobs of sweeps"
    return ConfigError(
        f"{dashboard.address}: has no job of a sweep {name}: {known} (a restarted head does not know earlier jobs)"
    )


def _name(job: Job) -> str:
    return job.metadata.get(SWEEP, job.id)


def _exit_code(job: Job) -> int:
    """The exit code of an ended job's driver. Raises `JepaRayError` for a job that failed without explaining itself."""
    if job.state == "SUCCEEDED":
        return 0
    if job.state == "STOPPED":
        return Interrupted.exit_code
    if job.exit_code in (1, 2, Interrupted.exit_code):
        return job.exit_code  # the driver has said why, in its log
    reason = first_line(job.message) or "no reason was recorded"
    raise JepaRayError(f"job {job.id} failed: {reason}")


def _last_line(dashboard: Dashboard, job: Job) -> str:
    """The last line of the job's log that is not indented; Ray's message about the job if there is no log."""
    with contextlib.suppress(JepaRayError):
        lines = [line for line in dashboard.log(job.id).splitlines() if line.strip() and not line[0].isspace()]
        if lines:
            return _sanitize(lines[-1])
    return _sanitize(first_line(job.message))


def _sanitize(line: str) -> str:
    return cli.in_one_line(secrets.mask(line.expandtabs()))


def _detached(dashboard: Dashboard, job: Job) -> str:
    logs_command, stop_command = (_command(word, _name(job), dashboard.address) for word in ("logs", "stop"))
    return f"\nthe sweep goes on as job {job.id}; `{logs_command}` shows its log again, `{stop_command}` stops it"


def _command(word: str, name: str, address: str) -> str:
    return f"python -m jepa_ray.sweep {word} {shlex.quote(name)} --address {shlex.quote(address)}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
