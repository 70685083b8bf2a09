"""The effect of a one-minute outage of the tracking server on a sweep: lost metrics, and training speed.

    python benchmarks/tracking_outage.py

A real MLflow server is killed with SIGKILL in the middle of a real sweep, and started again on the same store after a
minute. The epochs during the outage are compared with other epochs of the same sweep: by `samples_per_s` as the groups
measured it, and by the number of epochs per second of wall time, which also shows whether groups wait for the driver.
At the end, every metric of every epoch in the study is looked up in the store.

The other epochs are those of `--around` seconds before and after the outage, with equal weight, so that a slow change
of the machine's load has no effect. The machine should be idle otherwise; if it is not, `--niceness 0` gives the groups
the same priority as other processes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tracking_server import Server

from jepa_ray.config import METRICS, load_sweep_config, load_train_config
from jepa_ray.sweep.storage.study import Study

ROOT = Path(__file__).parent.parent
NAME = "outage"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", type=float, default=60.0, help="length of the outage in seconds")
    parser.add_argument("--around", type=float, default=60.0, help="seconds before and after it to compare with")
    parser.add_argument("--epochs", type=int, default=60, help="of each of four trials; must outlast all this")
    parser.add_argument("--niceness", type=int, default=15, help="of Ray's workers; Ray's default is 15")
    parser.add_argument("--trajectories", type=int, default=100, help="of the data; an epoch of 100 takes seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server(Path(name)) as server:
        folder = Path(name)
        spec = write_spec(folder, server.uri, options.epochs, options.trajectories)
        sweep = subprocess.Popen(
            [sys.executable, "-m", "jepa_ray.sweep", str(spec), "--output", str(folder / "out")],
            stdout=(folder / "printed").open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_worker_niceness": str(options.niceness)},
        )
        try:
            gone, back = interrupt_server(server, sweep, folder, options)
            code = sweep.wait()
        finally:
            sweep.terminate()
        if code:
            sys.exit((folder / "printed").read_text())
        report(spec, folder, server, (gone, back), options.around)


def write_spec(folder: Path, uri: str, epochs: int, trajectories: int) -> Path:
    """A sweep of four equal trials on little data, long enough for an outage in the middle."""
    base = load_train_config(ROOT / "configs/two_rooms.yaml").with_overrides(
        {
            "data.two_rooms.trajectories": trajectories,
            "training.patience": None,
            "training.collapse_epochs": None,
        }
    )
    spec = {
        "name": NAME,
        "base": base.to_dict(),
        "space": {"training.learning_rate": [1e-3, 9e-4, 8e-4, 7e-4]},  # four models of the same size
        "search": {"algorithm": "grid", "num_trials": 4},
        "early_stopping": {"enabled": False, "max_epochs": epochs},
        "tracking": {"uri": uri},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


# ---------------------------------------------------------------------------------------- the server


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.kill()


def interrupt_server(
    server: Server, sweep: subprocess.Popen[bytes], folder: Path, options: argparse.Namespace
) -> tuple[float, float]:
    """Kill the server while the sweep trains, and start it again. Returns the Unix times of both."""
    while sweep.poll() is None and not list(folder.glob(f"out/sweeps/{NAME}/checkpoints/*.pt")):
        time.sleep(0.2)
    wait(sweep, options.around + 5)  # the first epochs are slower
    server.kill()
    gone = time.time()
    wait(sweep, options.outage)
    server.start()
    return gone, time.time()


def wait(sweep: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        sweep.wait(seconds)
        raise SystemExit("the sweep ended before the outage was over: increase --epochs")


# ------------------------------------------------------------------------------------- the measurements


@dataclass(frozen=True)
class Epoch:
    """One epoch of one trial, as recorded in the store."""

    ended: float  # Unix time, by the driver's clock
    samples_per_s: float
    seconds: float


def report(spec: Path, folder: Path, server: Server, outage: tuple[float, float], around: float) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    study = Study.open(load_sweep_config(spec), folder / f"out/sweeps/{NAME}/optuna.db")
    runs = {
        run.data.tags["trial_id"]: run.info.run_id
        for run in client.search_runs([client.get_experiment_by_name(NAME).experiment_id])
        if "trial_id" in run.data.tags
    }
    recorded = stored_count = 0
    epochs: list[Epoch] = []
    for record in study.records():
        stored = {name: history(client, runs[record.trial_id], name) for name in METRICS}
        for i, row in enumerate(record.history, start=1):
            recorded += len(row)
            stored_count += sum(i in stored[name] and stored[name][i].value == value for name, value in row.items())
            epochs.append(Epoch(stored["epoch_s"][i].timestamp / 1000, row["samples_per_s"], row["epoch_s"]))
    missing = recorded - stored_count
    print(f"metrics in the study {recorded}, in the store {stored_count}, missing {missing}")
    compare(epochs, outage, around)
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    print(f"registered at the end: {version.name} version {version.version}, {version.status}")


def history(client: Any, run: str, name: str) -> dict[int, Any]:
    return {metric.step: metric for metric in client.get_metric_history(run, name)}


def compare(epochs: list[Epoch], outage: tuple[float, float], around: float) -> None:
    gone, back = outage
    inside = [e for e in epochs if gone <= e.ended - e.seconds and e.ended <= back]
    before = [e for e in epochs if gone - around <= e.ended - e.seconds and e.ended <= gone]
    after = [e for e in epochs if back <= e.ended - e.seconds and e.ended <= back + around]
    print(f"the outage lasted {back - gone:.0f} s")
    for name, some in (("before", before), ("outage", inside), ("after", after)):
        rates = [e.samples_per_s for e in some]
        low, middle, high = statistics.quantiles(rates, n=4)
        print(
            f"{name:<7} {len(some):>3} epochs  samples/s of a group: mean {statistics.mean(rates):.0f},"
            f" median {middle:.0f} [{low:.0f}, {high:.0f}], standard error {error(rates):.1f}"
        )
    first, within, last = ([e.samples_per_s for e in some] for some in (before, inside, after))
    outside = (statistics.mean(first) + statistics.mean(last)) / 2  # a linear trend cancels out
    ratio = statistics.mean(within) / outside
    spread = ratio * math.hypot(
        error(within) / statistics.mean(within), math.hypot(error(first), error(last)) / 2 / outside
    )
    print(f"outage / normal, samples/s of a group: {ratio:.3f} +- {1.96 * spread:.3f} (95 %)")
    normal = (done(epochs, gone - around, gone) + done(epochs, back, back + around)) / (2 * around)
    print(f"outage / normal, epochs per second of wall time: {done(epochs, gone, back) / (back - gone) / normal:.3f}")


def error(values: list[float]) -> float:
    """Standard error of the mean."""
    return statistics.stdev(values) / len(values) ** 0.5


def done(epochs: list[Epoch], begin: float, end: float) -> float:
    """Epochs that were trained between two Unix times, including fractions of the first and the last one."""
    return sum(max(0.0, min(e.ended, end) - max(e.ended - e.seconds, begin)) / e.seconds for e in epochs)


if __name__ == "__main__":
    main()
