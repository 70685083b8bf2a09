"""Progress within an epoch: polled from the mailboxes of the worker groups, and shown for a single run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

import ray
from rich.console import Console

from jepa_ray.cli import make_status_line
from jepa_ray.train.mailbox import Progress

POLL_INTERVAL_S = 1.0
MAX_POLL_SHARE = 0.05  # of the time: with many groups, polling must not take the interpreter from the driver's loop
POLL_TIMEOUT_S = 1.0
LINE_INTERVAL_S = 30.0  # between two lines where the output is not a terminal


class ProgressPolling:
    """A daemon thread that asks the mailboxes about once a second, and passes on their latest progress.

    An error of Ray means that a group or the cluster has ended. That is handled elsewhere, so only the poll is skipped.

    Args:
        mailboxes: the handles of the mailbox actors that exist now.
        show: receives the latest `Progress` of each; it is called in the polling thread.
    """

    def __init__(self, mailboxes: Callable[[], Iterable[Any]], show: Callable[[Progress], None]) -> None:
        self._mailboxes, self._show = mailboxes, show
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._poll_until_ended, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2 * POLL_TIMEOUT_S)

    def _poll_until_ended(self) -> None:
        pause = POLL_INTERVAL_S
        while not self._ended.wait(pause):
            started = time.thread_time()  # CPU time of this thread only
            for progress in self._poll():
                if not self._ended.is_set():
                    self._show(progress)
            pause = max(POLL_INTERVAL_S, (time.thread_time() - started) / MAX_POLL_SHARE)

    def _poll(self) -> list[Progress]:
        """The progress of every mailbox that answers in time."""
        try:
            asked = [mailbox.latest_progress.remote() for mailbox in self._mailboxes()]
            if not asked:
                return []
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=POLL_TIMEOUT_S)
        except Exception:  # Ray raises many kinds while it shuts down
            return []
        return [progress for progress in map(_fetch, answered) if progress]


def _fetch(answer: Any) -> Progress | None:
    try:
        return ray.get(answer, timeout=POLL_TIMEOUT_S)
    except Exception:  # the mailbox has died
        return None


class ProgressLine:
    """Shows the progress of a single run: a status line on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, epochs: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._console, self._epochs, self._now = console, epochs, now
        self._text = ""
        self._line = make_status_line(console, lambda: self._text)
        self._printed = now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the epoch is."""
        step, speed = f"step {progress.step:,}/{progress.steps:,}", f"{progress.samples_per_s:,.0f} samples/s"
        self._text = f"epoch {progress.epoch}/{self._epochs}  {step}  {speed}"
        if self._console.is_terminal:
            self._line.start(refresh=True)
        elif self._now() - self._printed >= LINE_INTERVAL_S:
            self._printed = self._now()
            self._console.print(self._text, highlight=False, soft_wrap=True)
