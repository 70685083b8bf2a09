"""Measures the report of a large sweep: makes a study of 10,000 trials without training, and writes its report.

    python benchmarks/report_scale.py [--trials 10000] [--open]

Half of the trials are stopped at their first rung, and every epoch has all metrics. Prints the duration of the report
command, including the start of Python and the reading of the study, and the size of the report. With --open, also the
time until Chromium has drawn the whole page (needs playwright and Chromium).
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import optuna
import typer
from optuna.distributions import distribution_to_json

from jepa_ray.config import METRICS, SweepConfig, dump_yaml
from jepa_ray.sweep.output.reporting import REPORT
from jepa_ray.sweep.search import space

BEGAN = 1_800_000_000.0  # Unix time of the first epoch
GROUPS, EPOCHS = 16, 6
SPEC = {
    "name": "scale",
    "base": {"data": {"builtin": "two_rooms"}},
    "space": {
        "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "training.ema_decay": {"low": 0.98, "high": 0.9999},
        "model.latent_dim_state": [64, 128, 256],
        "model.transition_depth": {"low": 1, "high": 6, "int": True},
    },
    "early_stopping": {"grace_epochs": 2, "max_epochs": EPOCHS},
}


def main(
    trials: Annotated[int, typer.Option(min=1)] = 10_000,
    open_report: Annotated[bool, typer.Option("--open", help="Also open the report in Chromium.")] = False,
) -> None:
    """Make the study, write its report and print the measurements, each taken once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sweep_folder(folder, trials)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "jepa_ray.report", str(folder)], check=True)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        size = (folder / REPORT).stat().st_size / 1e6
        print(f"{trials:,} trials: the command took {seconds:.1f} s, of which {used.ru_utime:.1f} s of CPU time")
        print(f"the report has {size:.1f} MB; the command used at most {used.ru_maxrss / 1e3:,.0f} MB of memory")
        if open_report:
            print(f"Chromium drew the page in {measure_opening(folder / REPORT):.1f} s")


def make_sweep_folder(folder: Path, trials: int) -> None:
    """Write the spec and the study of a sweep. The study's rows are inserted with SQL: with Optuna it takes minutes."""
    spec = SweepConfig.model_validate({**SPEC, "search": {"num_trials": trials, "algorithm": "random"}})
    (folder / "spec.yaml").write_text(dump_yaml(spec.to_dict()))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name=spec.name, storage=f"sqlite:///{folder / 'optuna.db'}", direction="maximize")
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions, rng = space.distributions(spec.space), random.Random(0)
    with sqlite3.connect(folder / "optuna.db") as database:
        for number in range(trials):
            _insert_trial(database, number, memory.ask(distributions), rng)


def _insert_trial(database: sqlite3.Connection, number: int, trial: optuna.Trial, rng: random.Random) -> None:
    row, stopped, top = number + 1, number % 2 == 1, rng.random()
    values = [top * epoch / EPOCHS for epoch in range(1, (2 if stopped else EPOCHS) + 1)]
    state = "PRUNED" if stopped else "COMPLETE"
    day = "2027-01-15 08:00:00.000000"
    database.execute("INSERT INTO trials VALUES (?, ?, 1, ?, ?, ?)", (row, number, state, day, day))
    for key, distribution in trial.distributions.items():
        value = distribution.to_internal_repr(trial.params[key])
        cells = (row, key, value, distribution_to_json(distribution))
        database.execute("INSERT INTO trial_params VALUES (NULL, ?, ?, ?, ?)", cells)
    for epoch, value in enumerate(values, start=1):
        cells = (row, epoch, value)
        database.execute("INSERT INTO trial_intermediate_values VALUES (NULL, ?, ?, ?, 'FINITE')", cells)
    if not stopped:
        database.execute("INSERT INTO trial_values VALUES (NULL, ?, 0, ?, 'FINITE')", (row, max(values)))
    for key, attr in _make_attributes(number, values, rng, stopped=stopped).items():
        database.execute("INSERT INTO trial_user_attributes VALUES (NULL, ?, ?, ?)", (row, key, json.dumps(attr)))


def _make_attributes(number: int, values: list[float], rng: random.Random, *, stopped: bool) -> dict[str, object]:
    attributes: dict[str, object] = {"stop": "stopped at epoch 2: too low", "stop_epoch": 2} if stopped else {}
    for epoch, value in enumerate(values, start=1):
        trained_by = [f"group-{number % GROUPS}", BEGAN + 12.0 * (number // GROUPS) + 2 * epoch]
        metrics = {name: rng.random() for name in METRICS} | {"val_rollout_mrr": value, "epoch_s": 1.9}
        attributes[f"epoch_{epoch}"] = {"last": epoch == EPOCHS, "ran": trained_by, **metrics}
    return attributes


def measure_opening(path: Path) -> float:
    """The seconds until the page reports that everything is drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(path.as_uri(), timeout=300_000)
        page.wait_for_function("document.documentElement.dataset.drawn === 'yes'", timeout=300_000)
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


if __name__ == "__main__":
    typer.run(main)
