"""The live view of a sweep: a panel that redraws itself in a terminal, plain lines everywhere else."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from rich import progress as bars
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from jepa_ray.config import Budget, SweepConfig
from jepa_ray.config.dimensions import Params
from jepa_ray.formatting import format_count, format_duration, format_params, list_params, pack_lines
from jepa_ray.sweep import trial_name
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.train.mailbox import Progress

ENDED = (Status.COMPLETE, Status.PRUNED, Status.FAILED)
STYLE = {Status.COMPLETE: "green", Status.PRUNED: "", Status.FAILED: "red"}
PLAIN_INTERVAL_S = 30.0  # without a terminal, one line with the running trials' progress is printed this often
HEADER_LINES = 6  # lines of the panel above the running trials, at most
INDENT = "    "


@dataclass(frozen=True)
class _Running:
    """A trial that a worker group trains at the moment, and its results so far."""

    params: Params
    epochs: int = 0  # complete ones
    value: float = math.nan  # the objective in the last complete epoch
    speed: float | None = None  # samples per second in the last complete epoch
    progress: Progress | None = None  # within the epoch after that

    def describe(self, max_epochs: int) -> str:
        """`epoch 2/5  step 130/156  3,200 samples/s`, or only the last complete epoch if no step is known."""
        speed = self.progress.samples_per_s if self.progress else self.speed
        parts = [f"epoch {self.progress.epoch if self.progress else self.epochs}/{max_epochs}"]
        parts += [f"step {self.progress.step}/{self.progress.steps}"] if self.progress else []
        parts += [f"{speed:,.0f} samples/s"] if speed else []
        return "  ".join(parts)


class SweepView:
    """Receives every event from the recorder; shows the progress, the running trials and the best result so far.

    Args:
        spec: the sweep.
        budget: its trials and epochs.
        console: where to draw or print.
        earlier: the trials of earlier sessions; those that have not ended are counted when they end.
        now: a clock in seconds.
    """

    def __init__(
        self,
        spec: SweepConfig,
        budget: Budget,
        console: Console,
        earlier: list[TrialRecord],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._budget, self._console, self._now = spec, budget, console, now
        self._started = self._last_progress_line = now()
        self._running: dict[int, _Running] = {}  # by trial number
        self._ended: Counter[Status] = Counter()
        self._ended_here = 0  # in this session
        self._epochs: dict[int, int] = {}  # complete epochs by trial number
        self._best: tuple[float, int, Params] | None = None  # objective, trial number and configuration
        self._bar = bars.Progress(
            bars.TextColumn("trials"), bars.BarColumn(None), bars.TextColumn("{task.completed}/{task.total}")
        )
        self._task = self._bar.add_task("trials", total=budget.runs)
        self._live = Live(
            get_renderable=self._draw,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        for record in earlier:
            if record.status is not Status.RUNNING:
                self._count(record)
            for row in record.history:
                self._improve(row[spec.objective.metric], record.number, record.params)
            self._epochs[record.number] = len(record.history)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    # ---------------------------------------------------------------------------------------- events

    def trial_started(self, number: int, params: Params) -> None:
        """A worker group starts or continues a trial."""
        self._running[number] = _Running(params)

    def progressed(self, progress: Progress) -> None:
        """A worker group trained some steps of an epoch."""
        running = self._running.get(progress.trial)
        if running and progress.epoch > running.epochs:
            self._running[progress.trial] = replace(running, progress=progress)
        self._print_progress()

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None = None) -> None:
        """A trial completed an epoch in `group`; None if the result was read from a checkpoint or a study."""
        params, value = self._running[number].params, metrics[self._spec.objective.metric]
        self._running[number] = _Running(params, epoch, value, metrics.get("samples_per_s"))
        self._epochs[number] = max(epoch, self._epochs.get(number, 0))  # after a retry, an epoch is reported again
        self._improve(value, number, params)

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._running.pop(record.number, None)
        self._count(record)
        self._ended_here += 1
        best = record.best_metrics(self._spec.objective).get(self._spec.objective.metric, math.nan)
        reason = record.error or record.collapse or record.stop
        parts = [
            f"{record.trial_id}  {record.status:<8}  {format_count(len(record.history), 'epoch')}  {best:.4f}",
            format_params(record.params),
            *([reason] if reason else []),
            *([] if self._console.is_terminal else [self._summarize_progress()]),
        ]
        self._print("  ".join(parts), STYLE[record.status])

    def retried(self, number: int, error: str) -> None:
        """The worker group of a trial died; another one continues the trial."""
        self._print(f"{trial_name(number)}  is retried: {error}", "yellow")

    def _print(self, line: str, style: str = "") -> None:
        """Print a line above the panel; wrapped only in a terminal, so that a log has one line per event."""
        self._console.print(Text(line, style=style), soft_wrap=not self._console.is_terminal)

    def _count(self, record: TrialRecord) -> None:
        self._ended[record.status] += 1
        self._bar.update(self._task, completed=sum(self._ended.values()))

    def _improve(self, value: float, number: int, params: Params) -> None:
        if self._spec.objective.better(value, self._best[0] if self._best else None):
            self._best = (value, number, params)

    # ----------------------------------------------------------------------------------- plain lines

    def _print_progress(self) -> None:
        """Without a terminal: the steps of all running trials, at most every `PLAIN_INTERVAL_S`."""
        now = self._now()
        if self._console.is_terminal or now - self._last_progress_line < PLAIN_INTERVAL_S:
            return
        self._last_progress_line = now
        max_epochs = self._budget.max_epochs
        trials = (f"{trial_name(n)}  {running.describe(max_epochs)}" for n, running in sorted(self._running.items()))
        self._print("; ".join(trials))

    def _summarize_progress(self) -> str:
        """`[3/30, 1:02:03 left]`."""
        left = self._estimate_time_left()
        return f"[{sum(self._ended.values())}/{self._budget.runs}{f', {left} left' if left else ''}]"

    def _estimate_time_left(self) -> str | None:
        """The remaining time, by the mean time per trial of this session; None before the first trial has ended."""
        if not self._ended_here:
            return None
        remaining = self._budget.runs - sum(self._ended.values())
        return format_duration((self._now() - self._started) / self._ended_here * remaining)

    # ------------------------------------------------------------------------------------------ panel

    def _draw(self) -> Any:
        statuses = [f"{len(self._running)} running", *(f"{self._ended[status]} {status.lower()}" for status in ENDED)]
        left = self._estimate_time_left()
        times = f"{format_duration(self._now() - self._started)} elapsed" + (f", {left} left" if left else "")
        return Group(
            Text(f"sweep {self._spec.name}: {'  '.join(statuses)}", style="bold"),
            self._bar,
            Text(f"epochs {sum(self._epochs.values())} of at most {self._budget.worst_case_epochs}   {times}"),
            Text(self._describe_best(), style="green"),
            *(Text(line, style="cyan") for line in self._list_running()),
        )

    def _describe_best(self) -> str:
        if not self._best:
            return f"best {self._spec.objective.metric} -"
        value, number, params = self._best
        first = f"best {self._spec.objective.metric} {value:.4f}  {trial_name(number)}"
        return "\n".join(self._append_configuration(first, params))

    def _list_running(self) -> list[str]:
        """The running trials with configurations; without them, or not all trials, if the console has few lines."""
        room = max(1, self._console.height - HEADER_LINES)
        trials = [(self._describe_running(n, running), running.params) for n, running in sorted(self._running.items())]
        lines = [line for first, params in trials for line in self._append_configuration(first, params)]
        if len(lines) > room:
            lines = [first for first, _ in trials]
        if len(lines) > room:
            lines = [*lines[: room - 1], f"and {len(lines) - room + 1} more trials"]
        return lines

    def _describe_running(self, number: int, running: _Running) -> str:
        value = f"{running.value:.4f}" if running.epochs else "-"
        return f"{trial_name(number)}  {running.describe(self._budget.max_epochs)}  {value}"

    def _append_configuration(self, first: str, params: Params) -> list[str]:
        """A line and a configuration, on the same line if it fits, otherwise below it."""
        line = f"{first}  {format_params(params)}"
        width = self._console.width
        if cell_len(line) <= width:
            return [line]
        return [first, *(INDENT + below for below in pack_lines(list_params(params), width - len(INDENT)))]
