"""Measures which metric, read after training or after a few epochs, picks the model that plans best.

    python benchmarks/which_metric.py train     # train all 81 configurations: hours on one core; can be resumed
    python benchmarks/which_metric.py measure   # validate every checkpoint, plan with the last ones; can be resumed
    python benchmarks/which_metric.py confirm   # plan on new tasks with the best models and those that a metric picks
    python benchmarks/which_metric.py report    # print and plot the results in benchmarks/which_metric.csv: seconds

Trains the grid of sweeps/grid_full.yaml on the built-in data without early stopping and plans with every model. For
each metric, reports Spearman's rho with planning success over the 81 configurations (95 % interval by bootstrap over
configurations), and the planning success of the configuration that the metric would have picked, after the last epoch
and after earlier ones. The highest of 81 noisy success rates overestimates the true one, so the rates of the picks and
of the best configuration are measured on the new tasks of `confirm`.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from jepa_ray.config import (
    METRIC_INFO,
    SMALLER_IS_BETTER,
    Place,
    PlanningConfig,
    SweepConfig,
    load_sweep_config,
    metrics_shown,
)
from jepa_ray.data.dataset import TrajectoryDataset
from jepa_ray.files import write_atomically
from jepa_ray.planning.success import plan_success
from jepa_ray.train.checkpoint import describe, load_model, read_checkpoint, rebuild, to_bytes
from jepa_ray.train.collectives import Communicator
from jepa_ray.train.loop import Trainer
from jepa_ray.train.validation import validate

HERE = Path(__file__).parent
SPEC = HERE.parent / "sweeps/grid_full.yaml"
TABLE, PICTURE = HERE / "which_metric.csv", HERE.parent / "docs/which_metric.png"
EPOCHS = 5
MEASURED, CONFIRMED = "measured.json", "confirmed.json"  # result files in the folder of each point
PROCESSES = 2
READ_AT = (1, 2, 5)  # epochs after which metrics are read
# Planning with 81 models: 32 times cheaper than the defaults, and harder, so that the success rates differ.
PLANNING = PlanningConfig(samples=24, iterations=2, elites=5, horizon=2, action_block=3, replan_every=3, episodes=64)
CONFIRMING = PLANNING.model_copy(update={"episodes": 256, "seed": 1})
CLOSE = 0.065  # models whose success rate is at most this far below the best one are planned with again
METRICS = {
    name: "needs labels" if METRIC_INFO[name].needs_labels else "label-free"
    for name in metrics_shown(Place.REPORT_PICKS)
}
BOOTSTRAPS = 2000

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option("--out", help="Folder for checkpoints and measurements.")]
DEFAULT_OUT = Path("outputs/which_metric")

Point = dict[str, Any]  # dotted key -> value


def grid() -> tuple[SweepConfig, list[Point]]:
    """The spec and the 81 points of its search space."""
    spec = load_sweep_config(SPEC, [f"early_stopping.max_epochs={EPOCHS}"])
    choices = [value for value in spec.space.values() if isinstance(value, list)]
    return spec, [dict(zip(spec.space, point, strict=True)) for point in itertools.product(*choices)]


def folder_of(out: Path, point: Point) -> Path:
    ema, rate, dim, depth = point.values()
    return out / f"ema{ema}-lr{rate:g}-dim{dim}-depth{depth}"


def in_parallel(work: Callable[[tuple[Path, Point]], str], out: Path, leaves: str, points: list[Point]) -> None:
    """Do the work for all points in parallel processes, small models first.

    Args:
        work: is called with `out` and a point, and returns a line to print.
        out: the folder for results.
        leaves: the file that the work writes to the folder of a point; points that have it are skipped.
        points: the points.
    """
    missing = [point for point in points if not (folder_of(out, point) / leaves).exists()]
    points = sorted(missing, key=lambda p: p["model.latent_dim_state"] * p["model.transition_depth"])
    with multiprocessing.get_context("spawn").Pool(PROCESSES, maxtasksperchild=1) as pool:
        for done, line in enumerate(pool.imap_unordered(work, [(out, point) for point in points]), start=1):
            print(f"[{done}/{len(points)}] {line}", flush=True)


# ------------------------------------------------------------------------------------------ train


@app.command()
def train(out: Out = DEFAULT_OUT) -> None:
    """Train all configurations, and save the model after each epoch."""
    in_parallel(train_one, out, f"epoch_{EPOCHS}.pt", grid()[1])


def train_one(job: tuple[Path, Point]) -> str:
    torch.set_num_threads(1)
    out, point = job
    folder = folder_of(out, point)
    config = grid()[0].trial_config(point)
    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    trainer = Trainer(config, dataset)
    for epoch in range(1, EPOCHS + 1):
        metrics = trainer.run_epoch()
        model = {"model": trainer.state.model.state_dict(), "epoch": epoch, "metrics": metrics}
        write_atomically(folder / f"epoch_{epoch}.pt", to_bytes(describe(config, dataset.spec) | model))
    return f"{folder.name}: val_rollout_mrr {metrics['val_rollout_mrr']:.3f}"


# ---------------------------------------------------------------------------------------- measure


@app.command()
def measure(out: Out = DEFAULT_OUT) -> None:
    """Validate every checkpoint, plan with the last one of each configuration, and write the table."""
    in_parallel(measure_one, out, MEASURED, grid()[1])
    write_table(out)


def write_table(out: Path) -> None:
    rows = [row for point in grid()[1] for row in json.loads((folder_of(out, point) / MEASURED).read_text())]
    frame = pd.DataFrame(rows)
    for point in grid()[1]:
        if (path := folder_of(out, point) / CONFIRMED).exists():
            is_point = (frame[list(point)] == pd.Series(point)).all(axis=1) & (frame["epoch"] == EPOCHS)
            frame.loc[is_point, "plan_confirmed"] = json.loads(path.read_text())["plan_success"]
    write_atomically(TABLE, frame.to_csv(index=False, float_format="%.6g").encode())
    print(f"{TABLE}: {len(frame)} rows")


def measure_one(job: tuple[Path, Point]) -> str:
    torch.set_num_threads(1)
    out, point = job
    folder = folder_of(out, point)
    rows = [{**point, "epoch": epoch, **measure_epoch(folder / f"epoch_{epoch}.pt")} for epoch in READ_AT]
    planning = plan_success(*load_model(folder / f"epoch_{EPOCHS}.pt"), PLANNING)
    rows[-1] |= {"plan_success": planning.success.value, "plan_random": planning.random.value}
    write_atomically(folder / MEASURED, json.dumps(rows).encode())
    return f"{folder.name}: planning success {planning.success}, val_rollout_mrr {rows[-1]['val_rollout_mrr']:.3f}"


@app.command()
def confirm(out: Out = DEFAULT_OUT) -> None:
    """Plan on new tasks with the best models and every metric's picks, and add the results to the table."""
    frame = pd.read_csv(TABLE)
    points = list(grid()[0].space)
    last = frame[frame["epoch"] == EPOCHS].set_index(points)["plan_success"]
    chosen = set(last[last >= last.max() - CLOSE].index)
    for metric in METRICS:
        for epoch in READ_AT:
            values = frame[frame["epoch"] == epoch].set_index(points)[metric]
            chosen.add(values.idxmin() if metric in SMALLER_IS_BETTER else values.idxmax())
    in_parallel(confirm_one, out, CONFIRMED, [point for point in grid()[1] if tuple(point.values()) in chosen])
    write_table(out)


