"""Secrets are named in configs and filled in where they are used, and appear in no output of a command."""

from __future__ import annotations

import base64
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from rich.console import Console

from jepa_ray import cli, secrets
from jepa_ray.config import (
    SweepConfig,
    SweepTracking,
    TrackingConfig,
    TrainConfig,
    load_sweep_config,
    load_train_config,
)
from jepa_ray.errors import ConfigError
from jepa_ray.tracking import Tracker

ROOT = Path(__file__).parent.parent
PASSWORD = "correct/horse 9@ttery"  # with characters that must be quoted in a URI
USED = "http://me:${env:JEPA_TEST_PASSWORD}@127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("JEPA_TEST_PASSWORD", PASSWORD)
    monkeypatch.setattr(secrets, "_known", {})
    secrets._pattern.cache_clear()
    yield PASSWORD
    secrets._pattern.cache_clear()


# ------------------------------------------------------------------------------------------- resolve


def test_a_template_is_filled_in_and_quoted_where_a_uri_needs_it() -> None:
    assert secrets.resolve("${env:JEPA_TEST_PASSWORD}") == PASSWORD
    quoted = "correct%2Fhorse%209%40ttery"
    assert secrets.resolve("http://me:${env:JEPA_TEST_PASSWORD}@host/a") == f"http://me:{quoted}@host/a"
    assert secrets.resolve("s3://b/p?secret_key=${env:JEPA_TEST_PASSWORD}") == f"s3://b/p?secret_key={quoted}"
    assert secrets.resolve("sqlite:////data/${env:JEPA_TEST_PASSWORD}") == f"sqlite:////data/{PASSWORD}"
    assert secrets.resolve("no template, $HOME, ${HOME}") == "no template, $HOME, ${HOME}"


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named_with_its_key(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JEPA_TEST_PASSWORD")
    if value is not None:
        monkeypatch.setenv("JEPA_TEST_PASSWORD", value)
    says = r"^tracking.uri: \$\{env:JEPA_TEST_PASSWORD\} cannot be filled in: .* JEPA_TEST_PASSWORD is (not set|empty)$"
    with pytest.raises(ConfigError, match=says):
        secrets.resolve("http://me:${env:JEPA_TEST_PASSWORD}@host", "tracking.uri")


@pytest.mark.parametrize("text", ["${env:}", "${env}", "${ env:A}", "${env:A", "${env:1A}", "${env:A-B}", "${ENV:A}"])
def test_a_malformed_template_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as \$\{env:NAME\}"):
        secrets.resolve(text)
    with pytest.raises(ValueError, match=r"write it as \$\{env:NAME\}"):
        secrets.check(text)


# ---------------------------------------------------------------------------------------------- mask


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        "correct%2Fhorse%209%40ttery",
        "correct/horse%209%40ttery",
        "correct%2Fhorse+9%40ttery",
        f"x{PASSWORD}y",
        repr(f"{PASSWORD}"),
    ],
)
def test_every_form_of_a_value_is_masked(form: str) -> None:
    assert secrets.mask(form) == form  # the value is not known yet
    secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    masked = secrets.mask(f"a {form} b")
    assert "horse" not in masked
    assert "${env:JEPA_TEST_PASSWORD}" in masked


def test_the_longest_value_takes_precedence_and_a_mask_is_not_masked_again() -> None:
    secrets.remember("SHORT", "swordfish")
    secrets.remember("LONG", "swordfish-and-more")
    secrets.remember("NAMED", "SHORT!")
    assert secrets.mask("swordfish-and-more swordfish") == "${env:LONG} ${env:SHORT}"


def test_short_values_are_masked_only_as_whole_words() -> None:
    secrets.remember("PORT", "80")
    secrets.remember("USER", "mars")
    assert secrets.mask("80 of 1800 marsupials, said mars") == "80 of 1800 marsupials, said ${env:USER}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://me:pa@ss@host/x", "http://me:***@host/x"),
        ("at postgresql+psycopg2://u:p4ss@db:5432/mlflow, no", "at postgresql+psycopg2://u:***@db:5432/mlflow, no"),
        ("https://ghp_0123456789abcdefgh@github.com/a/b", "https://***@github.com/a/b"),
        ("s3://b/p?access_key=AKIA&secret_key=abc&region=x", "s3://b/p?access_key=***&secret_key=***&region=x"),
        ("https://a.net/c?sv=1&sig=Zm9v%3D", "https://a.net/c?sv=1&sig=***"),
        ("http://me:${env:A}@host?token=${env:B}", "http://me:${env:A}@host?token=${env:B}"),
        ("sqlite:////tmp/x.db and http://host:80/a@b", "sqlite:////tmp/x.db and http://host:80/a@b"),
        ("mail me@host: 3", "mail me@host: 3"),
    ],
)
def test_credentials_of_any_uri_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert secrets.mask(text) == masked


