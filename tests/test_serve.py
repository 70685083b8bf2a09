"""The command lines that `serve` builds, and the settings that it refuses. No process is started."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_ray import cli
from jepa_ray.errors import ConfigError, JepaRayError
from jepa_ray.machine import is_loopback
from jepa_ray.secrets import find_ray_token
from jepa_ray.serve import bucket, program
from jepa_ray.serve.__main__ import app
from jepa_ray.serve.program import Program

TOKEN = "0123456789abcdef" * 4
PASSWORD = "a password of the admin"
Started = Callable[..., Program]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of a user without tokens and secrets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*program.SECRETS, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """`started("head", ...)` -> the program that the command would start."""
    programs: list[Program] = []
    monkeypatch.setattr(Program, "replace_process", lambda program: programs.append(program))
    monkeypatch.setattr("jepa_ray.serve.nodes.wait_for", lambda *_: None)

    def run(*arguments: str) -> Program:
        app(list(arguments), standalone_mode=False)
        return programs.pop()

    return run


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return TOKEN


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.4", "10.0.0.7", "8.8.8.8", "ray-head", "*", "127.evil.org"]
)
def test_a_dashboard_that_other_machines_can_reach_needs_a_token(host: str, started: Started) -> None:
    with pytest.raises(ConfigError, match=r"can run any command.*RAY_AUTH_TOKEN_PATH"):
        started("head", "--host", host)


def test_a_refusal_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "head", "--host", "0.0.0.0"])
    with pytest.raises(SystemExit) as stopped:
        cli.run(app, "serve")
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert printed.err.startswith("error: --host 0.0.0.0: there is no token")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "none"])
def test_authentication_cannot_be_switched_off(
    host: str, mode: str, started: Started, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not even with the dashboard on loopback: Ray's other ports listen on every interface.
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is"):
        started("head", "--host", host)
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE is"):
        started("worker", "--address", "head:6379")


@pytest.mark.parametrize("bad", ["x" * 31, "secret", "   "])
def test_a_token_that_can_be_guessed_is_refused(bad: str, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", bad)
    with pytest.raises(ConfigError) as refused:
        started("head", "--host", "0.0.0.0")
    assert not bad.strip() or bad not in str(refused.value)


def test_a_token_file_must_exist_and_hold_a_token(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    for arguments in (("head",), ("head", "--host=0.0.0.0"), ("worker", "--address=head:6379")):
        path.unlink(missing_ok=True)
        with pytest.raises(ConfigError, match="cannot be read"):
            started(*arguments)
        path.write_text(" \n")
        with pytest.raises(ConfigError, match="is empty"):
            started(*arguments)


def test_an_empty_default_token_file_counts_as_no_token(started: Started, tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text(" \n")
    assert find_ray_token({"HOME": str(tmp_path)}) is None
    with pytest.raises(ConfigError, match="there is no token"):
        started("worker", "--address", "head:6379")
    started("head")
    assert len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rays_token_is_searched_in_rays_order(tmp_path: Path) -> None:
    default, named = tmp_path / ".ray" / "auth_token", tmp_path / "named"
    env = {"HOME": str(tmp_path)}
    assert find_ray_token(env) is None
    default.parent.mkdir()
    for text, path in (("of the default file", default), ("of the named file", named)):
        path.write_text(f" {text}\n")
    places = [
        ({}, "of the default file", str(default)),
        ({"RAY_AUTH_TOKEN_PATH": str(named)}, "of the named file", str(named)),
        (
            {"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": " of the variable "},
            "of the variable",
            "RAY_AUTH_TOKEN",
        ),
        ({"RAY_AUTH_TOKEN": "  "}, "of the default file", str(default)),
    ]
    for variables, value, source in places:
        token = find_ray_token(env | variables)
        assert token is not None
        assert (token.value, token.source) == (value, source)
        assert value not in repr(token)


@pytest.mark.parametrize("text", ["two\nlines", "schlüssel", "a\x07bell"])
def test_rays_token_is_one_line_of_ascii(text: str) -> None:
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN: the token must be one line of printable ASCII") as refused:
        find_ray_token({"RAY_AUTH_TOKEN": text})
    assert text not in str(refused.value)


def test_a_head_on_loopback_makes_a_token_that_only_its_owner_can_read(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = started("head")
    path = tmp_path / ".ray" / "auth_token"
    made = path.read_text()
    assert len(made) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert program.env["RAY_AUTH_MODE"] == "token"
    printed = capsys.readouterr().out
    assert str(path) in printed
    assert made not in printed + " ".join(program.argv)
    started("head")
    assert path.read_text() == made


def test_a_worker_without_a_token_is_refused_and_makes_no_token(started: Started, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no token"):
        started("worker", "--address", "head:6379")
    assert not (tmp_path / ".ray").exists()


def test_the_head_s_command_line(started: Started, token: str) -> None:
    program = started("head", "--host", "0.0.0.0", "--node-ports", "7000", "--num-gpus", "2")
    assert {
        "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=0.0.0.0", "--port=6379",
        "--num-cpus=0", "--num-gpus=2", "--metrics-export-port=8080", "--node-manager-port=7000",
        "--object-manager-port=7001", "--runtime-env-agent-port=7002", "--dashboard-agent-grpc-port=7003",
        "--dashboard-agent-listen-port=7004", "--min-worker-port=10002", "--max-worker-port=19999",
    } <= set(program.argv)  # fmt: skip
    assert program.env["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("command", [("head",), ("worker", "--address=head:6379")])
def test_ray_knows_every_option(command: tuple[str, ...], started: Started, token: str) -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    program = started(*command, "--node-ip=10.0.0.2", '--resources={"disk": 1}', "--temp-dir=/t", "--num-gpus=1")
    options = program.argv[program.argv.index("start") + 1 :]
    assert {option.split("=")[0] for option in options} <= known


def test_mlflow_knows_every_option(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.cli import server

    known = {option for parameter in server.params for option in parameter.opts}
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    program = started("mlflow", *PUBLIC, "--backend-store-uri=sqlite:///x.db")
    options = program.argv[program.argv.index("server") + 1 :]
    assert {option.split("=")[0] for option in options} <= known


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head", "--resources", "[1]"], "JSON object"),
        (["head", "--resources", "{'a': 1}"], "JSON object"),
        (["head", "--worker-ports", "5-9"], "--worker-ports"),
        (
            ["head", "--worker-ports", "9000"],
            "--worker-ports '9000': must be LOW-HIGH with 1024 <= LOW < HIGH <= 65535",
        ),
        (["worker", "--address", "head"], "HOST:PORT"),
        (["worker", "--address", "head:0"], "HOST:PORT"),
        (["worker", "--address", "http://head:6379/x"], "HOST:PORT"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str, started: Started, token: str) -> None:
    with pytest.raises(ConfigError, match=message):
        started(*arguments)


def test_a_worker_gives_up_waiting_for_its_head() -> None:
    with pytest.raises(JepaRayError, match="no Ray head answered within 0 s"):
        program.wait_for("127.0.0.1:1", 0, "Ray head")


PUBLIC = ("--host=0.0.0.0", "--allowed-hosts=mlflow:5000", "--artifacts-destination=s3://bucket/mlflow")
STORE = "--backend-store-uri=postgresql+psycopg2://mlflow@postgres/mlflow"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=0.0.0.0", "--no-auth", "--allowed-hosts=mlflow:5000"], "--no-auth is for loopback"),
        (["--host=0.0.0.0"], "--allowed-hosts is missing"),
        (["--host=mlflow"], "--allowed-hosts is missing"),
        (["--host=0.0.0.0", "--allowed-hosts=*"], "allows every name"),
        (["--host=0.0.0.0", "--allowed-hosts=mlflow:5000,*:*"], "allows every name"),
        (["--host=127.0.0.1", "--allowed-hosts=*"], "allows every name"),
        (["--backend-store-uri=postgresql+psycopg2://mlflow:pw@postgres/mlflow"], "contains a password"),
        (["--backend-store-uri=postgresql://mlflow@postgres/mlflow"], "psycopg2"),
    ],
)
def test_an_mlflow_server_with_unsafe_settings_is_refused(
    arguments: list[str], message: str, started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    given = arguments if any("store-uri" in each for each in arguments) else [STORE, *arguments]
    with pytest.raises(ConfigError, match=message):
        started("mlflow", "--artifacts-destination=x", *given)
    assert not (tmp_path / ".jepa_ray").exists()


@pytest.mark.parametrize("password", ["", "password1234", "short-pass"])
def test_a_known_or_short_admin_password_is_refused(
    password: str, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", password)
    with pytest.raises(ConfigError, match="MLFLOW_AUTH_ADMIN_PASSWORD") as refused:
        started("mlflow", STORE, "--artifacts-destination=x")
    assert not password or password not in str(refused.value)


def test_the_mlflow_server_has_users_and_runs_no_code(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "http://elsewhere")
    program = started("mlflow", *PUBLIC, STORE)
    assert {"--app-name=basic-auth", "--allowed-hosts=mlflow:5000", "--host=0.0.0.0"} <= set(program.argv)
    assert program.env["MLFLOW_AUTH_ADMIN_PASSWORD"] == PASSWORD
    assert program.env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert program.env["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] == "false"
    assert "MLFLOW_DEPLOYMENTS_TARGET" not in program.env
    assert len(program.env["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    users = Path(program.env["MLFLOW_AUTH_CONFIG_PATH"])
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert PASSWORD not in users.read_text() + " ".join(program.argv) + repr(program)


def test_mlflow_reads_the_users_file(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    import configparser

    store = "postgresql+psycopg2://mlflow:p%40ss@postgres/mlflow"
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", store)
    program = started("mlflow", *PUBLIC)
    read = configparser.ConfigParser()
    read.read(program.env["MLFLOW_AUTH_CONFIG_PATH"])
    assert read["mlflow"]["database_uri"] == store
    assert store not in " ".join(program.argv)


def test_only_a_server_on_loopback_may_run_without_users(started: Started) -> None:
    program = started("mlflow", "--no-auth", "--backend-store-uri=sqlite:///x.db", "--artifacts-destination=a")
    assert "--app-name=basic-auth" not in program.argv


def test_secrets_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("the key\n")
    filled = program.with_secrets({"AWS_ACCESS_KEY_ID_FILE": str(path), "SSL_CERT_FILE": "/etc/ssl/certs.pem"})
    assert filled == {"AWS_ACCESS_KEY_ID": "the key", "SSL_CERT_FILE": "/etc/ssl/certs.pem"}
    with pytest.raises(ConfigError, match="both set"):
        program.with_secrets({"AWS_ACCESS_KEY_ID_FILE": str(path), "AWS_ACCESS_KEY_ID": "x"})
    with pytest.raises(ConfigError, match=r"AWS_SECRET_ACCESS_KEY_FILE: .*gone cannot be read"):
        program.with_secrets({"AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("", False), ("localhost.evil.org", False), ("::ffff:10.0.0.1", False)],
)  # fmt: skip
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("name", ["", "a", "UPPER", "a/b", "../x", "s3://bucket", "a b"])
def test_an_invalid_bucket_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case"):
        bucket.make_bucket(name, 0)


def test_a_job_finds_the_python_that_runs_the_cluster(
    started: Started, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")  # as if the virtual environment were not activated
    program = started("head")
    assert program.env["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
