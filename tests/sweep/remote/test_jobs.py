"""A sweep as a Ray job, against a server that answers like Ray's dashboard and can fail like a network."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from helpers.fake_dashboard import TOKEN, FakeDashboard, FakeJob
from rich.console import Console

from jepa_ray import cli
from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.sweep.__main__ import app
from jepa_ray.sweep.remote import bundle, jobs
from jepa_ray.sweep.remote import dashboard as dashboards
from jepa_ray.sweep.remote.dashboard import Dashboard

ROOT = Path(__file__).parents[3]
LOG = "".join(f"trial_{number:05}  COMPLETE  2 epochs  0.{number}\n" for number in range(12))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the tokens of the user who runs the tests, and without long waits."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jobs, "PAUSE_S", 0.01)
    monkeypatch.setattr(jobs, "RECONNECT_TIMEOUT_S", 0.3)


@pytest.fixture
def server() -> Iterator[FakeDashboard]:
    made = FakeDashboard()
    yield made
    made.close()


@pytest.fixture
def guarded() -> Iterator[FakeDashboard]:
    """A dashboard that asks for a token."""
    made = FakeDashboard(TOKEN)
    yield made
    made.close()


@pytest.fixture
def console() -> Console:
    """The console of the commands' own messages; logs go to stdout."""
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def spec(tmp_path: Path, **more: Any) -> SweepConfig:
    text = {"name": "s", "base": {"data": {"builtin": "two_rooms"}}, "space": {"training.ema_decay": [0.9, 0.99]}}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(text | more))
    return load_sweep_config(path)


def with_data(tmp_path: Path, path: Path | str) -> SweepConfig:
    return spec(tmp_path, base={"data": {"path": str(path)}})


def one_line(error: pytest.ExceptionInfo[JepaRayError]) -> str:
    assert error.value.exit_code == 2 or not isinstance(error.value, ConfigError)
    assert "\n" not in cli.in_one_line(str(error.value))
    assert len(str(error.value)) < 500
    return str(error.value)


# ---------------------------------------------------------------------------------- addresses and servers


def page(request: web.Request) -> web.Response:
    return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")


# What the server answers instead -> what the error message must contain.
OTHER_SERVERS: dict[str, tuple[Callable[[web.Request], web.Response | None], str]] = {
    "another web server": (page, "is a web server, but not a Ray dashboard"),
    "one without such a page": (lambda _: web.Response(status=404), "(GET /api/version answers 404"),
    "another JSON": (lambda _: web.json_response([1]), "not a Ray dashboard"),
    "a proxy without a cluster behind it": (lambda _: web.Response(status=502), "answers 502 Bad Gateway"),
    "an old Ray": (
        lambda _: web.json_response({"ray_version": "2.40.0"}),
        "runs Ray 2.40.0, but jepa-ray needs 2.59 or later",
    ),
    "a later major version of Ray": (lambda _: web.json_response({"ray_version": "3.0.0"}), "runs Ray 3.0.0, but"),
}


@pytest.mark.parametrize("case", OTHER_SERVERS)
def test_a_server_that_is_not_a_supported_dashboard_is_refused(server: FakeDashboard, case: str) -> None:
    server.instead, message = OTHER_SERVERS[case]
    with pytest.raises(ConfigError) as error:
        Dashboard(server.address)
    assert message in one_line(error)
    assert server.address in str(error.value)


def test_an_address_where_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(dashboards.Unreachable, match=r"Connection refused.*tunnel") as error:
        Dashboard(f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}: cannot be reached" in one_line(error)


def test_a_request_without_an_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards, "TIMEOUT_S", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(dashboards.Unreachable, match="timed out"):
        Dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_requests_of_rays_client_time_out_too(server: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Dashboard(server.address)
    monkeypatch.setattr(dashboards, "TIMEOUT_S", (0.2, 0.2))
    release = threading.Event()
    server.instead = lambda request: (release.wait(5) and None) or None  # blocks the server's only thread
    try:
        with pytest.raises(dashboards.Unreachable, match="timed out"):
            found.jobs()
    finally:
        release.set()


def test_https_to_a_server_that_speaks_http_only(server: FakeDashboard) -> None:
    with pytest.raises(ConfigError, match=r"no secure connection.*http only") as error:
        Dashboard(server.address.replace("http:", "https:"))
    one_line(error)


@pytest.mark.parametrize(
    "address", ["http://", "http://h:x", "http://h:0", "http://h:70000", "ftp://h", "http://h/?a=1"]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="must read http://HOST:PORT"):
        Dashboard(address)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="must not contain a user") as error:
        Dashboard("http://me:hunter2@127.0.0.1:8265")
    assert "hunter2" not in str(error.value)


