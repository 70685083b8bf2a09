"""Memory, startup time and idle CPU time of warm groups on one machine, by kind of process.

    python benchmarks/groups_scale.py [--groups 1,4,12,24]

For each number N, a real sweep of N trials on N warm groups runs in a subprocess, in a Ray session that is configured
with N CPUs. Every group trains one very short epoch and then waits. When all groups wait, this measures:

- the PSS of the sweep's process and all its descendants (a page that k processes map counts as 1/k in each), by kind;
- the CPU seconds that each kind has used so far: with fewer CPUs than groups, these limit the start, and the wall time
  says little;
- the CPU seconds per second in the next `--idle` seconds, in which no group has work.

A sweep is ended before the machine's free memory falls below `--spare` GB; the number of groups until then is printed.
The last table adds up the kinds by where they run on a cluster: on the head node, or on the node of the group.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import psutil
import typer
from rich.console import Console
from rich.table import Table
from spread import Spread, show

from jepa_ray import cli
from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.data.cache import ensure_cache
from jepa_ray.machine import Machine
from jepa_ray.sweep import run
from jepa_ray.sweep.trial import SweepTrial

ROOT = Path(__file__).parents[1]
MB, GB = 1e6, 1e9
TIMEOUT_S = 900.0  # until all groups of a sweep have trained their epoch
SETTLE_S = 3.0

# Kinds of processes, by parts of their command line; the first match counts.
KINDS = {
    "trial actor": ("ray::WaitingTrial",),
    "controller": ("ray::TrainController",),
    "worker": ("ray::RayTrainWorker",),
    "mailbox": ("ray::Mailbox",),
    "PlacementGroupCleaner": ("ray::PlacementGroupCleaner",),
    "SynchronizationActor": ("ray::SynchronizationActor",),
    "DatasetManager": ("ray::DatasetManager",),
    "AutoscalingCoordinator": ("ray::_AutoscalingCoordinator",),
    "idle Ray workers": ("ray::IDLE", "default_worker", "setup_worker"),
    "GCS": ("/gcs_server",),
    "dashboard": ("ray-dashboard", "dashboard/dashboard.py", "/monitor.py"),
    "raylet and agents": ("/raylet/raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "log_monitor", "agent"),
}
DRIVER, OTHER = "driver", "other"
# Kinds that run on the head node even if it has no CPUs for training. Ray Train pins its cleaners to the head node.
ON_THE_HEAD = (DRIVER, "GCS", "dashboard", "raylet and agents", "AutoscalingCoordinator", "PlacementGroupCleaner")


def main(
    groups: Annotated[str, typer.Option(help="Numbers of groups, ascending.")] = "1,4,12,24",
    spare: Annotated[float, typer.Option(min=0.5, help="GB of memory that must stay free.")] = 2.0,
    idle: Annotated[float, typer.Option(min=1, help="Seconds in which idle groups are measured.")] = 20.0,
    hold: Annotated[Path | None, typer.Option(hidden=True, help="Run the sweep itself in this folder.")] = None,
) -> None:
    """Measure each number of groups, and print the cost of one more group."""
    numbers = [int(number) for number in groups.split(",")]
    if hold:
        sweep(numbers[0], hold)
        return
    console = cli.console()
    with tempfile.TemporaryDirectory(prefix="groups-") as name:
        folder = Path(name)
        ensure_cache(spec_of(1, folder / "cache").base.data)
        results = [measure(number, folder / str(number), spare, idle, console) for number in numbers]
    report(console, [result for result in results if result.groups == result.requested])


# ------------------------------------------------------------------------------------- the sweep


class WaitingTrial(SweepTrial):
    """A real trial that waits after its first epoch, so that its group stays warm and idle."""

    def step(self) -> dict[str, Any]:
        super().step()
        folder = Path(self.groups_folder).parents[2]  # of <folder>/sweeps/<name>/groups
        (folder / "up" / self._name).touch()
        while True:
            time.sleep(1)


def spec_of(groups: int, cache: Path) -> SweepConfig:
    """One trial of one epoch per group."""
    settings = {
        "base.data.cache_dir": cache,
        "base.data.two_rooms.trajectories": 20,
        "base.data.two_rooms.steps": 12,
        "base.model.cnn.channels": "[8, 16]",
        "base.training.batch_size": 16,
        "space": "{training.learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}}",
        "search": f"{{algorithm: random, num_trials: {groups}}}",
        "early_stopping": "{enabled: false, grace_epochs: 1, max_epochs: 1}",
        "resources.max_concurrent": groups,
    }
    return load_sweep_config(ROOT / "sweeps/smoke.yaml", [f"{key}={value}" for key, value in settings.items()])


def sweep(groups: int, folder: Path) -> None:
    """The work of the subprocess."""
    spec = spec_of(groups, folder.parent / "cache")
    with mock.patch.object(Machine, "local", return_value=Machine(groups, 0)):
        run.run_sweep(spec, folder, Console(quiet=True), trial_class=WaitingTrial)


# ------------------------------------------------------------------------------------- measuring


@dataclass
class Kind:
    """The processes of one kind, together."""

    count: int = 0
    memory: float = 0.0  # PSS, MB
    cpu: float = 0.0  # seconds so far
    idle: float = 0.0  # CPU seconds per second while all groups are idle


@dataclass
class Measurement:
    """A sweep with all its groups warm, or with as many as there was memory for."""

    requested: int
    groups: int
    seconds: float  # from the start until all groups had trained an epoch
    kinds: dict[str, Kind] = field(default_factory=dict)

    def total(self, of: str, kinds: Sequence[str] | None = None) -> float:
        return float(sum(getattr(kind, of) for name, kind in self.kinds.items() if kinds is None or name in kinds))


def measure(groups: int, folder: Path, spare: float, idle: float, console: Console) -> Measurement:
    (folder / "up").mkdir(parents=True)
    command = [sys.executable, __file__, "--groups", str(groups), "--hold", str(folder)]
    with (folder / "log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    try:
        result = wait_for_all(process, groups, folder, spare)
        if result.groups < groups:
            console.print(f"memory was short when {result.groups} of {groups} groups had trained", highlight=False)
            return result
        time.sleep(SETTLE_S)
        result.kinds = measure_kinds(process, idle)
    except psutil.NoSuchProcess:
        raise SystemExit(f"the sweep of {groups} groups ended:\n{(folder / 'log').read_text()}") from None
    finally:
        end(process)
    console.print(
        f"{groups} groups: all trained after {result.seconds:.0f} s, {result.total('memory'):,.0f} MB,"
        f" {result.total('cpu'):.0f} CPU seconds",
        highlight=False,
    )
    return result


def wait_for_all(process: psutil.Popen, groups: int, folder: Path, spare: float) -> Measurement:
    """Wait until all groups have trained an epoch, or memory is short."""
    started = time.monotonic()
    while True:
        up, seconds = len(list((folder / "up").iterdir())), time.monotonic() - started
        if up == groups or psutil.virtual_memory().available < spare * GB:
            return Measurement(groups, up, seconds)
        if not process.is_running() or process.poll() is not None:
            raise psutil.NoSuchProcess(process.pid)
        assert seconds < TIMEOUT_S, ("groups that trained", up, (folder / "log").read_text()[-2000:])
        time.sleep(0.5)


def measure_kinds(process: psutil.Popen, idle: float) -> dict[str, Kind]:
    """Memory and CPU time of all processes of the sweep, by kind. Takes `idle` seconds."""
    kinds: dict[str, Kind] = {}
    for each, name, seconds in cpu_times(process):
        with suppress(psutil.NoSuchProcess):
            memory = each.memory_full_info().pss / MB
            kind = kinds.setdefault(name, Kind())
            kind.count, kind.memory, kind.cpu = kind.count + 1, kind.memory + memory, kind.cpu + seconds
    began = time.monotonic()
    first = {each: seconds for each, _, seconds in cpu_times(process)}
    time.sleep(idle)
    for each, name, seconds in cpu_times(process):
        kinds.setdefault(name, Kind()).idle += (seconds - first.get(each, seconds)) / (time.monotonic() - began)
    return kinds


def cpu_times(process: psutil.Popen) -> Iterator[tuple[psutil.Process, str, float]]:
    """Every process of the sweep, its kind, and the CPU seconds that it has used."""
    for each in [psutil.Process(process.pid), *process.children(recursive=True)]:
        try:
            times, command = each.cpu_times(), " ".join(each.cmdline())
        except psutil.NoSuchProcess:
            continue
        yield each, DRIVER if each.pid == process.pid else kind_of(command), times.user + times.system


def kind_of(command: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in command for part in parts)), OTHER)


def end(process: psutil.Popen) -> None:
    """Kill the sweep and Ray, since its results are not needed."""
    if process.poll() is None:
        processes = process.children(recursive=True)
        process.kill()
        process.wait()
        for each in psutil.wait_procs(processes, timeout=15)[1]:
            each.kill()


# --------------------------------------------------------------------------------------- reporting


def report(console: Console, results: list[Measurement]) -> None:
    print_kinds(console, results, "memory", "PSS, MB (processes)", 0)
    print_kinds(console, results, "cpu", "CPU seconds until all groups had trained an epoch", 0)
    print_kinds(console, results, "idle", "CPU seconds per second, all groups idle", 2)
    pairs = list(pairwise(results))
    if not pairs:
        return

    def per_group(of: str, kinds: Sequence[str] | None = None) -> Spread:
        return Spread.of((b.total(of, kinds) - a.total(of, kinds)) / (b.groups - a.groups) for a, b in pairs)

    elsewhere = sorted({name for result in results for name in result.kinds} - set(ON_THE_HEAD))
    rows = {
        "memory, MB": per_group("memory"),
        "of it on a head node without CPUs": per_group("memory", ON_THE_HEAD),
        "of it on the node of the group": per_group("memory", elsewhere),
        "CPU seconds to start": per_group("cpu"),
        "CPU seconds per second, idle": per_group("idle"),
        "of it on the head node": per_group("idle", ON_THE_HEAD),
    }
    show(console, "one more group", rows, digits=2)


def print_kinds(console: Console, results: list[Measurement], of: str, title: str, digits: int) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(f"{result.groups} groups", justify="right")
    names = Counter(name for result in results for name in result.kinds)
    for name in [DRIVER, *KINDS, OTHER]:
        if name in names:
            kinds = [result.kinds.get(name, Kind()) for result in results]
            counts = [f" ({kind.count})" if of == "memory" else "" for kind in kinds]
            cells = [f"{getattr(kind, of):,.{digits}f}{count}" for kind, count in zip(kinds, counts, strict=True)]
            table.add_row(name, *cells)
    table.add_row("all", *[f"{result.total(of):,.{digits}f}" for result in results], style="bold")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
