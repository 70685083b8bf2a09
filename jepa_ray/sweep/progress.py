"""Progress within the epochs of a sweep: from the worker groups' mailboxes to the view."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import Any, Self

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from jepa_ray.cli import StartupStatus
from jepa_ray.config.dimensions import Params
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.storage.records import TrialRecord
from jepa_ray.train.mailbox import MAILBOX_SUFFIX, Progress
from jepa_ray.train.progress import ProgressPolling


class NamedMailboxes:
    """The mailboxes of all worker groups in this Ray session, found by their names."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}  # by name; kept, since a lookup takes longer than a call

    def __call__(self) -> list[Any]:
        """The handles of those that are alive. Raises Ray's errors, for example if no session is open."""
        names = [name for name in ray.util.list_named_actors() if name.endswith(MAILBOX_SUFFIX)]
        self._handles = {name: self._handles.get(name) or ray.get_actor(name) for name in names}
        return list(self._handles.values())


class ProgressRelay(Callback):
    """Polls the mailboxes in a thread, and passes the progress on to the view in Ray Tune's thread.

    The recorder calls the view in Ray Tune's thread too, so a single thread makes all calls.
    """

    def __init__(self, view: LiveOutput) -> None:
        self._view = view
        self._arrived: queue.SimpleQueue[Progress] = queue.SimpleQueue()
        self._polling = ProgressPolling(NamedMailboxes(), self._arrived.put)

    def __enter__(self) -> Self:
        self._polling.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._polling.__exit__()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called by Ray Tune several times a second."""
        while not self._arrived.empty():
            self._view.progressed(self._arrived.get())


class LiveOutput:
    """Shows the startup status until a worker group trains or fails, and the view from then on.

    It is a listener that passes every event on to the view. A terminal has room for only one of the two at a time.
    """

    def __init__(self, startup: StartupStatus, view: SweepView) -> None:
        self._startup, self._view = startup, view

    def __enter__(self) -> Self:
        """Show that the first worker group is starting; only for a session that has something to train."""
        self._startup.show("starting the first worker group")
        return self

    def __exit__(self, *_: object) -> None:
        self._startup.close()
        self._view.__exit__()

    def _show_view(self) -> None:
        self._startup.close()
        self._view.__enter__()  # has no effect on a view that is shown

    def trial_started(self, number: int, params: Params) -> None:
        """A trial has an actor; its worker group may still have to start."""
        self._view.trial_started(number, params)

    def progressed(self, progress: Progress) -> None:
        """A worker group trained some steps of an epoch."""
        self._show_view()
        self._view.progressed(progress)

    def epoch_done(self, number: int, epoch: int, metrics: Mapping[str, float], group: str | None) -> None:
        """A trial finished an epoch in `group`; None if the result comes from a checkpoint."""
        self._show_view()
        self._view.epoch_done(number, epoch, metrics, group)

    def retried(self, number: int, error: str) -> None:
        """A trial's group died; the trial will continue in another one."""
        self._show_view()
        self._view.retried(number, error)

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._show_view()
        self._view.trial_ended(record)