def test_rays_variables_do_not_change_the_address(server: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Ray both take precedence over the argument: jobs and the token would be sent to another cluster."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:2")
    assert Dashboard(server.address).jobs() == []
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


# ---------------------------------------------------------------------------------------------------- tokens


def test_the_error_for_a_missing_token_says_how_to_set_it(guarded: FakeDashboard) -> None:
    with pytest.raises(ConfigError) as error:
        Dashboard(guarded.address)
    for part in ("asks for a token (401)", "set RAY_AUTH_TOKEN_PATH", "set RAY_AUTH_TOKEN", "~/.ray/auth_token"):
        assert part in one_line(error)


def test_the_error_for_a_wrong_token_names_its_source_and_does_not_show_it(
    guarded: FakeDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-clusters-token")
    with pytest.raises(ConfigError) as error:
        Dashboard(guarded.address)
    assert "refuses the token in RAY_AUTH_TOKEN (403)" in one_line(error)
    assert "another-clusters-token" not in str(error.value)


@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
@pytest.mark.parametrize("mode", [None, "token"])
def test_a_token_is_found_where_ray_looks_for_it(
    guarded: FakeDashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, mode: str | None
) -> None:
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    path = tmp_path / "home" / ".ray" / "auth_token" if place == "home" else tmp_path / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{TOKEN}\n")
    if place != "home":
        monkeypatch.setenv(place, TOKEN if place == "RAY_AUTH_TOKEN" else str(path))
    guarded.add(FakeJob("j", log="a\n"))
    found = Dashboard(guarded.address)
    assert [job.id for job in found.jobs()] == ["j"]
    assert found.log("j") == "a\n"


def test_a_disabled_mode_sends_no_token(guarded: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="asks for a token"):
        Dashboard(guarded.address)
    assert not any(TOKEN in request for request in guarded.requests)


def test_an_empty_token_file_is_refused_only_if_a_variable_names_it(
    server: FakeDashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "home" / ".ray" / "auth_token"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n")
    assert Dashboard(server.address).jobs() == []
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH: .* is empty"):
        Dashboard(server.address)


def test_a_token_file_that_is_missing_is_refused(server: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/such/token")
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH: /no/such/token cannot be read"):
        Dashboard(server.address)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]"])
def test_a_token_is_never_sent_unencrypted_to_a_public_address(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(dashboards.requests, "get", lambda *_, **__: pytest.fail("something was sent"))
    with pytest.raises(ConfigError, match=r"public address.*use https, or a tunnel") as error:
        Dashboard(f"http://{host}:8265")
    one_line(error)


@pytest.mark.parametrize("address", ["https://8.8.8.8", "http://10.1.2.3", "http://100.64.0.1", "http://[fd00::1]"])
def test_the_token_may_be_sent_by_https_and_in_private_networks(address: str) -> None:
    dashboards._check_transport(address)


# ---------------------------------------------------------------------------------------------- following a log


def follow(server: FakeDashboard, job: FakeJob, console: Console) -> int:
    server.add(job)
    found = Dashboard(server.address)
    return jobs.follow(found, found.job(job.id), console)


@pytest.mark.parametrize("how", ["close", "abort", "silence"])
def test_a_log_is_printed_once_however_often_the_connection_ends(
    server: FakeDashboard,
    console: Console,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(jobs, "SILENCE_S", 0.2)
    job = FakeJob("j", state="RUNNING", log=LOG, ends=[(5, how), (0, how), (100, how), (44, how)])
    threading.Timer(1.5, lambda: setattr(job, "state", "SUCCEEDED")).start()
    assert follow(server, job, console) == 0
    assert capsys.readouterr().out == LOG
    assert job.connections >= 5


def test_what_a_broken_connection_left_out_is_read_at_the_end(
    server: FakeDashboard, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow(server, FakeJob("j", log=LOG + "no line break", ends=[(20, "close")]), console) == 0
    assert capsys.readouterr().out == LOG + "no line break\n"


def test_following_continues_when_the_dashboard_is_back_in_time(
    server: FakeDashboard, console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RECONNECT_TIMEOUT_S", 30)
    job = server.add(FakeJob("j", state="RUNNING", log=LOG, ends=[(50, "abort")]))
    found = Dashboard(server.address)
    before, away = found.job("j"), [6]

    def restarting(request: web.Request) -> web.Response | None:
        if "tail" not in request.path or not job.connections:
            return None
        away[0] -= 1
        if away[0] == 0:
            job.state = "SUCCEEDED"
        return web.Response(status=503) if away[0] >= 0 else None

    server.instead = restarting
    assert jobs.follow(found, before, console) == 0
    assert capsys.readouterr().out == LOG
    assert away[0] < 0


def test_following_gives_up_on_a_dashboard_that_stays_unavailable(server: FakeDashboard, console: Console) -> None:
    server.add(FakeJob("j", state="RUNNING", log=LOG))
    found = Dashboard(server.address)
    job = found.job("j")
    server.instead = lambda _: web.Response(status=503)
    with pytest.raises(
        JepaRayError, match=r"gave up after .* the job goes on, `python -m jepa_ray.sweep logs s"
    ) as error:
        jobs.follow(found, job, console)
    assert error.value.exit_code == 1


def test_a_token_that_is_refused_while_following_is_an_error_at_once(
    server: FakeDashboard, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RECONNECT_TIMEOUT_S", 60)
    server.add(FakeJob("j", state="RUNNING", log=LOG))
    found = Dashboard(server.address)
    job = found.job("j")
    server.instead = lambda _: web.Response(status=403)
    with pytest.raises(ConfigError, match=r"403|asks for a token"):
        jobs.follow(found, job, console)


def test_a_restarted_head_no_longer_knows_the_job(server: FakeDashboard, console: Console) -> None:
    server.add(FakeJob("j", state="RUNNING", log=LOG))
    found = Dashboard(server.address)
    job = found.job("j")
    server.jobs.clear()
    with pytest.raises(JepaRayError, match=r"no longer knows job j.*head was restarted.*jepa_ray.sweep resume s"):
        jobs.follow(found, job, console)


@pytest.mark.parametrize(
    ("state", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", 130, 130), ("STOPPED", None, 130)],
)
def test_the_exit_code_is_that_of_the_driver(
    server: FakeDashboard, console: Console, state: str, driver: int | None, code: int
) -> None:
    assert follow(server, FakeJob("j", state=state, exit_code=driver, log="x\n"), console) == code


@pytest.mark.parametrize("driver", [None, -9, 137])
def test_a_job_that_died_says_why(server: FakeDashboard, console: Console, driver: int | None) -> None:
    job = FakeJob("j", state="FAILED", exit_code=driver, message="runtime_env setup failed: no space\ntraceback")
    with pytest.raises(JepaRayError, match=r"^job j failed: runtime_env setup failed: no space$") as error:
        follow(server, job, console)
    assert error.value.exit_code == 1


def test_secrets_are_masked_and_control_characters_escaped_in_a_log(
    server: FakeDashboard, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "to \x1b]0;gotcha\x07 postgresql://me:hunter2@db/x\n"
    follow(server, FakeJob("j", log=log), console)
    assert capsys.readouterr().out == "to \\x1b]0;gotcha\\x07 postgresql://me:***@db/x\n"


# ------------------------------------------------------------------------------------------------ submitting


def contents(server: FakeDashboard) -> dict[str, bytes]:
    assert len(server.packages) == 1
    with zipfile.ZipFile(io.BytesIO(next(iter(server.packages.values())))) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def test_the_bundle_of_a_job_holds_the_code_and_the_spec_and_nothing_else(
    server: FakeDashboard, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    config = spec(tmp_path)
    assert jobs.submit(config, server.address, console) == 0
    found = contents(server)
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "jepa_ray").rglob("*") if path.is_file()}
    assert set(found) == {name for name in code if "__pycache__" not in name} | {"spec.yaml"}
    (tmp_path / "there.yaml").write_bytes(found["spec.yaml"])
    assert load_sweep_config(tmp_path / "there.yaml") == config

    [submitted] = server.submitted
    assert submitted["entrypoint"] == "exec python -m jepa_ray.sweep run spec.yaml --address auto"
    assert submitted["runtime_env"]["env_vars"] == {
        "JEPA_RAY_JOB": "1",
        "PYTHONUNBUFFERED": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
    assert re.fullmatch(r"s-\d{8}-\d{6}-[0-9a-f]{4}", submitted["submission_id"])
    assert submitted["metadata"].keys() == {"jepa_ray_sweep", "jepa_ray_version", "jepa_ray_spec"}
    assert f"submitted sweep s as job {submitted['submission_id']}" in printed(console)


def test_no_secret_is_uploaded(
    guarded: FakeDashboard, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    uri = "postgresql://me:${env:DB_PASSWORD}@db/x"
    jobs.submit(
        spec(tmp_path, tracking={"uri": uri}, storage="s3://b/p?x=${env:DB_PASSWORD}"), guarded.address, console
    )
    assert uri in yaml.safe_load(contents(guarded)["spec.yaml"])["tracking"]["uri"]
    sent = str(guarded.submitted).encode() + b"".join(contents(guarded).values())
    assert b"hunter2" not in sent
    assert TOKEN.encode() not in str(guarded.submitted).encode() + contents(guarded)["spec.yaml"]
    assert guarded.submitted[0]["metadata"]["jepa_ray_storage"] == "s3://b/p?x=${env:DB_PASSWORD}"


def test_the_same_content_is_uploaded_once(server: FakeDashboard, console: Console, tmp_path: Path) -> None:
    for _ in range(2):
        jobs.submit(spec(tmp_path), server.address, console)
        os.utime(tmp_path / "s.yaml", (0, 0))
    assert len(server.submitted) == 2
    assert sum(request.startswith("PUT") for request in server.requests) == 1


def test_a_bundle_holds_neither_compiled_files_nor_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With them, bundles of the same code would differ, and Ray identifies bundles by their content."""
    code = tmp_path / "jepa_ray"
    (code / "sweep" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "sweep/run.py", "sweep/__pycache__/run.cpython-311.pyc"):
        (code / name).write_text(name)
    monkeypatch.setattr(bundle.jepa_ray, "__file__", str(code / "__init__.py"))
    bundle.pack(tmp_path / "p.zip")
    with zipfile.ZipFile(tmp_path / "p.zip") as zipped:
        assert zipped.namelist() == ["jepa_ray/__init__.py", "jepa_ray/sweep/run.py"]
        assert {entry.date_time for entry in zipped.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_options_are_passed_on_and_quoted_for_the_shell(
    server: FakeDashboard, console: Console, tmp_path: Path
) -> None:
    data = tmp_path / "it's $(touch x);.h5"
    data.write_bytes(b"rows")
    jobs.submit(with_data(tmp_path, data), server.address, console, output=Path("/shared/out put"), fresh=True)
    command = server.submitted[0]["entrypoint"]
    parsed = subprocess.run(
        ["/bin/sh", "-c", command.replace("exec python", "printf '%s\\n'")], capture_output=True, text=True
    )
    assert parsed.stdout.split("\n")[:-1] == [
        *("-m", "jepa_ray.sweep", "run", "spec.yaml", "--address", "auto", "--fresh"),
        *("--output", "/shared/out put", "--packed", f"data/{data.name}"),
    ]
    assert contents(server)[f"data/{data.name}"] == b"rows"


def test_a_folder_of_data_is_uploaded_completely(server: FakeDashboard, console: Console, tmp_path: Path) -> None:
    """Including what Ray would leave out: files that a .gitignore names, hidden files, targets of links."""
    data = tmp_path / "episodes"
    (data / "a" / ".git").mkdir(parents=True)
    (tmp_path / "far.bin").write_bytes(b"far")
    for name in ("1.npz", ".hidden", "a/2.npz", "a/.git/x"):
        (data / name).write_text(name)
    (data / ".gitignore").write_text("*.npz\n")
    (data / "link.bin").symlink_to(tmp_path / "far.bin")
    jobs.submit(with_data(tmp_path, data), server.address, console)
    found = {name: text for name, text in contents(server).items() if name.startswith("data/")}
    assert found.keys() == {
        f"data/episodes/{name}" for name in ("1.npz", ".hidden", "a/2.npz", "a/.git/x", ".gitignore", "link.bin")
    }
    assert found["data/episodes/link.bin"] == b"far"
    assert server.submitted[0]["entrypoint"].endswith("--packed data/episodes")


@pytest.mark.parametrize("path", ["/shared/only/there.h5", "s3://bucket/there.h5"])
def test_a_path_that_does_not_exist_here_is_left_to_the_cluster(
    server: FakeDashboard, console: Console, tmp_path: Path, path: str
) -> None:
    jobs.submit(with_data(tmp_path, path), server.address, console)
    assert "--packed" not in server.submitted[0]["entrypoint"]
    assert not any(name.startswith("data/") for name in contents(server))
    assert yaml.safe_load(contents(server)["spec.yaml"])["base"]["data"]["path"] == path


def test_data_that_are_too_large_are_refused_before_anything_is_sent(
    server: FakeDashboard, console: Console, tmp_path: Path
) -> None:
    data = tmp_path / "large.h5"
    with data.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ConfigError) as error:
        jobs.submit(with_data(tmp_path, data), server.address, console)
    for part in (str(data), "65 MiB", "at most 64 MiB", "a shared folder, or a URI"):
        assert part in one_line(error)
    assert (server.submitted, server.packages) == ([], {})


def test_the_largest_bundle_fits_into_one_request() -> None:
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert (bundle.MAX_DATA_MIB + 16) * 2**20 < DASHBOARD_CLIENT_MAX_SIZE


@pytest.mark.parametrize("output", ["outputs", "./x"])
def test_a_relative_output_is_refused(server: FakeDashboard, console: Console, tmp_path: Path, output: str) -> None:
    with pytest.raises(ConfigError, match="must be an absolute path that all nodes of the cluster can write to"):
        jobs.submit(spec(tmp_path), server.address, console, output=Path(output))
    assert server.submitted == []


# -------------------------------------------------------------------------------------- one driver for a sweep


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_the_same_command_follows_the_job_that_runs_already(
    server: FakeDashboard, console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    jobs.submit(spec(tmp_path), server.address, console)
    [mine] = server.jobs.values()
    capsys.readouterr()
    mine.state, mine.log = state, LOG
    threading.Timer(0.3, lambda: setattr(mine, "state", "SUCCEEDED")).start()
    assert jobs.submit(spec(tmp_path), server.address, console) == 0
    assert len(server.submitted) == 1
    assert "already running on this cluster" in printed(console)
    assert capsys.readouterr().out == LOG


def test_another_spec_of_the_name_of_a_running_sweep_is_refused(
    server: FakeDashboard, console: Console, tmp_path: Path
) -> None:
    jobs.submit(spec(tmp_path), server.address, console)
    next(iter(server.jobs.values())).state = "RUNNING"
    other = spec(tmp_path, space={"training.ema_decay": [0.9, 0.999]})
    with pytest.raises(ConfigError, match=r"with another spec: choose another name .*logs s .*stop s ") as error:
        jobs.submit(other, server.address, console)
    one_line(error)


def test_fresh_is_refused_while_it_runs(server: FakeDashboard, console: Console, tmp_path: Path) -> None:
    jobs.submit(spec(tmp_path), server.address, console)
    next(iter(server.jobs.values())).state = "RUNNING"
    with pytest.raises(ConfigError, match=r"--fresh would delete sweep s while job .*jepa_ray.sweep stop s"):
        jobs.submit(spec(tmp_path), server.address, console, fresh=True)
    assert len(server.submitted) == 1


def test_jobs_of_other_sweeps_and_users_do_not_matter(server: FakeDashboard, console: Console, tmp_path: Path) -> None:
    server.add(FakeJob("raysubmit_1", name=None, state="RUNNING"))
    server.add(FakeJob("t-1", name="t", state="RUNNING"))
    server.add(FakeJob("s-1", state="STOPPED"))
    assert jobs.submit(spec(tmp_path), server.address, console) == 0
    assert len(server.submitted) == 1


# ------------------------------------------------------------------------------- status, logs, stop, resume


@pytest.fixture
def history(server: FakeDashboard) -> FakeDashboard:
    server.add(FakeJob("s-1", state="FAILED", exit_code=1, started=1000, log="error: [bold]disk[/bold] is full\n"))
    server.add(FakeJob("t-1", name="t", started=2000, log="done in 3:51\n  report.html   everything\n"))
    server.add(FakeJob("s-2", state="RUNNING", started=3000, log=LOG, exit_code=None))
    server.add(FakeJob("raysubmit_1", name=None, started=4000))
    return server


def test_status_shows_the_newest_first_with_their_last_lines(history: FakeDashboard, console: Console) -> None:
    jobs.status(None, history.address, console)
    heading, *rows = printed(console).splitlines()
    assert heading.split()[:3] == ["sweep", "job", "state"]
    assert [row.split()[:3] for row in rows] == [
        ["s", "s-2", "RUNNING"],
        ["t", "t-1", "SUCCEEDED"],
        ["s", "s-1", "FAILED"],
    ]
    assert "trial_00011" in rows[0]
    assert rows[1].split()[-4:] == ["1:01", "done", "in", "3:51"]
    assert "[bold]disk[/bold]" in rows[2]


def test_status_of_one_sweep(history: FakeDashboard, console: Console) -> None:
    jobs.status("t", history.address, console)
    assert [row.split()[1] for row in printed(console).splitlines()[1:]] == ["t-1"]


def test_a_job_whose_log_is_lost_is_still_in_the_table(history: FakeDashboard, console: Console) -> None:
    history.jobs["t-1"].message = "Job finished successfully."
    history.instead = lambda request: web.Response(status=500) if request.path.endswith("t-1/logs") else None
    jobs.status("t", history.address, console)
    assert "Job finished successfully." in printed(console)


@pytest.mark.parametrize("command", [jobs.status, jobs.logs, jobs.stop])
def test_an_unknown_name_is_refused_with_the_known_ones(
    history: FakeDashboard, console: Console, command: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match="has no job of a sweep u: it has jobs of s, t") as error:
        command("u", history.address, console)
    one_line(error)


def test_logs_without_following_print_the_log_so_far(
    history: FakeDashboard, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.logs("s", history.address, console, wait=False) == 0
    assert capsys.readouterr().out == LOG


def test_logs_of_an_ended_job_return_its_exit_code(
    history: FakeDashboard, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    del history.jobs["s-2"]
    assert jobs.logs("s", history.address, console) == 1
    assert "disk" in capsys.readouterr().out


def test_stop_stops_the_running_job_and_says_how_to_continue(history: FakeDashboard, console: Console) -> None:
    jobs.stop("s", history.address, console)
    assert history.stopped == ["s-2"]
    again = f"`python -m jepa_ray.sweep resume s --address {history.address}` continues the sweep"
    assert f"job s-2 has stopped; {again}" in printed(console)
    jobs.stop("s", history.address, console)
    assert history.stopped == ["s-2"]
    assert "not running: its newest job s-2 ended as STOPPED" in printed(console)


def test_resume_needs_nothing_but_the_name(history: FakeDashboard, console: Console) -> None:
    history.jobs["s-2"].state = "STOPPED"
    history.jobs["s-2"].notes = {"jepa_ray_output": "/shared/out put", "jepa_ray_storage": "s3://b/p"}
    assert jobs.resume("s", history.address, console) == 0
    submitted = history.submitted[0]
    assert submitted["entrypoint"] == (
        "exec python -m jepa_ray.sweep resume s --address auto --storage s3://b/p --output '/shared/out put'"
    )
    assert submitted["metadata"]["jepa_ray_sweep"] == "s"
    assert "spec.yaml" not in contents(history)
    history.jobs[submitted["submission_id"]].state = "STOPPED"
    jobs.resume("s", history.address, console)  # a resumed job has the same notes
    assert history.submitted[1]["entrypoint"] == submitted["entrypoint"]


def test_another_spec_of_the_name_of_a_resumed_sweep_is_refused(
    server: FakeDashboard, console: Console, tmp_path: Path
) -> None:
    jobs.submit(spec(tmp_path), server.address, console)
    next(iter(server.jobs.values())).started -= 60
    jobs.resume("s", server.address, console)
    server.jobs[server.submitted[1]["submission_id"]].state = "RUNNING"
    with pytest.raises(ConfigError, match="with another spec"):
        jobs.submit(spec(tmp_path, space={"training.ema_decay": [0.9, 0.999]}), server.address, console)


def test_a_storage_given_to_resume_takes_precedence(history: FakeDashboard, console: Console) -> None:
    history.jobs["s-2"].state = "STOPPED"
    history.jobs["s-2"].notes = {"jepa_ray_output": "/old"}
    jobs.resume("s", history.address, console, storage="/new")
    assert history.submitted[0]["entrypoint"].endswith("resume s --address auto --storage /new")


def test_a_name_that_a_new_head_does_not_know_is_resumed_from_the_storage(
    history: FakeDashboard, console: Console
) -> None:
    jobs.resume("before", history.address, console, output=Path("/shared"))
    assert history.submitted[0]["entrypoint"].endswith("resume before --address auto --output /shared")


def test_resume_follows_the_job_that_runs_already(history: FakeDashboard, console: Console) -> None:
    threading.Timer(0.3, lambda: setattr(history.jobs["s-2"], "state", "STOPPED")).start()
    assert jobs.resume("s", history.address, console) == 130
    assert history.submitted == []


@pytest.mark.parametrize("name", ["../x", "a b", "", "x;reboot"])
def test_resume_of_an_invalid_name_is_refused(history: FakeDashboard, console: Console, name: str) -> None:
    with pytest.raises(ConfigError):
        jobs.resume(name, history.address, console)
    assert history.submitted == []


def test_resume_with_a_password_on_the_command_line_is_refused(history: FakeDashboard, console: Console) -> None:
    with pytest.raises(ConfigError, match="--storage") as error:
        jobs.resume("t", history.address, console, storage="s3://key:hunter2@bucket/p")
    assert "hunter2" not in str(error.value)
    assert history.submitted == []


# ------------------------------------------------------------------------------------------ as a command line


def called(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["command", *args])
    with pytest.raises(SystemExit) as ended:
        cli.run(app, "command")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("words", [[], ["run"]])
def test_a_command_with_a_spec_and_an_address_submits_a_job(
    server: FakeDashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    spec(tmp_path)
    args = ["--address", server.address, "--output", "/shared", str(tmp_path / "s.yaml"), "--set", "name=u"]
    assert called(monkeypatch, *words, *args) == 0
    assert server.submitted[0]["metadata"]["jepa_ray_sweep"] == "u"
    assert server.submitted[0]["entrypoint"].endswith("--output /shared")


def test_watch_only_submits_nothing(
    history: FakeDashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history.jobs["s-2"].state, history.jobs["s-2"].exit_code = "FAILED", 1
    spec(tmp_path)
    assert called(monkeypatch, str(tmp_path / "s.yaml"), "--watch-only", "--address", history.address) == 1
    assert history.submitted == []
    assert "trial_00011" in capsys.readouterr().out


def test_the_address_may_come_from_rays_variable(
    history: FakeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", history.address)
    assert called(monkeypatch, "status", "t") == 0
    assert "t-1" in capsys.readouterr().out


def test_a_dry_run_shows_the_capacity_of_the_cluster(
    server: FakeDashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec(tmp_path, resources={"cpus_per_worker": 16, "max_concurrent": "auto"})
    assert called(monkeypatch, str(tmp_path / "s.yaml"), "--dry-run", "--address", server.address) == 0
    out = capsys.readouterr().out
    assert "groups: 2 at once" in out
    assert f"the cluster at {server.address} has 32 cpus and 4 gpus" in out
    assert server.submitted == []


def command(server: FakeDashboard, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jepa_ray.sweep", *args, "--address", server.address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_does_not_stop_the_job(history: FakeDashboard) -> None:
    running = command(history, "logs", "s")
    assert running.stdout
    assert running.stdout.readline().startswith("trial_00000")
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")
    assert "the sweep goes on as job s-2; `python -m jepa_ray.sweep logs s" in out
    assert history.stopped == []
    assert history.jobs["s-2"].state == "RUNNING"


def test_a_reader_that_closes_the_pipe_causes_no_error(history: FakeDashboard) -> None:
    history.jobs["s-2"].log = LOG * 2000  # more than a pipe holds
    running = command(history, "logs", "s")
    assert running.stdout
    assert running.stderr
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(60) == 141
    assert running.stderr.read() == ""
    running.stderr.close()
