"""The descriptions of a sweep, its dataset and its model in MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.data.dataset_source_registry import get_dataset_source_from_json
from mlflow.data.schema import TensorDatasetSchema
from optuna.storages import InMemoryStorage

from jepa_ray.config import METRICS, DataConfig, SweepConfig, TrainConfig
from jepa_ray.data.cache import ensure_cache
from jepa_ray.sweep.output import descriptions
from jepa_ray.sweep.ranking import rank_trials
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.study import Study


@pytest.fixture
def study(train_config: TrainConfig) -> Study:
    """Two trials of two epochs, the second one better, and one that failed."""
    spec: dict[str, Any] = {
        "name": "unit",
        "base": train_config.to_dict(),
        "space": {"training.learning_rate": [1e-4, 1e-3, 1e-2]},
        "search": {"algorithm": "grid", "num_trials": 3, "enqueue_base": False},
        "early_stopping": {"enabled": False, "max_epochs": 2},
    }
    study = Study(SweepConfig.model_validate(spec), InMemoryStorage())
    search = Search(study)
    for value in (0.25, 0.5, None):
        record = search.ask()
        assert record is not None
        for epoch in (1, 2) if value else ():
            study.report(record.number, epoch, dict.fromkeys(METRICS, value), last=epoch == 2)
        if value is None:
            study.note(record.number, error="the loss is not finite")
        study.finish(record.number, failed=value is None)
    return study


class TestDataset:
    def test_the_card_has_the_fingerprint_and_the_content_of_the_cache(self, train_config: TrainConfig) -> None:
        card = descriptions.make_dataset_card(train_config.data)
        assert ensure_cache(train_config.data).name.endswith(card.digest)
        assert (card.name, card.source, card.builtin) == ("two_rooms", "two_rooms", True)
        assert card.profile["trajectories"] == 40
        assert card.profile["rows"] == 40 * 13
        assert card.profile["observation"] == "32 x 32 x 3 uint8"
        assert card.profile["actions"] == "2 numbers"

    def test_mlflow_reads_the_card_back(self, canonical_h5: Callable[..., Path], tmp_path: Path) -> None:
        path = canonical_h5(observation="vector", actions="discrete")
        dataset = descriptions.make_dataset_card(DataConfig(path=path, cache_dir=tmp_path / "cache")).entity().dataset
        source = get_dataset_source_from_json(dataset.source, source_type=dataset.source_type)
        assert source.uri == str(path)
        features = TensorDatasetSchema.from_dict(json.loads(dataset.schema)).features
        assert {t.name: (t.type, t.shape) for t in features.inputs} == {
            "observation": (np.dtype(np.float32), (-1, 3)),
            "action": (np.dtype(np.int64), (-1,)),
            "state": (np.dtype(np.float32), (-1, 2)),
        }
        assert json.loads(dataset.profile)["actions"] == "4 discrete"

    def test_other_data_settings_have_another_digest(self, train_config: TrainConfig) -> None:
        other = train_config.with_overrides({"data.grayscale": True}).data
        assert descriptions.make_dataset_card(other).digest != descriptions.make_dataset_card(train_config.data).digest


class TestMarkdown:
    def test_a_finished_sweep_has_its_best_trials_its_cost_and_the_commands_to_use_it(self, study: Study) -> None:
        text = descriptions.describe_finished_sweep(study, rank_trials(study))
        assert "### Best trial: `trial_00001`, val_rollout_mrr **0.5**" in text
        rows = [[cell.strip().removesuffix("&emsp;") for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        assert ["rank", "trial", "status", "epochs", "objective", "learning_rate"] in rows
        assert ["1", "1", "COMPLETE", "2", "0.5", "0.001"] in rows
        assert ["3", "2", "FAILED", "0", "", "0.01"] in rows
        assert "| `training.learning_rate`&emsp; | 0.001&emsp; |" in text
        assert "3 trials (2 complete, 1 failed); 4 of 6 epochs (67%)" in text
        assert "python -m jepa_ray.train --config best_config.yaml" in text
        assert 'mlflow.pyfunc.load_model("models:/unit@best")' in text

    def test_a_sweep_whose_trials_all_failed_has_their_error(self, study: Study) -> None:
        text = descriptions.describe_finished_sweep(study, [record for record in rank_trials(study) if record.error])
        assert text.startswith("Every trial failed: the loss is not finite")

    def test_a_started_sweep_has_its_budget_and_its_search_space(self, study: Study) -> None:
        text = descriptions.describe_started_sweep(study.spec, 3)
        assert "A sweep for **max val_rollout_mrr**: 3 trials of at most 2 epochs, with" in text
        assert "with the search algorithm grid and the stopping rule none. It is running or was interrupted." in text
        assert "| `training.learning_rate`&emsp; | [0.0001, 0.001, 0.01]&emsp; |" in text

    def test_without_a_registered_model_there_is_no_code_to_load_it(self, study: Study) -> None:
        tracking = study.spec.tracking.model_copy(update={"registered_model": None})
        study.spec = study.spec.model_copy(update={"tracking": tracking})
        assert study.spec.registered_model is None
        assert "load_model" not in descriptions.describe_finished_sweep(study, rank_trials(study))
