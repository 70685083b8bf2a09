"""The live view of a sweep: a panel that redraws itself in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.search.budget import Plan
from jepa_ray.sweep.search.space import Params
from jepa_ray.sweep.storage.study import Status, TrialRecord

STYLE = {Status.COMPLETE: "green", Status.PRUNED: "yellow", Status.FAILED: "red", Status.RUNNING: "cyan"}


@dataclass(frozen=True)
class _Current:
    """What a group trains, and how it went so far."""

    params: Params
    epoch: int = 0
    value: float = math.nan  # the objective
    speed: float | None = None  # samples per second in the last epoch


class SweepView:
    """Told of every event by the recorder; draws progress, running trials and the best so far."""

    def __init__(self, spec: SweepConfig, plan: Plan, console: Console, done: list[TrialRecord]) -> None:
        self._spec, self._plan, self._console = spec, plan, console
        self._started = time.monotonic()
        self._running: dict[int, _Current] = {}
        self._ended: Counter[Status] = Counter()
        self._ended_here = 0
        self._epochs = 0
        self._best: tuple[float, int, Params] | None = None
        self._bar = Progress(TextColumn("trials"), BarColumn(None), TextColumn("{task.completed}/{task.total}"))
        self._task = self._bar.add_task("trials", total=plan.runs)
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        for record in done:
            self._count(record)
            for row in record.history:
                self._improve(row[spec.objective.metric], record.number, record.params)
            self._epochs += len(record.history)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def trial_started(self, number: int, params: Params) -> None:
        """A group begins, or continues, a trial."""
        self._running[number] = _Current(params)

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None = None) -> None:
        """A trial finished an epoch in `group`; None: it was told from a checkpoint."""
        params, value = self._running[number].params, metrics[self._spec.objective.metric]
        self._running[number] = _Current(params, epoch, value, metrics.get("samples_per_s"))
        self._epochs += 1
        self._improve(value, number, params)

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running.pop(record.number, None)
        self._count(record)
        self._ended_here += 1
        objective = self._spec.objective
        best = objective.best(row[objective.metric] for row in record.history)  # as the leaderboard has it
        value = float("nan") if best is None else best
        result = f"{record.trial_id}  {record.status:<8}  {len(record.history)} epochs  {value:.4f}"
        reason = record.error or record.collapse or record.stop
        line = f"{result}  {describe(record.params)}" + (f"  {reason}" if reason else "")
        left = self._time_left()
        if not self._console.is_terminal:
            line += f"  [{sum(self._ended.values())}/{self._plan.runs}{', ' + left + ' left' if left else ''}]"
        self._console.print(
            Text(line, style=STYLE[record.status] if record.status is not Status.PRUNED else ""), soft_wrap=True
        )

    def retried(self, number: int, error: str) -> None:
        """A group died; the trial continues in another one."""
        self._console.print(
            Text(f"{trial_name(number)}  retried from its checkpoint: {error}", style="yellow"), soft_wrap=True
        )

    def _count(self, record: TrialRecord) -> None:
        self._ended[record.status] += 1
        self._bar.update(self._task, completed=sum(self._ended.values()))

    def _improve(self, value: float, number: int, params: Params) -> None:
        if self._spec.objective.better(value, self._best[0] if self._best else None):
            self._best = (value, number, params)

    def _time_left(self) -> str | None:
        if not self._ended_here:
            return None
        todo = self._plan.runs - sum(self._ended.values())
        return clock((time.monotonic() - self._started) / self._ended_here * todo)

    def _draw(self) -> Any:
        counts = "  ".join(
            [f"{len(self._running)} running"]
            + [f"{self._ended[status]} {status.lower()}" for status in (Status.COMPLETE, Status.PRUNED, Status.FAILED)]
        )
        left = self._time_left()
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for number, now in sorted(self._running.items()):
            value = f"{now.value:.4f}" if now.epoch else "-"
            speed = f"{now.speed:,.0f} samples/s" if now.speed else ""
            epoch = f"epoch {now.epoch}/{self._plan.max_epochs}"
            table.add_row(trial_name(number), epoch, value, speed, describe(now.params), style="cyan")
        best = "-"
        if self._best:
            best = f"{self._best[0]:.4f}  {trial_name(self._best[1])}  {describe(self._best[2])}"
        clocks = f"{clock(time.monotonic() - self._started)} elapsed" + (f", {left} left" if left else "")
        return Group(
            Text(f"sweep {self._spec.name}: {counts}", style="bold"),
            self._bar,
            Text(f"epochs {self._epochs} of at most {self._plan.worst_case_epochs}   {clocks}"),
            Text(f"best {self._spec.objective.metric} {best}", style="green"),
            table,
        )


def describe(params: Params) -> str:
    """`ema_decay=0.99 learning_rate=0.001`: the last part of each dotted key is enough for eyes."""
    return " ".join(
        f"{key.rpartition('.')[2]}={value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
        for key, value in params.items()
    )


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
