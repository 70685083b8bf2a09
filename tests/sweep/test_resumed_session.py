"""The startup status of a session that resumes a sweep."""

from __future__ import annotations

import io
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import make_metrics, make_spec
from rich.console import Console

from jepa_ray.cli import StartupStatus
from jepa_ray.sweep.run import _Concurrency, _Session
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.search.searcher import Search, TuneSearcher
from jepa_ray.sweep.storage.location import locate_sweep
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.trial import Placement, SweepTrial
from jepa_ray.tracking import Run

SPEC = make_spec(space={"training.ema_decay": [0.99, 0.999]}, search={"algorithm": "grid"})


def make_run() -> Run:
    run: Run = Future()
    run.set_result("run")
    return run


class NoTracker:
    """In place of MLflow, which is not tested here; remembers what the console showed while it was asked for runs."""

    def __init__(self, printed: io.StringIO) -> None:
        self._printed = printed
        self.shown_while_waiting = ""

    def known_runs(self, prefix: str) -> list[Any]:
        self.shown_while_waiting = self._printed.getvalue()
        return []

    def open_run(self, **about: Any) -> Run:
        return make_run()

    def log_epoch(self, *arguments: Any) -> None:
        pass

    def tag(self, *arguments: Any) -> None:
        pass

    def close_run(self, run: Run, *, failed: bool = False) -> None:
        pass


def resume(study: Study, tracker: NoTracker, session: _Session) -> None:
    """Continue a sweep up to the point at which Ray Tune would be started."""
    concurrency = _Concurrency(1, lambda: 1, lambda: False, Placement())
    searcher = TuneSearcher(study, concurrency.limit)
    session._train(study, searcher, tracker, make_run(), plan_budget(SPEC), concurrency)  # type: ignore[arg-type]


@pytest.mark.parametrize("trained", [1, 2])
def test_only_a_session_that_trains_starts_a_worker_group(
    trained: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = locate_sweep(SPEC.name, None, tmp_path)
    with location.claim("name: unit", fresh=False, growing=(), say=print):  # makes the folder
        study = location.open_study(SPEC)
    search = Search(study)
    for _ in range(trained):
        suggestion = search.ask()
        assert suggestion
        study.report(suggestion.number, 1, make_metrics(0.5), last=True)
        study.finish(suggestion.number)
    printed, started = io.StringIO(), []
    console = Console(file=printed)
    monkeypatch.setattr(_Session, "_run_tune", lambda *_: started.append(printed.getvalue()))
    tracker = NoTracker(printed)
    with StartupStatus(console) as startup:
        resume(study, tracker, _Session(SPEC, location, console, startup, SweepTrial))
        startup.show("too late")
    assert tracker.shown_while_waiting == "updating MLflow ... 0 s\n"
    starting = "starting the first worker group ... 0 s\n" if trained == 1 else ""
    assert printed.getvalue() == tracker.shown_while_waiting + starting
    assert started == ([printed.getvalue()] if trained == 1 else [])
