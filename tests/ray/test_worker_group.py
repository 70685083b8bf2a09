"""The warm worker group on real Ray: switching, resuming, and every way to die."""

import contextlib
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from jepa_ray.config import SweepConfig, TrainConfig
from jepa_ray.errors import TrialError
from jepa_ray.sweep.output.gauges import SweepGauges
from jepa_ray.sweep.storage.study import Status, TrialRecord
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.mailbox import RunEpoch, StartTrial
from jepa_ray.train.worker_group import GroupDiedError, GroupStartError, WorkerGroup

pytestmark = pytest.mark.ray
TIMES = ("samples_per_s", "epoch_s")


@pytest.fixture(scope="module", autouse=True)
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with ray_session(None, 4, 0, tmp_path_factory.mktemp("ray") / "ray.log"):
        yield


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    started = new_group(tmp_path_factory.mktemp("group"), "warm", workers=2)
    started.start()
    yield started
    started.shutdown()


def new_group(storage: Path, name: str, workers: int = 1, **options: Any) -> WorkerGroup:
    return WorkerGroup(workers=workers, cpus=1, gpus=0, storage=str(storage), name=name, **options)


def curve(
    group: WorkerGroup, config: TrainConfig, epochs: int, checkpoint: bytes | None = None
) -> list[dict[str, float]]:
    group.call(StartTrial(config, checkpoint))
    results = [group.call(RunEpoch()) for _ in range(epochs)]
    return [{k: v for k, v in result.metrics.items() if k not in TIMES} for result in results]


@pytest.fixture(scope="module")
def config(train_config: TrainConfig) -> TrainConfig:
    return train_config.with_overrides({"training.num_workers": 2})


def test_a_trial_gives_the_same_result_whatever_the_group_trained_before(
    group: WorkerGroup, config: TrainConfig
) -> None:
    first = curve(group, config, 2)
    curve(group, config.with_overrides({"model.latent_dim_state": 32, "experiment.seed": 7}), 1)
    assert curve(group, config, 2) == first


def test_a_checkpoint_continues_where_it_was_taken(group: WorkerGroup, config: TrainConfig) -> None:
    whole = curve(group, config, 3)
    group.call(StartTrial(config))
    checkpoint = group.checkpoint(group.call(RunEpoch()))
    assert curve(group, config, 2, checkpoint) == whole[1:]


def test_a_failed_trial_leaves_the_group_warm(group: WorkerGroup, config: TrainConfig) -> None:
    with pytest.raises(TrialError, match="train_loss is"):
        curve(group, config.with_overrides({"training.learning_rate": 1e30, "training.grad_clip_norm": None}), 3)
    with pytest.raises(TrialError, match="batch_size is 100000"):
        curve(group, config.with_overrides({"training.batch_size": 100000}), 1)
    assert len(curve(group, config, 1)) == 1


def crashing() -> Any:
    """Made in a function, so that it travels to the worker by value: test modules cannot be imported there."""

    def work(config: dict[str, Any]) -> None:
        os._exit(1)

    return work


def raising() -> Any:
    def work(config: dict[str, Any]) -> None:
        raise RuntimeError("no such device")

    return work


@pytest.mark.parametrize(("work", "words"), [(crashing(), "process has died"), (raising(), "no such device")])
def test_a_worker_that_dies_at_start_up_is_an_error_and_no_hang(tmp_path: Path, work: Any, words: str) -> None:
    broken = new_group(tmp_path, f"broken-{words[0]}", work=work)
    started = time.monotonic()
    with pytest.raises(GroupStartError, match=words):
        broken.start()
    assert time.monotonic() - started < 60  # the promise: a clear error within a minute
    broken.shutdown()


def test_a_group_waits_for_resources_as_long_as_it_is_told(tmp_path: Path, group: WorkerGroup) -> None:
    """What CPUs are left beside the other group are taken for a while."""

    def hold(seconds: float) -> None:
        time.sleep(seconds)

    left = ray.available_resources()["CPU"]  # Ray frees a crashed group's when whoever started it ends
    holding = ray.remote(num_cpus=left)(hold).remote(20)
    deadline = time.monotonic() + 15
    while ray.available_resources().get("CPU", 0) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hasty = new_group(tmp_path, "hasty", patience=1)
    with pytest.raises(GroupStartError, match="did not start"):
        hasty.start()
    assert not ray.wait([holding], timeout=0)[0]
    hasty.shutdown()
    patient = new_group(tmp_path, "patient", patience=120)
    patient.start()
    assert ray.wait([holding], timeout=0)[0]
    patient.shutdown()


def test_a_killed_worker_is_an_error_of_its_trial(tmp_path: Path, train_config: TrainConfig) -> None:
    """kill -9 in the middle of an epoch: the caller must not wait for a reply that never comes."""
    others = train_workers()
    doomed = new_group(tmp_path, "doomed")
    doomed.start()
    endless = train_config.with_overrides({"data.two_rooms.trajectories": 2000})
    doomed.call(StartTrial(endless))
    (worker,) = train_workers() - others
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(GroupDiedError):
        doomed.call(RunEpoch())
    with pytest.raises(GroupDiedError):  # and stays dead
        doomed.call(RunEpoch())
    doomed.shutdown()


def train_workers() -> set[psutil.Process]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended by now
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.add(process)
    return found


def test_gauges_come_out_where_prometheus_looks(tmp_path: Path, train_config: TrainConfig) -> None:
    """Two epochs of one group with two seconds between them: one of work, so one of idleness."""
    spec = SweepConfig.model_validate(
        {"name": "measured", "base": train_config.to_dict(), "space": {"training.learning_rate": [1e-4, 1e-3]}}
    )
    before = TrialRecord(0, {}, Status.COMPLETE, [{"val_rollout_mrr": 0.25}])
    gauges = SweepGauges(spec, [before])
    gauges.trial_started(1, {})
    for epoch, value in ((1, 0.125), (2, 0.5)):
        gauges.epoch_done(1, epoch, {"val_rollout_mrr": value, "samples_per_s": 8.0 * epoch, "epoch_s": 1.0}, "left")
        time.sleep(2 * (epoch == 1))
    shown = {}
    for _ in range(60):
        shown = scraped()
        if shown.get(("jepa_ray_samples_per_second", "left")) == 16.0:
            break
        time.sleep(1)
    assert shown["jepa_ray_best_objective", "val_rollout_mrr"] == 0.5
    assert shown["jepa_ray_samples_per_second", "left"] == 16.0
    assert shown["jepa_ray_idle_seconds", "left"] == pytest.approx(1.0, abs=0.5)
    assert shown["jepa_ray_trials", "RUNNING"] == shown["jepa_ray_trials", "COMPLETE"] == 1
    assert shown["jepa_ray_trials", "FAILED"] == 0


def scraped() -> dict[tuple[str, str], float]:
    """What the node's exporter says of this sweep: (name, metric, status or group) -> value."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if 'sweep="measured"' in line]
    found = [re.match(r'ray_(\w+)\{.*\b(?:metric|status|group)="([^"]*)".*\} (\S+)', line) for line in lines]
    return {(match[1], match[2]): float(match[3]) for match in found if match}
