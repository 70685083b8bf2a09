"""The files of docker/ are valid, keep our rules, and match the code. Each check is tested with a broken file."""

from __future__ import annotations

import copy
import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import compose_file
from helpers.compose_file import DOCKER

import jepa_ray
from jepa_ray.serve.__main__ import app
from jepa_ray.serve.mlflow_server import MIN_PASSWORD
from jepa_ray.serve.nodes import MIN_TOKEN
from jepa_ray.serve.program import Program

Tree = dict[str, Any]
ROOT = DOCKER.parent
MANIFESTS = sorted((DOCKER / "kuberay").glob("*.yaml"))
PINNED = re.compile(r"[\w./-]+:v?\d[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?")
A_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|CREDENTIAL")


def pinned(image: str) -> bool:
    """Whether the tag of the image is a version of at least two parts, like 12.4."""
    return bool(PINNED.fullmatch(image)) and "." in image.rsplit(":", 1)[-1]


# Dockerfiles


def hadolint(text: str, folder: Path) -> str:
    (folder / "Dockerfile").write_text(text)
    program = str(Path(sys.executable).with_name("hadolint"))
    done = subprocess.run([program, "Dockerfile"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_hadolint_passes(name: str, tmp_path: Path) -> None:
    text = (DOCKER / name).read_text()
    assert hadolint(text, tmp_path) == ""
    assert "DL3006" in hadolint(text + "FROM python\n", tmp_path)
    assert "DL3025" in hadolint(text.replace('CMD ["--help"]', "CMD --help"), tmp_path)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_an_image_is_pinned_and_runs_as_an_ordinary_user(name: str) -> None:
    text = (DOCKER / name).read_text()
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.M)
    assert pinned(base)
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${PYTHON_IMAGE}"}
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == "1000:1000"
    assert f"VERSION={jepa_ray.__version__}\n" in text


def test_the_two_dockerfiles_differ_only_in_torch() -> None:
    def instructions(name: str) -> list[str]:
        lines = (DOCKER / name).read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    cpu, cuda = instructions("Dockerfile"), instructions("Dockerfile.cuda")
    assert [line for line in cpu if line not in cuda] == ["ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    assert [line.split("=")[0] for line in cuda if line not in cpu] == ["ARG TORCH_INDEX", "ENV NVIDIA_VISIBLE_DEVICES"]


def test_secrets_and_outputs_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "outputs", "docker/secrets", "docker/.env"} <= set(ignored)


# Compose


@pytest.fixture
def compose() -> Tree:
    return compose_file.load()


def schema_errors(tree: Tree) -> list[str]:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    return [error.message for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(tree)]


def test_compose_is_valid_by_its_schema(compose: Tree) -> None:
    assert schema_errors(compose) == []
    assert schema_errors(yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())) == []
    compose["services"]["mlflow"]["helthcheck"] = {}
    assert schema_errors(compose) != []


def rules_broken(tree: Tree) -> Iterator[str]:
    """The violations of our own rules in a compose file."""
    for name, service in tree["services"].items():
        if not pinned(service["image"]):
            yield f"{name}: the image is not pinned"
        if "healthcheck" not in service and service.get("restart") != "no":
            yield f"{name}: no health check"
        if "no-new-privileges:true" not in service.get("security_opt", ()) or service.get("cap_drop") != ["ALL"]:
            yield f"{name}: more privileges than it needs"
        if not service.get("read_only") or service.get("privileged"):
            yield f"{name}: it can write to its image"
        if {"memory", "cpus"} - set(service.get("deploy", {}).get("resources", {}).get("limits", ())):
            yield f"{name}: no limits"
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{name}: {port} is open to everyone"
        for key, value in service.get("environment", {}).items():
            if A_SECRET.search(key) and not key.endswith(("_FILE", "_PATH", "__FILE")):
                yield f"{name}: {key} contains a secret, {value}"
        if set(service.get("secrets", ())) - set(tree["secrets"]):
            yield f"{name}: an unknown secret"
        if service["image"].startswith("jepa-ray:") and service.get("user"):
            yield f"{name}: not the image's user"
    for name in ("postgres", "s3", "prometheus"):
        if tree["services"][name].get("ports"):
            yield f"{name}: published"
        if not all(tree["networks"][network].get("internal") for network in tree["services"][name]["networks"]):
            yield f"{name}: on an open network"


def test_compose_follows_our_rules(compose: Tree) -> None:
    assert list(rules_broken(compose)) == []