# ------------------------------------------------------------------------------------------- configs

BASE = {"data": {"builtin": "two_rooms"}}
LITERAL = [
    ("http://me:hunter2@host", "contains a password: write ${env:NAME} instead"),
    ("postgresql://me:hunter2@db/mlflow", "contains a password"),
    ("https://0123456789abcdef0123@host", "contains a token"),
    ("s3://b?access_key=A&secret_key=hunter2", "contains the value of access_key"),
    ("s3://b?region=x&session_token=hunter2", "contains the value of session_token"),
    ("https://a.net/c?sig=hunter2", "contains the value of sig"),
]


@pytest.mark.parametrize(("uri", "says"), LITERAL)
@pytest.mark.parametrize("key", ["tracking.uri", "storage", "base.data.path", "base.experiment.tracking.uri"])
def test_a_literal_credential_is_refused_and_not_shown(tmp_path: Path, key: str, uri: str, says: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "base": BASE, "space": {"training.ema_decay": [0.9]}}))
    sets = [f"{key}='{uri}'", *(["base.data.builtin=null"] if key == "base.data.path" else [])]
    with pytest.raises(ConfigError) as caught:
        load_sweep_config(path, sets)
    assert f"{key}: {says}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["tracking.uri", "storage"])
def test_a_spec_keeps_the_template(tmp_path: Path, key: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "s", "base": BASE, "space": {"training.ema_decay": [0.9]}}))
    spec = load_sweep_config(path, [f"{key}=s3://k:${{env:JEPA_TEST_PASSWORD}}@b"])
    assert "${env:JEPA_TEST_PASSWORD}" in yaml.safe_dump(spec.to_dict())


ONLY = "but only data.path, experiment.tracking.uri may contain a secret: it would not be filled in here"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"experiment": {"tracking": {"experiment": "${env:A}"}}}, ONLY),
        ({"experiment": {"tracking": {"wandb": "${env:A}"}}}, ONLY),
        ({"experiment": {"name": "${env:A}"}}, ONLY),
        ({"data": {"builtin": None, "path": "${env:A}/data.h5"}}, "which is filled in only in a URI, but this is a"),
        ({"data": {"builtin": "two_rooms", "cache_dir": "${env:A}"}}, ONLY),
        ({"model": {"${env:A}": 1}}, ONLY),
    ],
)
def test_a_template_in_another_key_is_refused_with_the_reason(
    tmp_path: Path, values: dict[str, object], says: str
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(BASE | values))
    with pytest.raises(ConfigError) as caught:
        load_train_config(path)
    assert f"contains ${{env:...}}, {says}" in str(caught.value)


# ------------------------------------------------------------------------------------------ output


def test_the_console_masks_before_it_styles_and_wraps() -> None:
    secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    for console in (cli.MaskingConsole, Console):
        out = io.StringIO()
        printed = console(file=out, width=20, force_terminal=True)
        printed.print(f"mlflow ui --backend-store-uri http://me:{PASSWORD}@host:5000")
        printed.print(f"[bold]{PASSWORD}[/bold]", markup=True)
        assert ("ttery" in out.getvalue()) == (
            console is Console
        )  # a plain console shows that the text contained the secret


def test_a_masked_stream_masks_log_records_and_printed_texts() -> None:
    out = io.StringIO()
    stream = secrets.Masked(out)
    secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    handler = logging.StreamHandler(stream)  # type: ignore[arg-type]
    handler.handle(logging.makeLogRecord({"msg": f"connecting to http://me:{PASSWORD}@h"}))
    print("also", PASSWORD, file=stream)  # type: ignore[call-overload]
    assert PASSWORD not in out.getvalue()
    assert out.getvalue().count("${env:JEPA_TEST_PASSWORD}") == 2


