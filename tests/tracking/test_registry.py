"""The registered model, loaded by its name in a process that cannot import this package."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import RestException

from jepa_ray.config import Objective, TrackingConfig, TrainConfig
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.model.jepa import JEPA, build_jepa
from jepa_ray.sweep.output import descriptions
from jepa_ray.tracking import ModelCard, Tracker, default_uri
from jepa_ray.tracking.registry import REQUIREMENTS, ship
from jepa_ray.train.checkpoint import describe, to_bytes

ABSENT = ("ray", "optuna", "jepa_ray", "h5py", "rich", "typer", "tests")
LOAD_AND_PREDICT = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT!r}))  # importing them raises ImportError
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/unit@best")
given = dict(np.load(sys.argv[2]))
np.savez(sys.argv[3], **model.predict(given))
assert not [name for name in sys.modules if name.split(".")[0] in {ABSENT!r} and sys.modules[name]]
"""


@dataclasses.dataclass(frozen=True)
class Made:
    """A trained model, and the store that it was registered in."""

    model: JEPA
    data: TrajectoryDataset
    card: ModelCard
    output: Path
    tracker: Tracker
    message: str

    def given(self, steps: int) -> dict[str, Any]:
        """Observations of some validation rows as stored on disk, and the actions that follow each of them."""
        rows = self.data.val_index[:ROWS]
        seen = self.data.observations(rows)
        if self.data.spec.is_pixels:
            seen = seen.movedim(1, -1)
        times = rows[:, None] + torch.arange(steps)
        actions = self.data.actions(times.flatten()).unflatten(0, (len(rows), steps))
        return {"observations": seen.numpy(), "actions": actions.numpy()}


ROWS = 3
Make = Callable[..., Made]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(config: TrainConfig, key: str = "sweep/0", uri: str | None = None) -> Made:
        output = tmp_path / "out"
        data = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
        torch.manual_seed(zlib.crc32(key.encode()))  # not hash(), which differs between processes
        model = build_jepa(config.model, data.spec).eval()
        card = make_card(model, config, data, tmp_path, key)
        tracker = Tracker(TrackingConfig(uri=uri), output, "unit")
        parent = tracker.open_run("sweep", "sweep", {})
        run = tracker.open_run(key, "trial", {}, parent=parent)
        card = dataclasses.replace(card, run=run.result())
        message = tracker.register(parent, card)
        tracker.flush()
        return Made(model, data, card, output, tracker, message.result())

    return made


def make_card(model: JEPA, config: TrainConfig, data: TrajectoryDataset, folder: Path, key: str) -> ModelCard:
    """The card that a sweep would make of its best trial."""
    weights = folder / "best_jepa_model.pt"
    weights.write_bytes(to_bytes(describe(config, data.spec) | {"model": model.state_dict(), "epoch": 1}))
    (folder / "best_config.yaml").write_text("model: {}\n")
    loaded = descriptions.load(weights)
    inputs, outputs = descriptions._make_signature(loaded)
    example = descriptions._make_example(loaded)
    return ModelCard(
        "unit", key, "", (weights, folder / "best_config.yaml"), inputs, outputs, example, "It is good.",
        tags={"objective": str(Objective())}, params={"training.learning_rate": "0.001"},
    )  # fmt: skip


def expected(made: Made, steps: int) -> dict[str, Any]:
    """The embeddings, and the roll-out from them, computed by the code that validates during training."""
    rows = made.data.val_index[:ROWS]
    times = rows[:, None] + torch.arange(steps)
    actions = made.data.actions(times.flatten()).unflatten(0, (len(rows), steps))
    with torch.no_grad():
        state = made.model.encode(made.data.observations(rows))
        ahead = made.model.rollout(state, actions)
    return {"embeddings": state.numpy(), "predictions": ahead.numpy()}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == np.float32
        largest = max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6 * largest)  # float32 sums


def loaded_here(output: Path) -> Any:
    mlflow.set_tracking_uri(default_uri(output))
    return mlflow.pyfunc.load_model("models:/unit@best")


