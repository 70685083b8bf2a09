"""Would pausing and promoting trials find the best of the grid with fewer epochs than stopping them?

    python benchmarks/promotion.py [--orders 300]

The recorded curves of `benchmarks/replay.py` are trained in random order on four groups, whose epochs are equally long.
There is no searcher, so that only the rules differ. Stopping: never, ASHA at its rungs, and the median rule. Promotion:
asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) continues a configuration that is among the best
1/eta of its rung, and otherwise starts a new one. PASHA (Bohdal et al. 2023, arXiv 2207.06940) does the same
below a highest rung, which it raises when the two highest rungs rank their configurations differently.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from replay import CLOSE, GROUPS, OBJECTIVE, quartiles, read_curves
from rich.table import Table

from jepa_ray import cli

Scores = NDArray[np.float64]  # (configurations, epochs)
Job = tuple[int, int]  # a configuration, and the epoch it is trained to
START_RESULTS = 3  # results that the median rule needs before it stops a configuration


def rungs(grace: int, eta: int, epochs: int) -> list[int]:
    """Epochs at which trials are compared, and the last epoch."""
    below = [grace]
    while below[-1] * eta < epochs:
        below.append(below[-1] * eta)
    return [*below, epochs]


class Promotion:
    """Chooses among the paused configurations and those that have not started."""

    def __init__(self, scores: Scores, order: list[int], eta: int, grace: int, *, grows: bool) -> None:
        self._scores, self._order, self._eta, self._grows = scores, order, eta, grows
        self._rungs = rungs(grace, eta, scores.shape[1])
        self._results: list[dict[int, float]] = [{} for _ in self._rungs]
        self._promoted: list[set[int]] = [set() for _ in self._rungs]
        self._highest = 1 if grows else len(self._rungs) - 1

    def next(self) -> Job | None:
        """A promotion if one is due, else a new configuration, else the best paused one."""
        if promoted := self._promote(self._highest, share=1 / self._eta):
            return promoted
        if self._order:
            return self._order.pop(0), self._rungs[0]
        return self._promote(len(self._rungs) - 1, share=1.0)

    def _promote(self, highest: int, share: float) -> Job | None:
        for rung in reversed(range(highest)):
            ranked = self._ranked(rung)
            for configuration in ranked[: int(len(ranked) * share)]:
                if configuration not in self._promoted[rung]:
                    self._promoted[rung].add(configuration)
                    return configuration, self._rungs[rung + 1]
        return None

    def _ranked(self, rung: int) -> list[int]:
        return sorted(self._results[rung], key=lambda c: -self._results[rung][c])

    def stops(self, configuration: int, epoch: int) -> bool:
        """Take in a result. No configuration is stopped: a job ends at its rung."""
        if epoch in self._rungs:
            rung = self._rungs.index(epoch)
            self._results[rung][configuration] = self._scores[configuration, epoch - 1]
            if self._grows and rung == self._highest < len(self._rungs) - 1:
                below = sorted(self._ranked(rung), key=lambda c: -self._results[rung - 1][c])
                self._highest += below != self._ranked(rung)
        return False


class Stopping:
    """Trains the configurations in order, each until the rule stops it."""

    def __init__(self, scores: Scores, order: list[int], rule: Callable[[int, list[float]], bool]) -> None:
        self._scores, self._order, self._rule = scores, order, rule

    def next(self) -> Job | None:
        return (self._order.pop(0), self._scores.shape[1]) if self._order else None

    def stops(self, configuration: int, epoch: int) -> bool:
        return self._rule(epoch, self._scores[configuration, :epoch].tolist())


def asha(eta: int, grace: int, epochs: int) -> Callable[[int, list[float]], bool]:
    """Stop a configuration that is not among the best 1/eta of those that have reached the rung."""
    seen: dict[int, list[float]] = {rung: [] for rung in rungs(grace, eta, epochs)[:-1]}

    def stops(epoch: int, curve: list[float]) -> bool:
        if epoch not in seen:
            return False
        seen[epoch].append(curve[-1])
        return curve[-1] < np.quantile(seen[epoch], 1 - 1 / eta)

    return stops


def median() -> Callable[[int, list[float]], bool]:
    """Stop a configuration whose best value is below the median of the best values of others at the same epoch."""
    seen: dict[int, list[float]] = {}

    def stops(epoch: int, curve: list[float]) -> bool:
        others = seen.setdefault(epoch, [])
        stop = len(others) >= START_RESULTS and max(curve) < np.median(others)
        others.append(max(curve))
        return bool(stop)

    return stops


def epochs_to_find(rule: Any, scores: Scores, target: float) -> float:
    """Epochs that all groups train until a configuration reaches the target; infinity if none does."""
    free = [(0, group) for group in range(GROUPS)]  # when each group ends its present epoch
    jobs: dict[int, Job] = {}
    trained: dict[int, int] = {}
    spent = 0
    while free:
        now, group = heapq.heappop(free)
        if group in jobs:
            configuration, until = jobs[group]
            epoch = trained[configuration] = trained.get(configuration, 0) + 1
            spent += 1
            if scores[configuration, epoch - 1] >= target:
                return spent
            if rule.stops(configuration, epoch) or epoch == until:
                del jobs[group]
        if group not in jobs and (job := rule.next()):
            jobs[group] = job
        if group in jobs:
            heapq.heappush(free, (now + 1, group))
    return math.inf


def main(orders: Annotated[int, typer.Option(min=2, help="Random orders of the grid.")] = 300) -> None:
    """Print, for each rule, the epochs until the best configuration is found."""
    curves = read_curves()
    scores = np.array([[row[OBJECTIVE] for row in rows] for rows in curves.rows.values()])
    epochs, target = scores.shape[1], (1 - CLOSE) * scores.max()
    rules: dict[str, Callable[[list[int]], Any]] = {"never": lambda o: Stopping(scores, o, lambda *_: False)}
    for eta in (2, 3, 4):
        rules[f"stopping ASHA, reduction {eta}"] = lambda o, eta=eta: Stopping(scores, o, asha(eta, 1, epochs))
    rules["median"] = lambda o: Stopping(scores, o, median())
    for grows, name in ((False, "promotion"), (True, "PASHA")):
        for eta in (2, 3, 4):
            rules[f"{name}, reduction {eta}"] = lambda o, eta=eta, grows=grows: Promotion(
                scores, o, eta, 1, grows=grows
            )
    title = f"epochs of {scores.size} until the best is found, {orders} random orders"
    table = Table(title=title, title_justify="left")
    for heading in ("rule", "median (quartiles)", "found at 25 %"):
        table.add_column(heading)
    for name, rule in rules.items():
        epochs_spent = [
            epochs_to_find(rule(np.random.default_rng(seed).permutation(len(scores)).tolist()), scores, target)
            for seed in range(orders)
        ]
        share = np.mean(np.array(epochs_spent) <= 0.25 * scores.size)
        table.add_row(name, quartiles(np.array(epochs_spent), 0), f"{share:.0%}")
    cli.console().print(table)


if __name__ == "__main__":
    typer.run(main)