def _service(name: str, **changes: Any) -> Callable[[Tree], None]:
    return lambda tree: tree["services"][name].update(changes)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (_service("postgres", image="postgres"), "not pinned"),
        (_service("postgres", image="postgres:latest"), "not pinned"),
        (_service("grafana", image="grafana/grafana:12"), "not pinned"),
        (_service("grafana", ports=["3000:3000"]), "open to everyone"),
        (_service("mlflow", ports=["0.0.0.0:5000:5000"]), "open to everyone"),
        (_service("ray-head", ports=[8265]), "open to everyone"),
        (_service("mlflow", security_opt=[]), "more privileges"),
        (_service("ray-worker", cap_drop=[]), "more privileges"),
        (_service("ray-worker", privileged=True), "write to its image"),
        (_service("ray-worker", deploy={}), "no limits"),
        (_service("ray-worker", user="0:0"), "not the image's user"),
        (_service("ray-worker", secrets=["aws"]), "unknown secret"),
        (_service("postgres", environment={"POSTGRES_PASSWORD": "mlflow"}), "contains a secret"),
        (_service("postgres", networks=["cluster"]), "open network"),
        (_service("s3", ports=["127.0.0.1:8333:8333"]), "published"),
        (lambda tree: tree["services"]["s3"].pop("healthcheck"), "no health check"),
    ],
)
def test_a_violated_rule_is_found(compose: Tree, break_it: Callable[[Tree], Any], message: str) -> None:
    tree = copy.deepcopy(compose)
    break_it(tree)
    assert any(message in broken for broken in rules_broken(tree)), list(rules_broken(tree))


def test_one_setting_changes_the_address_of_all_ports() -> None:
    compose = compose_file.load({"BIND": "10.1.2.3"})
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("10.1.2.3:") for port in ports)


def test_the_settings_of_the_example_are_the_defaults_and_contain_no_secret() -> None:
    text = (DOCKER / ".env.example").read_text()
    settings = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    assert not [name for name in settings if A_SECRET.search(name)]
    used = set(compose_file.SETTING.findall((DOCKER / "compose.yaml").read_text()))
    assert used == set(settings.items())


def test_serve_accepts_the_commands_of_compose(compose: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs: list[Program] = []
    monkeypatch.setattr(Program, "replace_process", lambda program: programs.append(program))
    monkeypatch.setattr("jepa_ray.serve.nodes.wait_for", lambda *_: None)
    monkeypatch.setattr("jepa_ray.serve.__main__.make_bucket", lambda *_: True)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * MIN_TOKEN)
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "y" * MIN_PASSWORD)
    built_here = {name: each for name, each in compose["services"].items() if each["image"].startswith("jepa-ray:")}
    assert set(built_here) == {"bucket", "mlflow", "ray-head", "ray-worker"}
    for service in built_here.values():
        serve, *arguments = service["command"]
        assert serve == "serve"
        app([each.replace("/tmp/mlflow", str(tmp_path)) for each in arguments], standalone_mode=False)
    assert len(programs) == 3
    with pytest.raises(Exception, match="No such option"):
        app(["head", "--hots=0.0.0.0"], standalone_mode=False)


def test_services_start_after_those_that_they_need(compose: Tree) -> None:
    order = compose_file.start_order(compose["services"])
    for earlier, later in [("postgres", "mlflow"), ("s3", "bucket"), ("bucket", "mlflow"), ("mlflow", "ray-head"),
                           ("ray-head", "ray-worker")]:  # fmt: skip
        assert order.index(earlier) < order.index(later)


# Secrets


def test_secrets_are_created_once_and_are_private(compose: Tree, tmp_path: Path) -> None:
    shutil.copy(DOCKER / "init.sh", tmp_path)
    shutil.copy(DOCKER / ".env.example", tmp_path)
    first = subprocess.run(["sh", "init.sh"], cwd=tmp_path, capture_output=True, text=True, check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {f"./secrets/{name}" for name in made} == {each["file"] for each in compose["secrets"].values()}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert len(set(made.values())) == len(made)
    assert not [text for text in made.values() if text in first.stdout + first.stderr]
    assert len(made["ray_token"]) >= MIN_TOKEN
    assert min(len(made[name]) for name in made if name.endswith("password")) >= MIN_PASSWORD
    (identity,) = json.loads(made["s3_identities.json"])["identities"]
    assert identity["credentials"] == [{"accessKey": made["s3_access_key"], "secretKey": made["s3_secret_key"]}]
    again = subprocess.run(["sh", "init.sh"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stdout == ""
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}


# Metrics


def metrics_used(dashboard: Tree) -> set[str]:
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return set(re.findall(r"\bray_\w+", " ".join(expressions)))


def metrics_exported() -> set[str]:
    from ray.dashboard.modules.reporter import reporter_agent

    own = re.findall(r'self\._gauge\("(\w+)"', (ROOT / "jepa_ray/sweep/output/gauges.py").read_text())
    rays = re.findall(r'^ +"((?:node|cluster)_\w+)",$', Path(reporter_agent.__file__).read_text(), re.M)
    return {f"ray_jepa_ray_{name}" for name in own} | {f"ray_{name}" for name in rays}


def test_the_dashboard_uses_exactly_the_exported_metrics() -> None:
    dashboard = json.loads((DOCKER / "grafana/dashboards/jepa_sweep.json").read_text())
    assert dashboard["title"] == "JEPA sweep"
    used, exported = metrics_used(dashboard), metrics_exported()
    assert used <= exported, used - exported
    assert {name for name in exported if "jepa" in name} <= used
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_reads_the_ports_on_which_ray_exports(compose: Tree) -> None:
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    (found,) = config["scrape_configs"][0]["dns_sd_configs"]
    for name in found["names"]:
        service = compose["services"][name]
        assert f"--metrics-port={found['port']}" in service["command"]
        assert "watch" in service["networks"]


def test_grafana_finds_its_files(compose: Tree) -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/jepa.yaml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    dashboard = (DOCKER / "grafana/dashboards/jepa_sweep.json").read_text()
    assert set(re.findall(r'"uid": "(\w+)"', dashboard)) - {"jepa-sweep"} == {source["uid"]}


# Kubernetes


def documents() -> list[Tree]:
    return [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]


def cluster_of(document: Tree) -> Tree:
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def pods(document: Tree) -> list[Tree]:
    cluster = cluster_of(document)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]} for group in groups]