def test_a_registered_model_predicts_the_same_without_this_package(
    make: Make, train_config: TrainConfig, tmp_path: Path
) -> None:
    made = make(train_config)
    np.savez(tmp_path / "given.npz", **made.given(3))
    arguments = [default_uri(made.output), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    own["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums in another order differ in the last bits
    subprocess.run([sys.executable, "-c", LOAD_AND_PREDICT, *arguments], check=True, cwd=tmp_path, env=own)
    assert_same(dict(np.load(tmp_path / "found.npz")), expected(made, 3))


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_vector_observations_with_both_kinds_of_actions(
    make: Make, train_config: TrainConfig, canonical_h5: Callable[..., Path], actions: str
) -> None:
    path = canonical_h5(observation="vector", actions=actions)
    source = {"data.builtin": None, "data.path": str(path), "data.action_normalisation": "zscore"}
    made = make(train_config.with_overrides({"model.encoder_type": "mlp", "data.frame_stack": 2, **source}))
    assert_same(loaded_here(made.output).predict(made.given(2)), expected(made, 2))


def test_zero_steps_give_embeddings_only_and_the_raw_model_is_accessible(make: Make, train_config: TrainConfig) -> None:
    made = make(train_config)
    model, given = loaded_here(made.output), made.given(2)
    found = model.predict({**given, "actions": given["actions"][:, :0]})
    assert found["predictions"].shape == (ROWS, 0, 16)
    np.testing.assert_allclose(found["embeddings"], expected(made, 2)["embeddings"], rtol=0, atol=1e-6)
    raw = model.get_raw_model()
    np.testing.assert_array_equal(raw.encode(given["observations"]).numpy(), found["embeddings"])


def test_a_registered_model_is_described_and_holds_no_pickle(make: Make, train_config: TrainConfig) -> None:
    """Its signature, example, config, tags and runs are recorded; no file of it has to be unpickled."""
    made = make(train_config)
    assert made.message == "the best model is models:/unit@best in MLflow, version 1"
    model = loaded_here(made.output)
    assert [t.name for t in model.metadata.get_input_schema().inputs] == ["observations", "actions"]
    assert model.metadata.get_output_schema().inputs[1].shape == (-1, -1, 16)
    example = model.input_example
    assert model.predict({name: np.asarray(values) for name, values in example.items()})["predictions"].shape[0] == 1
    client = MlflowClient(default_uri(made.output))
    version = client.get_model_version_by_alias("unit", "best")
    assert version.tags["objective"] == "max val_rollout_mrr"
    assert (version.run_id, version.description) == (made.card.run, "It is good.")
    (logged,) = client.search_logged_models([made.tracker._experiment])
    assert (logged.source_run_id, logged.params) == (made.card.run, dict(made.card.params))
    for run in made.tracker.known_runs("sweep"):  # the sweep's and its trial's
        listed = client.get_run(run.id).outputs.model_outputs
        assert [output.model_id for output in listed] == [logged.model_id]
    files = {path.name for path in (made.output / "mlartifacts").rglob("*") if path.is_file()}
    assert {"MLmodel", "best_jepa_model.pt", "best_config.yaml", "requirements.txt", "pyfunc.py"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pyc"))]


def test_registering_a_model_twice_makes_one_version(make: Make, train_config: TrainConfig) -> None:
    """A sweep that is resumed at its very end registers it again; a later sweep's best model takes the alias."""
    first = make(train_config)
    assert make(train_config).message == first.message
    client = MlflowClient(default_uri(first.output))
    assert len(client.search_model_versions("name = 'unit'")) == 1
    assert make(train_config, key="other/3").message.endswith("version 2")
    assert client.get_model_version_by_alias("unit", "best").version in (2, "2")
    assert len(client.search_model_versions("name = 'unit'")) == 2


def test_an_interrupted_registration_leaves_no_second_model(make: Make, train_config: TrainConfig) -> None:
    """Killed after the files were written and before the version: the next session registers the model again."""
    first = make(train_config)
    client = MlflowClient(default_uri(first.output))
    client.delete_model_version("unit", "1")
    made = make(train_config)
    assert made.message.endswith("version 2") or made.message.endswith("version 1")
    assert len(client.search_logged_models([made.tracker._experiment])) == 1


@pytest.mark.parametrize("source", ["tracking.uri", "MLFLOW_TRACKING_URI"])
def test_artifacts_of_a_named_database_are_stored_beside_it(
    make: Make, train_config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """And nothing appears in the working directory, where MLflow would create `mlruns`."""
    (database := tmp_path / "database" / "runs.db").parent.mkdir()
    (work := tmp_path / "work").mkdir()
    monkeypatch.chdir(work)
    uri = f"sqlite:///{database}"
    if source == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(source, uri)
    made = make(train_config, uri=uri if source == "tracking.uri" else None)
    made.tracker.attach(run := made.tracker.open_run("sweep", "sweep", {}), [tmp_path / "best_config.yaml"])
    made.tracker.flush()
    client = MlflowClient(uri)
    assert [file.path for file in client.list_artifacts(run.result())] == ["best_config.yaml"]
    assert client.get_model_version_by_alias("unit", "best").version in (1, "1")
    files = {path.name for path in (database.parent / "mlartifacts").rglob("*") if path.is_file()}
    assert {"best_config.yaml", "MLmodel", "best_jepa_model.pt"} <= files
    assert list(work.iterdir()) == []


def test_an_experiment_keeps_its_artifact_location(tmp_path: Path) -> None:
    uri, location = f"sqlite:///{tmp_path / 'runs.db'}", (tmp_path / "elsewhere").as_uri()
    experiment = MlflowClient(uri).create_experiment("unit", location)
    tracker = Tracker(TrackingConfig(uri=uri), tmp_path / "out", "unit")
    run = tracker.open_run("sweep", "sweep", {}).result()
    found = MlflowClient(uri).get_run(run).info
    assert (found.experiment_id, found.artifact_uri) == (experiment, f"{location}/{run}/artifacts")


def test_a_store_without_a_registry_is_reported_and_raises_no_error(
    make: Make, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: Any, **named: Any) -> None:
        raise RestException({"error_code": "ENDPOINT_NOT_FOUND", "message": "no such endpoint"})

    monkeypatch.setattr(MlflowClient, "search_model_versions", unknown)
    made = make(train_config)
    assert "the best model is not in MLflow's registry" in made.message
    assert "no such endpoint" in made.message
    made.tracker.tag(made.card.run, {"still": "written"})
    made.tracker.flush()


def test_changed_code_is_shipped_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of several sweeps, and an installed jepa-ray, can then be loaded in one process."""
    one = ship(tmp_path / "a")
    assert ship(tmp_path / "b").name == one.name
    assert not [path for path in one.rglob("*.py") if "from jepa_ray." in path.read_text()]
    (tmp_path / "changed").mkdir()
    for name in [path.relative_to(one) for path in one.rglob("*.py")]:
        target = tmp_path / "changed" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((one / name).read_text() + "\n# changed")
    monkeypatch.setattr("jepa_ray.tracking.registry.PACKAGE", tmp_path / "changed")
    assert ship(tmp_path / "c").name != one.name


def test_a_registered_model_requires_the_versions_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(REQUIREMENTS) <= set(project["dependencies"])
