"""System metrics of the driver's machine, under the names that MLflow's UI knows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from jepa_ray.config import TrackingConfig
from jepa_ray.tracking import Tracker, default_uri, system_metrics


@pytest.fixture(autouse=True)
def short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.05)


def measured(output: Path) -> dict[str, float]:
    """The metrics of a run after some intervals."""
    tracker = Tracker(TrackingConfig(), output, "unit")
    run = tracker.open_run("watched", "sweep", {})
    tracker.flush()
    tracker.watch_machine(run)
    time.sleep(0.5)
    tracker.stop_watching()
    time.sleep(0.2)
    tracker.flush()
    return dict(MlflowClient(default_uri(output)).get_run(run.result()).data.metrics)


def test_they_are_logged_to_the_run(tmp_path: Path) -> None:
    found = measured(tmp_path)
    assert set(found) == {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
        "system/system_memory_usage_percentage",
        "system/disk_usage_percentage",
        "system/disk_available_megabytes",
        "system/network_receive_megabytes",
        "system/network_transmit_megabytes",
    }
    assert 0 < found["system/system_memory_usage_percentage"] < 100


def test_mlflows_own_variable_turns_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    assert measured(tmp_path) == {}
