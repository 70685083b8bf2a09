"""The warm worker group on real Ray: changing trials, resuming, progress, and every kind of death."""

import contextlib
import os
import queue
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
from jepa_ray.sweep.progress import NamedMailboxes
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.train.cluster import ray_session
from jepa_ray.train.mailbox import Progress, RunEpoch, StartTrial
from jepa_ray.train.progress import ProgressPolling
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


def test_a_trials_result_does_not_depend_on_earlier_trials_of_the_group(
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


def test_the_driver_sees_how_far_a_group_is_in_its_epoch(group: WorkerGroup, config: TrainConfig) -> None:
    """From rank 0 over the mailbox, which the driver finds by its name; also when the trial was continued."""
    arrived: queue.SimpleQueue[Progress] = queue.SimpleQueue()
    steps = 36 * 12 // config.training.batch_size  # 36 training episodes of 12 transitions
    with ProgressPolling(NamedMailboxes(), arrived.put):
        group.call(StartTrial(config, number=7))
        checkpoint = group.checkpoint(group.call(RunEpoch()))
        assert wait_for_step(arrived, trial=7, epoch=1, step=steps).steps == steps

        group.call(StartTrial(config, checkpoint, number=8))
        assert ray.get(group.mailbox.latest_progress.remote()) is None
        group.call(RunEpoch())
        assert wait_for_step(arrived, trial=8, epoch=2, step=steps).samples_per_s > 0


def wait_for_step(arrived: queue.SimpleQueue[Progress], trial: int, epoch: int, step: int) -> Progress:
    deadline = time.monotonic() + 30
    while True:
        progress = arrived.get(timeout=30)
        if (progress.trial, progress.epoch, progress.step) == (trial, epoch, step):
            return progress
        assert time.monotonic() < deadline, progress


def crashing() -> Any:
    """A local function is pickled by value; workers cannot import the test modules."""

    def work(config: dict[str, Any]) -> None:
        os._exit(1)

    return work


def raising() -> Any:
    def work(config: dict[str, Any]) -> None:
        raise RuntimeError("no such device")

    return work


@pytest.mark.timeout(120)  # a group that waited for its worker would never return
@pytest.mark.parametrize(("work", "message"), [(crashing(), "process has died"), (raising(), "no such device")])
def test_a_worker_that_dies_at_startup_is_an_error_and_no_hang(tmp_path: Path, work: Any, message: str) -> None:
    broken = new_group(tmp_path, f"broken-{message[0]}", work=work)
    with pytest.raises(GroupStartError, match=message):
        broken.start()
    broken.shutdown()


def test_a_group_waits_for_resources_until_its_start_timeout(tmp_path: Path, group: WorkerGroup) -> None:
    """A task takes all CPUs that the other group leaves, for a while."""

    def hold(seconds: float) -> None:
        time.sleep(seconds)

    left = ray.available_resources()["CPU"]  # Ray frees those of a crashed group when its driver ends
    holding = ray.remote(num_cpus=left)(hold).remote(20)
    deadline = time.monotonic() + 15
    while ray.available_resources().get("CPU", 0) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    hasty = new_group(tmp_path, "hasty", start_timeout=1)
    with pytest.raises(GroupStartError, match="did not start"):
        hasty.start()
    assert not ray.wait([holding], timeout=0)[0]
    hasty.shutdown()
    patient = new_group(tmp_path, "patient", start_timeout=120)
    patient.start()
    assert ray.wait([holding], timeout=0)[0]
    patient.shutdown()


def test_a_killed_worker_is_an_error_of_its_trial(tmp_path: Path, train_config: TrainConfig) -> None:
    """By `kill -9` within an epoch: the caller must not wait for a reply that never comes."""
    others = train_workers()
    doomed = new_group(tmp_path, "doomed")
    doomed.start()
    endless = train_config.with_overrides({"data.two_rooms.trajectories": 2000})
    doomed.call(StartTrial(endless))
    (worker,) = train_workers() - others
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(GroupDiedError):
        doomed.call(RunEpoch())
    with pytest.raises(GroupDiedError):  # also afterwards
        doomed.call(RunEpoch())
    doomed.shutdown()


def train_workers() -> set[psutil.Process]:
    """The processes of all ranks of all groups."""
    workers = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # the process has ended
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.add(process)
    return workers


def test_gauges_are_exported_for_prometheus(tmp_path: Path, train_config: TrainConfig) -> None:
    """One group trains two epochs of one second each; the second one ends two seconds later, so one second was idle."""
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
        shown = scrape_metrics()
        if shown.get(("jepa_ray_samples_per_second", "left")) == 16.0:
            break
        time.sleep(1)
    assert shown["jepa_ray_best_objective", "val_rollout_mrr"] == 0.5
    assert shown["jepa_ray_samples_per_second", "left"] == 16.0
    assert shown["jepa_ray_idle_seconds", "left"] == pytest.approx(1.0, abs=0.5)
    assert shown["jepa_ray_trials", "RUNNING"] == shown["jepa_ray_trials", "COMPLETE"] == 1
    assert shown["jepa_ray_trials", "FAILED"] == 0


def scrape_metrics() -> dict[tuple[str, str], float]:
    """The values of this sweep from the node's exporter, by name and tag (metric, status or group)."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if 'sweep="measured"' in line]
    matches = [re.match(r'ray_(\w+)\{.*\b(?:metric|status|group)="([^"]*)".*\} (\S+)', line) for line in lines]
    return {(match[1], match[2]): float(match[3]) for match in matches if match}