def manifest_errors(document: Tree) -> Iterator[str]:
    """The violations of Kubernetes' schema, of the schema of Ray's kinds, and of our rules in a manifest."""
    if document["apiVersion"] != "ray.io/v1":
        yield from _kubernetes_errors(document)
        return
    schema = json.loads((Path(__file__).parent / "schemas" / "ray.json").read_text())
    errors = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]
    yield from errors
    if errors:
        return
    for pod in pods(document):
        yield from _kubernetes_errors(pod)
        yield from _pod_rules_broken(pod["spec"])


def _kubernetes_errors(document: Tree) -> Iterator[str]:
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        yield str(error)


def _pod_rules_broken(spec: Tree) -> Iterator[str]:
    context = spec.get("securityContext", {})
    if not context.get("runAsNonRoot") or context.get("runAsUser", 0) == 0:
        yield "the pod may run as root"
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{container['name']}: more privileges than it needs"
        if not pinned(container["image"]):
            yield f"{container['name']}: the image is not pinned"
        if set(container.get("resources", {})) != {"requests", "limits"}:
            yield f"{container['name']}: no limits"
        for variable in container.get("env", ()):
            if A_SECRET.search(variable["name"]) and "value" in variable:
                yield f"{container['name']}: {variable['name']} contains a secret"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid_and_follow_our_rules(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert list(manifest_errors(document)) == []
        assert document["metadata"]["namespace"] == "jepa"


def _head(tree: Tree) -> Tree:
    return cluster_of(tree)["headGroupSpec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda tree: cluster_of(tree).pop("authOptions"), "authOptions"),
        (lambda tree: cluster_of(tree)["authOptions"].update(mode="disabled"), "disabled"),
        (lambda tree: cluster_of(tree).update(headGroup={}), "headGroup"),
        (lambda tree: _head(tree).update(containres=[]), "containres"),
        (lambda tree: _head(tree)["containers"][0].update(image="jepa-ray:latest"), "not pinned"),
        (lambda tree: _head(tree)["containers"][0].pop("securityContext"), "more privileges"),
        (lambda tree: _head(tree)["containers"][0].pop("resources"), "no limits"),
        (lambda tree: _head(tree).pop("securityContext"), "root"),
        (lambda tree: _head(tree)["containers"][0].update(env=[{"name": "RAY_AUTH_TOKEN", "value": "x"}]), "secret"),
        (lambda tree: _head(tree)["containers"][0]["ports"][0].update(containerPort="6379"), "6379"),
    ],
)
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_an_invalid_manifest_is_found(kind: str, break_it: Callable[[Tree], Any], message: str) -> None:
    (document,) = (each for each in documents() if each["kind"] == kind)
    document = copy.deepcopy(document)
    break_it(document)
    assert any(message in error for error in manifest_errors(document)), list(manifest_errors(document))


def test_an_invalid_policy_is_found() -> None:
    policies = [each for each in documents() if each["kind"] == "NetworkPolicy"]
    assert len(policies) == 3
    policies[0]["spec"]["podselector"] = {}
    assert list(manifest_errors(policies[0]))


def test_the_cluster_runs_the_ray_and_the_image_of_this_version() -> None:
    (ray,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    rays = [each for each in documents() if each["apiVersion"] == "ray.io/v1"]
    assert {cluster_of(each)["rayVersion"] for each in rays} == {ray}
    images = {container["image"] for each in rays for pod in pods(each) for container in pod["spec"]["containers"]}
    assert images == {f"jepa-ray:{jepa_ray.__version__}", f"jepa-ray:{jepa_ray.__version__}-cuda"}
    assert compose_file.load()["services"]["ray-head"]["image"] == f"jepa-ray:{jepa_ray.__version__}"