def confirm_one(job: tuple[Path, Point]) -> str:
    torch.set_num_threads(1)
    folder = folder_of(*job)
    planning = plan_success(*load_model(folder / f"epoch_{EPOCHS}.pt"), CONFIRMING)
    write_atomically(folder / CONFIRMED, json.dumps({"plan_success": planning.success.value}).encode())
    return f"{folder.name}: planning success {planning.success}"


def measure_epoch(path: Path) -> dict[str, float]:
    stored = read_checkpoint(path)
    model, config = rebuild(stored, str(path))
    dataset = TrajectoryDataset.from_config(config.data, torch.device("cpu"))
    return {
        "train_loss": stored["metrics"]["train_loss"],
        **validate(model, dataset, Communicator(), config.training.rollout_horizon),
    }


# ----------------------------------------------------------------------------------------- report


@app.command()
def report() -> None:
    """Print and plot how well each metric ranks the configurations, and what it would have picked."""
    frame = pd.read_csv(TABLE)
    points = list(grid()[0].space)
    success = frame[frame["epoch"] == EPOCHS].set_index(points)[["plan_success", "plan_confirmed"]]
    results = {
        (metric, epoch): judge(frame[frame["epoch"] == epoch].set_index(points)[metric], success, metric)
        for metric in METRICS
        for epoch in READ_AT
    }
    random = float(frame["plan_random"].dropna().mean())
    print_table(results, success, random)
    draw(results, success, random)


