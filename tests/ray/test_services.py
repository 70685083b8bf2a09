"""The services of docker/compose.yaml, started with its commands: every request without credentials is refused."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from helpers.cluster_services import HERE, POSTGRES, Services

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not POSTGRES[-1].is_file(), reason="PostgreSQL's server is not installed"),
]

WRONG_TOKEN = "0" * 64
REFUSED = {401, 403}

# (method, path) of requests to Ray's dashboard and Jobs API.
RAY = [
    ("GET", "/api/version"),
    ("GET", "/api/jobs/"),
    ("POST", "/api/jobs/"),
    ("GET", "/api/jobs/some"),
    ("GET", "/api/jobs/some/logs"),
    ("GET", "/api/jobs/some/logs/tail"),
    ("POST", "/api/jobs/some/stop"),
    ("DELETE", "/api/jobs/some"),
    ("GET", "/api/packages/gcs/some.zip"),
    ("PUT", "/api/packages/gcs/some.zip"),
    ("GET", "/nodes?view=summary"),
    ("GET", "/nodes/some"),
    ("GET", "/api/v0/nodes"),
    ("GET", "/api/v0/actors"),
    ("GET", "/api/v0/tasks"),
    ("GET", "/api/v0/workers"),
    ("GET", "/api/v0/logs?node_ip=127.0.0.1"),
    ("GET", "/api/v0/logs/file?node_ip=127.0.0.1&filename=raylet.out"),
    ("GET", "/logical/actors"),
    ("GET", "/api/actors/kill?actor_id=some"),
    ("GET", "/api/cluster_status"),
    ("GET", "/api/serve/applications/"),
    ("PUT", "/api/serve/applications/"),
    ("DELETE", "/api/serve/applications/"),
    ("GET", "/api/train/v2/runs/v1"),
    ("GET", "/worker/traceback?ip=127.0.0.1&pid=1"),
    ("GET", "/worker/cpu_profile?ip=127.0.0.1&pid=1"),
    ("GET", "/events"),
]
RAY_PUBLIC = {
    "/": "the dashboard's page, which asks for the token before it shows anything",
    "/favicon.ico": "a picture",
    "/api/authentication_mode": "says that a token is needed",
    "/api/healthz": "health check",
    "/api/gcs_healthz": "health check",
    "/api/local_raylet_healthz": "health check",
    "/-/healthz": "health check",
}
NODE_HTTP = [("agent", "POST", "/api/job_agent/jobs/"), ("agent", "GET", "/logs"), ("agent", "GET", "/api/none"),
             ("environments", "POST", "/get_or_create_runtime_env"), ("environments", "GET", "/")]  # fmt: skip
GRPC = [
    ("ray-head", "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"),
    ("ray-head", "/ray.rpc.JobInfoGcsService/GetAllJobInfo"),
    ("ray-head", "/ray.rpc.InternalKVGcsService/InternalKVGet"),
    ("client", "/ray.rpc.RayletDriver/ClusterInfo"),
    ("raylet", "/ray.rpc.NodeManagerService/GetNodeStats"),
    ("objects", "/ray.rpc.ObjectManagerService/Pull"),
    ("agent-grpc", "/ray.rpc.ReporterService/GetTraceback"),
]

MLFLOW = [
    ("GET", "/"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/signup"),
    ("POST", "/api/2.0/mlflow/experiments/create"),
    ("GET", "/api/2.0/mlflow/experiments/search?max_results=1"),
    ("POST", "/api/2.0/mlflow/experiments/delete"),
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("POST", "/api/2.0/mlflow/runs/search"),
    ("POST", "/api/2.0/mlflow/runs/log-batch"),
    ("GET", "/api/2.0/mlflow/artifacts/list?run_id=some"),
    ("GET", "/get-artifact?path=some&run_uuid=some"),
    ("GET", "/model-versions/get-artifact?path=some&name=some&version=1"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
    ("GET", "/api/2.0/mlflow-artifacts/artifacts/some"),
    ("PUT", "/api/2.0/mlflow-artifacts/artifacts/some"),
    ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/some"),
    ("POST", "/api/2.0/mlflow/registered-models/create"),
    ("GET", "/api/2.0/mlflow/registered-models/search"),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete"),
    ("POST", "/graphql"),
    ("GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"),
    ("POST", "/ajax-api/2.0/mlflow/runs/search"),
    ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ("POST", "/gateway/some/mlflow/invocations"),
    ("POST", "/gateway/mlflow/v1/chat/completions"),
    ("GET", "/ajax-api/3.0/jobs/some"),
    ("POST", "/ajax-api/3.0/jobs/"),
    ("POST", "/v1/traces"),
    ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
    ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
    ("POST", "/api/2.0/mlflow/webhooks/create"),
    ("POST", "/api/3.0/mlflow/traces/search"),
    ("GET", "/api/2.0/mlflow/users/get?username=admin"),
    ("POST", "/api/2.0/mlflow/users/create"),
    ("PATCH", "/api/2.0/mlflow/users/update-password"),
    ("PATCH", "/api/2.0/mlflow/users/update-admin"),
    ("DELETE", "/api/2.0/mlflow/users/delete"),
]
MLFLOW_PUBLIC = {
    "/health": "health check",
    "/api/3.0/mlflow/server-info": "the server's features, for clients before they log in",
    "/ajax-api/3.0/mlflow/server-info": "the server's features, for its pages",
    "/static-files/some": "scripts and pictures of its pages",
}
# These requests succeed with the right credentials, so the requests above are refused because they have none.
CONTROLS = [
    ("dashboard", "GET", "/api/version"),
    ("dashboard", "GET", "/api/jobs/"),
    ("dashboard", "GET", "/nodes?view=summary"),
    ("dashboard", "GET", "/api/v0/actors"),
    ("mlflow", "GET", "/version"),
    ("mlflow", "GET", "/api/2.0/mlflow/experiments/search?max_results=1"),
    ("mlflow", "POST", "/api/2.0/mlflow/runs/search"),
    ("mlflow", "GET", "/api/2.0/mlflow/users/get?username=admin"),
    ("mlflow", "GET", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"),
]
ROUTES = """
import re, sys
from mlflow.server import app as flask, auth
auth._init_store_for_app = lambda: None  # only the routes are needed, not the tables
app = auth.create_app()
for rule in flask.url_map.iter_rules():
    for method in rule.methods - {"HEAD", "OPTIONS"}:
        print("ROUTE", method, re.sub("<[^>]+>", "some", rule.rule))
