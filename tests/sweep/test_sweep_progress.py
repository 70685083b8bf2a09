"""The startup status gives way to the view when the first worker group trains or fails."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from jepa_ray.cli import StartupStatus
from jepa_ray.sweep.progress import LiveOutput, ProgressRelay
from jepa_ray.train.mailbox import Progress

PROGRESS = Progress(0, 1, 10, 156, 3200.0)


class ViewCalls:
    """In place of the view; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append(name)

    def __enter__(self) -> None:
        self.calls.append("enter")

    def __exit__(self, *_: object) -> None:
        self.calls.append("exit")


@pytest.mark.parametrize(
    ("event", "arguments"),
    [
        ("progressed", (PROGRESS,)),
        ("epoch_done", (0, 1, {}, "group")),
        ("retried", (0, "the group died")),
        ("trial_ended", (None,)),
    ],
)
def test_the_view_is_shown_from_the_first_sign_of_a_group_on(event: str, arguments: tuple[Any, ...]) -> None:
    printed, view = io.StringIO(), ViewCalls()
    startup = StartupStatus(Console(file=printed))
    with LiveOutput(startup, view) as live:  # type: ignore[arg-type]
        live.trial_started(0, {})
        assert view.calls == ["trial_started"]
        assert printed.getvalue() == "starting the first worker group ... 0 s\n"
        getattr(live, event)(*arguments)
        assert view.calls == ["trial_started", "enter", event]
    startup.show("too late")
    assert view.calls[-1] == "exit"
    assert printed.getvalue() == "starting the first worker group ... 0 s\n"


def test_progress_reaches_the_view_in_the_thread_of_ray_tune() -> None:
    """The thread that polls only fills the queue."""
    view = ViewCalls()
    relay = ProgressRelay(view)  # type: ignore[arg-type]
    relay._polling._show(PROGRESS)
    assert view.calls == []
    relay.on_step_end(0, [])
    assert view.calls == ["progressed"]