BUG = """
import sys
from jepa_ray import cli, secrets
import typer
app = typer.Typer(pretty_exceptions_enable=False)
@app.command()
def main() -> None:
    value = secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    print("said", value)
    raise RuntimeError(f"a bug with {value} in it")
cli.run(app, "bug")
"""


def test_the_traceback_of_a_bug_does_not_contain_the_secret() -> None:
    done = subprocess.run([sys.executable, "-c", BUG], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RuntimeError: a bug with ${env:JEPA_TEST_PASSWORD} in it" in done.stderr
    assert done.stdout == "said ${env:JEPA_TEST_PASSWORD}\n"


# -------------------------------------------------------------------------- the tracker, files and studies


class Refusing(BaseHTTPRequestHandler):
    """A server that refuses every client, records its credentials, and repeats its password in the answer."""

    received: ClassVar[list[str]] = []

    def answer(self) -> None:
        header = self.headers.get("Authorization", "")
        self.received.append(header)
        credentials = base64.b64decode(header.removeprefix("Basic ")).decode() if header else ""
        body = f'{{"error_code": "PERMISSION_DENIED", "message": "not with {credentials}"}}'.encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    Refusing.received.clear()
    httpd = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd.server_port
    httpd.shutdown()


def received_the_password() -> bool:
    return f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}" in Refusing.received


def test_the_tracker_uses_the_secret_but_its_error_does_not_contain_it(server: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Tracker(TrackingConfig(uri=USED.replace("{port}", str(server))), tmp_path, "e")
    assert received_the_password()
    assert "PERMISSION_DENIED" in str(caught.value)
    assert "not with me:${env:JEPA_TEST_PASSWORD}" in str(caught.value)
    assert "horse" not in str(caught.value)


def test_without_a_uri_the_environment_names_the_server(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter22@127.0.0.1:{server}")
    with pytest.raises(ConfigError, match=rf"tracking.uri http://me:\*\*\*@127.0.0.1:{server}: cannot be opened"):
        Tracker(SweepTracking(), tmp_path, "e")
    assert f"Basic {base64.b64encode(b'me:hunter22').decode()}" in Refusing.received


def test_params_tags_and_descriptions_are_masked_in_the_database(tmp_path: Path) -> None:
    secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    tracker = Tracker(TrackingConfig(), tmp_path, "e")
    run = tracker.open_run("k", f"name {PASSWORD}", {"a": f"http://me:{PASSWORD}@h"}, tags={"t": PASSWORD})
    tracker.tag(run, {"error": f"failed at http://me:{PASSWORD}@h", "git": "https://u:pw123456@git/x"})
    tracker.describe(run, f"see {PASSWORD}")
    tracker.close_run(run)
    tracker.flush()
    stored = (tmp_path / "mlflow.db").read_bytes()
    assert stored.count(b"${env:JEPA_TEST_PASSWORD}") >= 5
    assert b"ttery" not in stored
    assert b"pw123456" not in stored


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_refused_run_leaves_the_secret_nowhere(server: int, tmp_path: Path, train_config: TrainConfig) -> None:
    config = train_config.with_overrides({"experiment.tracking.uri": USED.replace("{port}", str(server))})
    path, out = tmp_path / "train.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "jepa_ray.train", "--config", str(path), "--output", str(out)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert received_the_password()
    left = everything_in(tmp_path) + done.stdout + done.stderr
    assert b"${env:JEPA_TEST_PASSWORD}" in left
    for form in (PASSWORD.encode(), b"horse", b"9%40ttery", base64.b64encode(f"me:{PASSWORD}".encode())):
        assert form not in left


def test_the_study_masks_errors(tmp_path: Path) -> None:
    from jepa_ray.sweep.storage.study import Study

    spec = SweepConfig.model_validate({"name": "s", "base": BASE, "space": {"training.ema_decay": [0.9, 0.99]}})
    study = Study.open(spec, tmp_path / "optuna.db")
    secrets.resolve("${env:JEPA_TEST_PASSWORD}")
    number = study.optuna.ask({}).number
    study.begin(number)
    study.note(number, error=f"cannot reach http://me:{PASSWORD}@h")
    assert study.record(number).error == "cannot reach http://me:${env:JEPA_TEST_PASSWORD}@h"
    assert b"ttery" not in everything_in(tmp_path)