for included in app.routes:
    for route in getattr(included, "effective_candidates", list)():
        for method in set(getattr(route, "methods", None) or ()) - {"HEAD", "OPTIONS"}:
            print("ROUTE", method, re.sub("{[^}]+}", "some", route.path))
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    services = Services(folder)
    try:
        services.up()
        yield services
    finally:
        services.down()
        shutil.rmtree(services.temp, ignore_errors=True)


def ask(
    services: Services, port: str | int, method: str, path: str, headers: Mapping[str, str], host: str = HERE
) -> tuple[int, str]:
    """Send a request; returns the status of the answer and the beginning of its text."""
    number = port if isinstance(port, int) else services.ports[port]
    connection = http.client.HTTPConnection(host, number, timeout=60)
    sent = {"Content-Type": "application/json", "Host": f"{HERE}:{number}", **headers}
    connection.request(method, path, body=None if method == "GET" else b"{}", headers=sent)
    answer = connection.getresponse()
    text = answer.read(4000).decode(errors="replace")
    connection.close()
    return answer.status, text


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}


def accepted(
    services: Services, port: str, requests: list[tuple[str, str]], headers: Mapping[str, str]
) -> list[tuple[str, str, int, str]]:
    """Send requests; returns those that were not refused, with status and beginning of the answer."""

    def one(request: tuple[str, str]) -> tuple[str, str, int, str]:
        status, text = ask(services, port, *request, headers)
        return (*request, status, text[:100])

    with ThreadPoolExecutor(4) as pool:
        return [answer for answer in pool.map(one, requests) if answer[2] not in REFUSED]