def judge(values: pd.Series, success: pd.DataFrame, metric: str) -> dict[str, Any]:
    """Rho with its interval, and the planning success of the metric's pick.

    The sign of rho is such that a larger rho means a better metric, whichever direction of the metric is better.
    """
    oriented = -values if metric in SMALLER_IS_BETTER else values
    both = pd.DataFrame({"metric": oriented, "success": success["plan_success"]}).dropna()
    rng, size = np.random.default_rng(0), len(both)
    rows = rng.integers(0, size, (BOOTSTRAPS, size))
    pick = both["metric"].idxmax()
    return {
        "rho": float(spearman(both.to_numpy().T[:, None])[0]),
        "interval": np.percentile(spearman(both.to_numpy().T[:, rows]), [2.5, 97.5]),
        "picked": success.loc[pick, "plan_confirmed"],
        "point": pick,
    }


def spearman(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spearman's rank correlation (R,) of R samples of n pairs (2, R, n); ties get their mean rank."""
    ranks = np.stack([pd.DataFrame(side).rank(axis=1).to_numpy() for side in pairs])
    ranks -= ranks.mean(2, keepdims=True)
    return (ranks[0] * ranks[1]).sum(1) / np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))


def print_table(results: dict[tuple[str, int], dict[str, Any]], success: pd.DataFrame, random: float) -> None:
    best = success["plan_confirmed"].max()
    title = f"{len(success)} configurations, {EPOCHS} epochs; best success {best:.0%}, random policy {random:.0%}"
    table = Table(title=title, title_justify="left")
    for name in ("metric", "", "rho with planning", "success of its pick", "its pick"):
        table.add_column(name)
    for epoch in READ_AT:
        table.add_column(f"rho, success of its pick at epoch {epoch}")
    for metric, kind in METRICS.items():
        last = results[metric, EPOCHS]
        low, high = last["interval"]
        early = [f"{results[metric, e]['rho']:+.2f} {results[metric, e]['picked']:.0%}" for e in READ_AT]
        picked = " ".join(f"{value:g}" for value in last["point"])
        table.add_row(
            metric, kind, f"{last['rho']:+.2f} [{low:+.2f}, {high:+.2f}]", f"{last['picked']:.0%}", picked, *early
        )
    Console(width=200).print(table)


def draw(results: dict[tuple[str, int], dict[str, Any]], success: pd.DataFrame, random: float) -> None:
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1.25, 1), layout="constrained")
    names = [m for m in METRICS if m not in ("val_mrr_within", "train_loss")][::-1]
    picked = [100 * results[name, EPOCHS]["picked"] for name in names]
    ours = "val_rollout_mrr"
    left.barh(names, picked, color=["#0072B2" if name == ours else "#B8C4CC" for name in names])
    for bar, share, name in zip(left.patches, picked, names, strict=True):
        colour = "white" if name == ours else "#222222"
        left.text(
            share - 1.5, bar.get_y() + bar.get_height() / 2, f"{share:.0f} %", color=colour, ha="right", va="center"
        )
    left.axvline(100 * random, color="#D55E00", linestyle="--", label=f"random policy {random:.0%}")
    best = success["plan_confirmed"].max()
    left.axvline(100 * best, color="#009E73", linestyle=":", label=f"best of the grid {best:.0%}")
    left.set(xlabel="goals reached by the configuration the metric picks, %", xlim=(0, 112))
    left.legend(loc="lower right", fontsize=8)
    shown = {ours: "#0072B2", "rollout_probe_r2": "#009E73", "effective_rank": "#CC79A7", "val_skill": "#E69F00"}
    for name, colour in (shown | {"val_cosine": "#56B4E9", "val_loss": "#D55E00"}).items():
        rhos = [results[name, epoch]["rho"] for epoch in READ_AT]
        right.plot(READ_AT, rhos, marker="o", color=colour, label=name, linewidth=3 if name == ours else 1.5)
    right.axhline(0, color="#888888", linewidth=0.8)
    right.set(xlabel="epoch at which the metric is read", ylabel="Spearman's rho with planning success", ylim=(-1, 1))
    right.set_xticks(READ_AT)
    right.legend(fontsize=8, ncols=2, loc="lower right")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    write_atomically(PICTURE, buffer.getvalue())
    print(PICTURE)


if __name__ == "__main__":
    app()
