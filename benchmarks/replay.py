"""How much of the grid has to be trained until its best configuration is found? Recorded curves, virtual time.

    python benchmarks/replay.py record FOLDER   # benchmarks/curves.csv, from the checkpoints of which_metric.py train
    python benchmarks/replay.py play            # every policy under every seed, in minutes; skips finished policies
    python benchmarks/replay.py report          # the table and the picture, from the results of `play`

A policy is a searcher and a scheduler with Ray Tune's interface: those of a sweep, or Ray's own. They are called in the
order in which four groups would end their epochs, without Ray, processes or training. An epoch takes one unit of time,
or with --seconds the time that it took when it was recorded, on a busy machine.

A result is the best objective of any epoch of any trial so far. Its regret is the difference from the best value of
the table.
"""

from __future__ import annotations

import heapq
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import optuna
import pandas as pd
import typer
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console
from rich.table import Table

from jepa_ray.config import SweepConfig, load_sweep_config
from jepa_ray.files import write_atomically
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.scheduler import TuneScheduler
from jepa_ray.sweep.search.searcher import TuneSearcher
from jepa_ray.sweep.search.stopping import make_stopping_rule
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrainedBy, to_tune
from jepa_ray.train.mailbox import EpochResult

HERE = Path(__file__).parent
SPEC = HERE.parent / "sweeps/grid.yaml"
TABLE, PICTURE = HERE / "curves.csv", HERE.parent / "docs/replay.png"
GROUPS = 4
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0)  # shares of all epochs of the grid
CLOSE, NEAR = 0.01, 0.05  # distances from the best objective, relative to it
OBJECTIVE = "val_rollout_mrr"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option("--out", help="Folder of the results of `play`.")]
DEFAULT_OUT = Path("outputs/replay")

Point = tuple[Any, ...]  # values of the spec's dimensions, in its order


# ---------------------------------------------------------------------------------------- the table