COOKIE = {"Cookie": f"ray-authentication-token={WRONG_TOKEN}"}


@pytest.mark.parametrize("headers", [{}, bearer(WRONG_TOKEN), COOKIE], ids=["nothing", "a token", "a cookie"])
def test_ray_refuses(services: Services, headers: dict[str, str]) -> None:
    assert accepted(services, "dashboard", RAY, headers) == []


def test_ray_refuses_on_every_route_that_it_has(services: Services) -> None:
    log = (services.temp / "ray" / "session_latest" / "logs" / "dashboard.log").read_text()
    found = {(method, path) for method, path in re.findall(r"ResourceRoute \[(\w+)\] <\w+ +([^\s>]+)", log)}
    assert len(found) > 40
    routes = [(method, re.sub(r"\{[^}]+\}", "some", path)) for method, path in sorted(found)]
    assert {path for _, path, *_ in accepted(services, "dashboard", routes, {})} <= set(RAY_PUBLIC)


def test_a_job_is_only_run_with_the_right_token(services: Services, tmp_path: Path) -> None:
    for headers, status in (({}, 401), (bearer(WRONG_TOKEN), 403), (bearer(services.secrets["ray_token"]), 200)):
        connection = http.client.HTTPConnection(HERE, services.ports["dashboard"], timeout=60)
        body = json.dumps({"entrypoint": f"touch {tmp_path / f'ran_{status}'}"})
        connection.request("POST", "/api/jobs/", body=body, headers={"Content-Type": "application/json", **headers})
        assert connection.getresponse().status == status
        connection.close()
    deadline = time.monotonic() + 120
    while not (tmp_path / "ran_200").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["ran_200"]


def test_the_nodes_own_ports_refuse(services: Services) -> None:
    me = _address_of(services, services.ports["head-node"] + 2)
    ports = {"agent": services.ports["head-node"] + 4, "environments": services.ports["head-node"] + 2}
    for name, method, path in NODE_HTTP:
        for headers in ({}, bearer(WRONG_TOKEN)):
            status, text = ask(services, ports[name], method, path, headers, me)
            assert status in REFUSED, (name, method, path, status, text)


def _address_of(services: Services, port: int) -> str:
    (found,) = {each.laddr.ip for each in psutil.net_connections("tcp")
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port}  # fmt: skip
    return found


@pytest.mark.parametrize(("name", "method"), GRPC)
def test_ray_s_own_protocol_refuses(services: Services, name: str, method: str) -> None:
    first = services.ports["head-node"]
    ports = {**services.ports, "raylet": first, "objects": first + 1, "agent-grpc": first + 3}
    answers = []
    for token in (None, WRONG_TOKEN, services.secrets["ray_token"]):
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        with grpc.insecure_channel(f"{HERE}:{ports[name]}") as channel:
            try:
                channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
                answers.append("answered")
            except grpc.RpcError as error:
                answers.append(error.code().name)
    assert answers[:2] == ["UNAUTHENTICATED"] * 2
    # Ray Client does not answer an empty request, but with the token it reports NOT_FOUND.
    assert answers[2] == ("NOT_FOUND" if name == "client" else "answered")


@pytest.mark.parametrize("headers", [{}, basic("a wrong password"), bearer(WRONG_TOKEN)],
                         ids=["nothing", "a wrong password", "a token"])  # fmt: skip
def test_mlflow_refuses(services: Services, headers: dict[str, str]) -> None:
    assert accepted(services, "mlflow", MLFLOW, headers) == []


def test_mlflow_refuses_requests_for_another_host_name(services: Services) -> None:
    # As sent by a malicious web page through a browser, which may even know the password.
    headers = {"Host": "evil.example", **basic(services.secrets["mlflow_password"])}
    assert {path for _, path, *_ in accepted(services, "mlflow", MLFLOW, headers)} == {"/version"}


