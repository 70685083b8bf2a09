"""The registered model, loaded as a stranger would: by its name, without the package that made it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
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
from jepa_ray.tracking.registry import ship
from jepa_ray.train.checkpoint import describe, to_bytes

ABSENT = ("ray", "optuna", "jepa_ray", "h5py", "rich", "typer", "tests")
STRANGER = f"""
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
    """A model as training leaves it, and where it was tracked."""

    model: JEPA
    data: TrajectoryDataset
    card: ModelCard
    output: Path
    tracker: Tracker
    said: str

    def given(self, steps: int) -> dict[str, Any]:
        """Observations of some validation rows as they lie on disk, and the actions that follow each."""
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
    def made(config: TrainConfig, key: str = "sweep/0", output: Path | None = None) -> Made:
        output = output or tmp_path / "out"
        data = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
        torch.manual_seed(zlib.crc32(key.encode()))  # not hash(), which differs from process to process
        model = build_jepa(config.model, data.spec).eval()
        card = carded(model, config, data, tmp_path, key)
        tracker = Tracker(TrackingConfig(), output, "unit")
        parent = tracker.open_run("sweep", "sweep", {})
        run = tracker.open_run(key, "trial", {}, parent=parent)
        card = dataclasses.replace(card, run=run.result())
        said = tracker.register(parent, card)
        tracker.flush()
        return Made(model, data, card, output, tracker, said.result())

    return made


def carded(model: JEPA, config: TrainConfig, data: TrajectoryDataset, folder: Path, key: str) -> ModelCard:
    """As a sweep makes one of its best trial."""
    weights = folder / "best_jepa_model.pt"
    weights.write_bytes(to_bytes(describe(config, data.spec) | {"model": model.state_dict(), "epoch": 1}))
    (folder / "best_config.yaml").write_text("model: {}\n")
    loaded = descriptions.load(weights)
    inputs, outputs = descriptions._signature(loaded)
    example = descriptions._example(loaded)
    return ModelCard(
        "unit", key, "", (weights, folder / "best_config.yaml"), inputs, outputs, example, "It is good.",
        tags={"objective": str(Objective())}, params={"training.learning_rate": "0.001"},
    )  # fmt: skip


def expected(made: Made, steps: int) -> dict[str, Any]:
    """By the code that validates in training: its embeddings, and its roll-out from them."""
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


def test_without_this_package_it_gives_the_numbers_of_the_training_code(
    make: Make, train_config: TrainConfig, tmp_path: Path
) -> None:
    made = make(train_config)
    np.savez(tmp_path / "given.npz", **made.given(3))
    arguments = [default_uri(made.output), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    own["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums in another order differ in the last bits
    subprocess.run([sys.executable, "-c", STRANGER, *arguments], check=True, cwd=tmp_path, env=own)
    assert_same(dict(np.load(tmp_path / "found.npz")), expected(made, 3))


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_vectors_and_both_kinds_of_actions(
    make: Make, train_config: TrainConfig, canonical_h5: Callable[..., Path], actions: str
) -> None:
    path = canonical_h5(observation="vector", actions=actions)
    source = {"data.builtin": None, "data.path": str(path), "data.action_normalisation": "zscore"}
    made = make(train_config.with_overrides({"model.encoder_type": "mlp", "data.frame_stack": 2, **source}))
    assert_same(loaded_here(made.output).predict(made.given(2)), expected(made, 2))


def test_no_steps_give_embeddings_alone_and_the_raw_model_can_all(make: Make, train_config: TrainConfig) -> None:
    made = make(train_config)
    model, given = loaded_here(made.output), made.given(2)
    found = model.predict({**given, "actions": given["actions"][:, :0]})
    assert found["predictions"].shape == (ROWS, 0, 16)
    np.testing.assert_allclose(found["embeddings"], expected(made, 2)["embeddings"], rtol=0, atol=1e-6)
    raw = model.get_raw_model()
    np.testing.assert_array_equal(raw.encode(given["observations"]).numpy(), found["embeddings"])


def test_it_says_what_it_is(make: Make, train_config: TrainConfig) -> None:
    """Signature, example, config, tags, runs: and nothing that unpickling could run."""
    made = make(train_config)
    assert made.said == "the best model is models:/unit@best in MLflow, version 1"
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


def test_a_model_has_one_version_however_often_it_is_told(make: Make, train_config: TrainConfig) -> None:
    """A sweep that is resumed at its very end tells it again; a later sweep's best takes the alias."""
    first = make(train_config)
    assert make(train_config).said == first.said
    client = MlflowClient(default_uri(first.output))
    assert len(client.search_model_versions("name = 'unit'")) == 1
    assert make(train_config, key="other/3").said.endswith("version 2")
    assert client.get_model_version_by_alias("unit", "best").version in (2, "2")
    assert len(client.search_model_versions("name = 'unit'")) == 2


def test_what_was_cut_off_leaves_no_half_model(make: Make, train_config: TrainConfig) -> None:
    """Killed between the files and the version: the next session begins that again."""
    first = make(train_config)
    client = MlflowClient(default_uri(first.output))
    client.delete_model_version("unit", "1")
    made = make(train_config)
    assert made.said.endswith("version 2") or made.said.endswith("version 1")
    assert len(client.search_logged_models([made.tracker._experiment])) == 1


def test_a_store_without_a_registry_is_told_in_a_line_and_fails_nothing(
    make: Make, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: Any, **named: Any) -> None:
        raise RestException({"error_code": "ENDPOINT_NOT_FOUND", "message": "no such endpoint"})

    monkeypatch.setattr(MlflowClient, "search_model_versions", unknown)
    made = make(train_config)
    assert "the best model is not in MLflow's registry" in made.said
    assert "no such endpoint" in made.said
    made.tracker.tag(made.card.run, {"still": "written"})
    made.tracker.flush()


def test_other_code_has_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that versions of several sweeps, and an installed jepa-ray, can be loaded side by side."""
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