@app.command()
def record(
    folder: Annotated[Path, typer.Argument(help="One folder per point, with epoch_1.pt, epoch_2.pt, ...")],
) -> None:
    """Write the table of learning curves from the checkpoints of all epochs."""
    from which_metric import EPOCHS, folder_of, grid

    from jepa_ray.train.checkpoint import read_checkpoint

    rows = []
    for point, epoch in itertools.product(grid()[1], range(1, EPOCHS + 1)):
        metrics = read_checkpoint(folder_of(folder, point) / f"epoch_{epoch}.pt")["metrics"]
        rows.append({**point, "epoch": epoch, OBJECTIVE: metrics[OBJECTIVE], "epoch_s": metrics["epoch_s"]})
    write_atomically(TABLE, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
    print(f"{TABLE}: {len(rows)} rows")


@dataclass(frozen=True)
class Curves:
    """The metrics of every configuration in every epoch."""

    rows: dict[Point, list[dict[str, float]]]

    @classmethod
    def read(cls, keys: Iterable[str]) -> Curves:
        """The recorded table."""
        points = pd.read_csv(TABLE).groupby(list(keys))
        return cls({point: rows[[OBJECTIVE, "epoch_s"]].to_dict("records") for point, rows in points})

    @property
    def best(self) -> float:
        """The best value of the table."""
        return max(row[OBJECTIVE] for rows in self.rows.values() for row in rows)

    @property
    def epochs(self) -> int:
        """All epochs of the grid."""
        return sum(len(rows) for rows in self.rows.values())


# -------------------------------------------------------------------------------------- the policies


class Pair:
    """A searcher and a scheduler, which get results in the order in which Ray Tune's controller passes them on."""

    def __init__(self, searcher: Searcher, scheduler: TrialScheduler) -> None:
        self.searcher, self.scheduler = searcher, scheduler

    def start(self, trial_id: str) -> SimpleNamespace | None:
        """A new trial, if the searcher has one."""
        config = self.searcher.suggest(trial_id)
        if config is None or config == Searcher.FINISHED:
            return None
        trial = SimpleNamespace(trial_id=trial_id, config=config)
        self.scheduler.on_trial_add(None, trial)
        return trial

    def point(self, trial: SimpleNamespace) -> Point:
        """The configuration of the trial."""
        return tuple(trial.config.values())

    def ends(self, trial: SimpleNamespace, result: dict[str, Any], *, last: bool) -> bool:
        """Pass on a result; returns whether the trial is over."""
        if last:
            self.scheduler.on_trial_complete(None, trial, result)
        over = last or self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        if over:
            self.searcher.on_trial_complete(trial.trial_id, result=result)
        else:
            self.searcher.on_trial_result(trial.trial_id, result)
        return over


class Sweep(Pair):
    """The searcher and the scheduler of a sweep, and their study."""

    def __init__(self, spec: SweepConfig, sampler: BaseSampler | None = None) -> None:
        self._study = Study(spec, optuna.storages.InMemoryStorage())
        searcher = TuneSearcher(self._study)
        self._study.optuna.sampler = sampler or self._study.optuna.sampler
        super().__init__(searcher, TuneScheduler(make_stopping_rule(spec), self._study))

    def point(self, trial: SimpleNamespace) -> Point:
        return tuple(trial.config["overrides"].values())

    def ends(self, trial: SimpleNamespace, result: dict[str, Any], *, last: bool) -> bool:
        number, metrics = trial.config["number"], {key: result[key] for key in (OBJECTIVE, "epoch_s")}
        epoch = EpochResult(result["epoch"], metrics, last, None, [])
        over = super().ends(trial, to_tune(epoch, TrainedBy(), OBJECTIVE), last=last)
        self._study.report(number, epoch.epoch, metrics, last=last)
        if over:
            self._study.finish(number)
        return over


def rays_own(spec: SweepConfig) -> Pair:
    """The pair in Ray Tune's documentation, for the same space and budget; 81 suggestions, duplicates included."""
    stopping, objective = spec.early_stopping, spec.objective
    searcher = OptunaSearch(
        space.distributions(spec.space), metric=objective.metric, mode=objective.mode, seed=spec.search.seed
    )
    scheduler = ASHAScheduler(
        "epoch",
        objective.metric,
        objective.mode,
        max_t=stopping.max_epochs,
        grace_period=stopping.grace_epochs,
        reduction_factor=stopping.reduction_factor,
    )
    return Pair(searcher, scheduler)


def tpe_of_a_quarter(spec: SweepConfig) -> Pair:
    """TPE that takes the best quarter of the trials as good ones, not the best tenth, from the fifth trial on."""
    sampler = TPESampler(
        seed=spec.search.seed,
        multivariate=True,
        constant_liar=True,
        n_startup_trials=5,
        gamma=lambda trials: math.ceil(trials / 4),
    )
    return Sweep(spec, sampler)


def from_the_middle(spec: SweepConfig) -> Pair:
    """A sweep that tries the middle of the space first."""
    middle = {key: choices[len(choices) // 2] for key, choices in spec.space.items() if isinstance(choices, list)}
    return Sweep(spec.model_copy(update={"search": spec.search.model_copy(update={"enqueue": [middle]})}))


@dataclass(frozen=True)
class Policy:
    """A way to spend epochs."""

    name: str
    colour: str  # empty: only in the table, not in the picture
    sets: tuple[str, ...] = ()  # settings that differ from the spec
    build: Callable[[SweepConfig], Pair] = Sweep

    @property
    def fixed(self) -> bool:
        """Whether the result is the same for all seeds."""
        return "search.algorithm=grid" in self.sets


NEVER = "early_stopping.scheduler=none"
MEDIAN = "early_stopping.scheduler=median"
CURVES = "search.algorithm=curves"
ALL = ("search.num_trials=81", "search.enqueue_base=false")  # the base config is a good configuration already
POLICIES = (
    Policy("grid, in its order", "#888888", ("search.algorithm=grid", NEVER)),
    Policy("random", "#E69F00", ("search.algorithm=random", NEVER)),
    Policy("random + ASHA", "#56B4E9", ("search.algorithm=random",)),
    Policy("Ray's OptunaSearch + ASHAScheduler", "#D55E00", build=rays_own),
    Policy("curves + median", "#0072B2", (CURVES, MEDIAN)),
    Policy("curves + median, from the middle", "#009E73", (CURVES, MEDIAN), from_the_middle),
    Policy("TPE + ASHA", "#000000"),
    Policy("TPE + median", "#CC79A7", (MEDIAN,)),
    Policy("TPE of a quarter + median", "#F0E442", (MEDIAN,), tpe_of_a_quarter),
    Policy("curves + ASHA", "", (CURVES,)),
    Policy("TPE", "", (NEVER,)),
    Policy("TPE + Hyperband", "", ("early_stopping.scheduler=hyperband",)),
)


# ------------------------------------------------------------------------------------------ the replay


def replay(pair: Pair, curves: Curves, trials: int, *, seconds: bool = False) -> NDArray[np.float64]:
    """The best objective so far after each epoch of any trial (E,), in the order of virtual time."""
    names = map(str, range(trials))
    free: list[tuple[float, int]] = [(0.0, group) for group in range(GROUPS)]  # when each group ends its present epoch
    training: dict[int, tuple[SimpleNamespace, int]] = {}  # group -> trial and epoch
    values: list[float] = []
    while free:
        now, group = heapq.heappop(free)
        trial, epoch = training.pop(group, (None, 0))
        if trial:
            rows = curves.rows[pair.point(trial)]
            values.append(rows[epoch - 1][OBJECTIVE])
            result = {**rows[epoch - 1], "epoch": epoch, "training_iteration": epoch}
            if pair.ends(trial, result, last=epoch == len(rows)):
                trial, epoch = None, 0
        if trial is None and (name := next(names, None)):
            trial = pair.start(name)
        if trial:
            training[group] = trial, epoch + 1
            duration = curves.rows[pair.point(trial)][epoch]["epoch_s"] if seconds else 1.0
            heapq.heappush(free, (now + duration, group))
    return np.maximum.accumulate(values)


def play_all(policy: Policy, curves: Curves, seeds: range, *, seconds: bool) -> NDArray[np.float64]:
    """The best objective so far (seeds, epochs of the grid); a replay that ends early keeps its last value."""
    rows = []
    for seed in seeds[:1] if policy.fixed else seeds:
        spec = load_sweep_config(SPEC, [*ALL, f"search.seed={seed}", *policy.sets])
        best = replay(policy.build(spec), curves, spec.search.num_trials, seconds=seconds)
        rows.append(np.pad(best, (0, curves.epochs - len(best)), mode="edge"))
    return np.stack(rows)


@app.command()
def play(
    out: Out = DEFAULT_OUT,
    seeds: Annotated[int, typer.Option(help="Seeds of every policy.")] = 100,
    first: Annotated[int, typer.Option(help="The first seed; use another --out for another one.")] = 0,
    seconds: Annotated[bool, typer.Option("--seconds", help="Epochs take the time that was recorded.")] = False,
) -> None:
    """Replay every policy that has no results yet."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = read_curves()
    for policy in POLICIES:
        if (path := out / f"{policy.name}.csv").exists():
            continue
        best = play_all(policy, curves, range(first, first + seeds), seconds=seconds)
        write_atomically(path, pd.DataFrame(best).to_csv(index=False, header=False).encode())
        print(f"{policy.name}: {len(best)} replays", flush=True)


# ------------------------------------------------------------------------------------------ the report


@app.command()
def report(out: Out = DEFAULT_OUT) -> None:
    """Print and draw the results of every policy."""
    paths = {policy: out / f"{policy.name}.csv" for policy in POLICIES}
    results = {p: pd.read_csv(path, header=None).to_numpy() for p, path in paths.items() if path.exists()}
    curves = read_curves()
    print_table(results, curves)
    draw(results, curves)


def read_curves() -> Curves:
    """The recorded curves of the spec's grid."""
    return Curves.read(load_sweep_config(SPEC).space)


def epochs_until(best: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """Epochs until each seed has reached the target (seeds,); infinity if it never does."""
    reached = best >= target
    return np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)


def quartiles(values: NDArray[np.float64], digits: int) -> str:
    """The median, and in brackets the quartiles. No value is interpolated, since some are infinite."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="higher")
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})".replace("inf", "never")


def print_table(results: dict[Policy, NDArray[np.float64]], curves: Curves) -> None:
    """Regret after each share of the epochs, and epochs to a result close to the best one, for each policy."""
    best = np.array([max(row[OBJECTIVE] for row in rows) for rows in curves.rows.values()])
    near = ", ".join(f"{np.sum(best >= (1 - close) * best.max())} within {close:.0%}" for close in (CLOSE, NEAR))
    title = (
        f"Regret after a share of the grid's {curves.epochs} epochs, median and quartiles;"
        f" of {len(best)} configurations the best one has {best.max():.4f}, {near} of it"
    )
    table = Table(title=title, title_justify="left")
    shares = [f"{share:.0%}" for share in BUDGETS]
    for name in ("policy", "seeds", *shares, f"epochs to {CLOSE:.0%}", "reached at 25%", f"epochs to {NEAR:.0%}"):
        table.add_column(name)
    for policy, values in results.items():
        regrets = [quartiles(curves.best - values[:, round(share * curves.epochs) - 1], 3) for share in BUDGETS]
        close, near = (epochs_until(values, (1 - within) * curves.best) for within in (CLOSE, NEAR))
        reached = f"{np.mean(close <= 0.25 * curves.epochs):.0%}"
        table.add_row(policy.name, str(len(values)), *regrets, quartiles(close, 0), reached, quartiles(near, 0))
    Console(width=250).print(table)


def draw(results: dict[Policy, NDArray[np.float64]], curves: Curves) -> None:
    """Regret, and the share of seeds that found the best configuration, against the epochs spent."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    spent = 100 * np.arange(1, curves.epochs + 1) / curves.epochs
    for policy, best in ((p, b) for p, b in results.items() if p.colour):
        width = 3 if policy.name == OURS else 1.5
        left.plot(spent, np.median(curves.best - best, axis=0), color=policy.colour, linewidth=width, label=policy.name)
        reached = 100 * np.mean(best >= (1 - CLOSE) * curves.best, axis=0)
        right.plot(spent, reached, color=policy.colour, linewidth=width)
    left.set(ylabel="regret (median over seeds)", ylim=(0, 0.2))
    right.set(ylabel=f"seeds that found the best within {CLOSE:.0%}, %", ylim=(0, 100))
    right.axhline(50, color="#888888", linewidth=0.8)
    for axis in (left, right):
        axis.set(xlabel="epochs spent, % of the full grid", xlim=(0, 60))
        axis.axvline(25, color="#888888", linewidth=0.8, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130)
    write_atomically(PICTURE, buffer.getvalue())
    print(PICTURE)


OURS = "curves + median"

if __name__ == "__main__":
    app()