def test_mlflow_refuses_on_every_route_that_it_has(services: Services, tmp_path: Path) -> None:
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/a.db\n"
    )
    env = services.environment({}) | {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": "not that of the server",
        "_MLFLOW_SGI_NAME": "uvicorn", "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{tmp_path}/s.db",
    }  # fmt: skip
    listed = subprocess.run(
        [sys.executable, "-c", ROUTES], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    routes = re.findall(r"^ROUTE (\w+) (\S+)$", listed.stdout, re.M)
    assert len(routes) > 400, listed.stderr
    assert {path for _, path, *_ in accepted(services, "mlflow", routes, {})} <= set(MLFLOW_PUBLIC)


def test_public_pages_show_no_secret(services: Services) -> None:
    opened = [("dashboard", path) for path in RAY_PUBLIC] + [("mlflow", path) for path in MLFLOW_PUBLIC]
    # Metrics for Prometheus, which Ray does not protect: compose does not publish these ports.
    opened += [("head-metrics", "/metrics"), ("worker-metrics", "/metrics")]
    for port, path in opened:
        status, text = ask(services, port, "GET", path, {})
        assert status in (200, 404, 503), (port, path, status)
        assert not [name for name, secret in services.secrets.items() if secret in text], path


def test_the_right_credentials_are_accepted(services: Services) -> None:
    credentials = {
        "dashboard": bearer(services.secrets["ray_token"]),
        "mlflow": basic(services.secrets["mlflow_password"]),
    }
    for port, method, path in CONTROLS:
        body = ask(services, port, method, path, credentials[port])
        assert body[0] == 200 or (path.endswith("runs/search") and body[0] == 400), (port, method, path, body)


def test_features_that_run_code_are_off_even_for_the_administrator(services: Services) -> None:
    headers = basic(services.secrets["mlflow_password"])
    for method, path in (
        ("POST", "/gateway/some/mlflow/invocations"),
        ("POST", "/gateway/mlflow/v1/chat/completions"),
        ("POST", "/ajax-api/3.0/jobs/"),
    ):
        status, text = ask(services, "mlflow", method, path, headers)
        assert status >= 400, (path, status, text)


def test_runs_and_artifacts_go_to_the_database_and_the_bucket(
    services: Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from pyarrow import fs

    node = services.services["ray-worker"]
    from jepa_ray.serve.program import with_secrets

    env = with_secrets(services.environment(node))
    for name in env:
        if name.startswith(("AWS_", "MLFLOW_")):
            monkeypatch.setenv(name, env[name])
    client = MlflowClient(env["MLFLOW_TRACKING_URI"])
    run = client.create_run(client.create_experiment("from a node"))
    client.log_metric(run.info.run_id, "loss", 0.5)
    (tmp_path / "note.txt").write_text("kept in the bucket")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
    store, path = fs.FileSystem.from_uri("s3://jepa/mlflow")
    found = store.get_file_info(fs.FileSelector(path, recursive=True))
    assert [each.base_name for each in found if each.type == fs.FileType.File] == ["note.txt"]


def test_both_nodes_are_up_and_the_head_offers_no_cpus(services: Services) -> None:
    headers = bearer(services.secrets["ray_token"])
    _, text = ask(services, "dashboard", "GET", "/api/v0/nodes?detail=1", headers)
    found = re.findall(r'"is_head_node": (true|false)', text)
    assert sorted(found) == ["false", "true"]
    _, status = ask(services, "dashboard", "GET", "/api/cluster_status", headers)
    assert re.search(r"0\.0/1\.0 CPU", status), status


def test_command_lines_and_logs_show_no_secret(services: Services) -> None:
    shown = "".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    logs = [*services.folder.glob("*.log"), *services.temp.glob("ray/session_*/logs/*.*")]
    assert len(logs) > 20
    shown += "".join(path.read_text(errors="replace") for path in logs if path.is_file())
    assert [name for name, secret in services.secrets.items() if secret in shown] == []


def test_a_stop_signal_ends_the_programs(services: Services) -> None:  # the last test, since it ends the services
    for name in ("worker", "head", "mlflow"):
        program = services.running[name]
        family = psutil.Process(program.pid).children(recursive=True)
        assert family
        program.terminate()
        program.wait(60)
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, (name, [process.name() for process in alive])
