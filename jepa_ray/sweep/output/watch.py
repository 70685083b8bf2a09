"""The live view of a sweep that another process runs: its study is read repeatedly and turned into events."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.snapshot import copied
from jepa_ray.sweep.storage.study import StudyView

INTERVAL_S = 1.0  # between two readings of the study, at least
MAX_READING_SHARE = 0.1  # of the time may be spent on reading, so that a large study is read less often


def watch(spec: SweepConfig, folder: RunFolder, console: Console) -> bool:
    """Show a running sweep until it ends or its process is gone; returns whether the sweep is finished.

    Only reads, and shows no steps within an epoch, which the study does not have. Raises `ConfigError` if the folder
    has no study.
    """
    database = folder.path / "optuna.db"
    if not database.exists():
        raise ConfigError(f"{folder.path}: there is no sweep to watch; without --watch-only the command starts it")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {record.number: record for record in read_study(spec, database)}
    with SweepView(spec, plan_budget(spec), console, list(known.values())) as view:
        for record in known.values():
            if record.status is Status.RUNNING:
                send_events(view, None, record)
        ended = False
        while not ended:
            ended = folder.finished or not folder.in_use  # checked before the last reading, so that nothing is missed
            started = time.monotonic()
            for record in read_study(spec, database):
                send_events(view, known.get(record.number), record)
                known[record.number] = record
            if not ended:
                time.sleep(max(INTERVAL_S, (time.monotonic() - started) / MAX_READING_SHARE))
    return folder.finished


def read_study(spec: SweepConfig, database: Path) -> list[TrialRecord]:
    """All trials of the study, read from a copy of its database, since another process writes to the original."""
    with copied(database) as copy:
        return StudyView.open(spec, copy).records()


def send_events(view: SweepView, before: TrialRecord | None, now: TrialRecord) -> None:
    """Send the view the events of a trial between two readings of the study."""
    if before is None:
        view.trial_started(now.number, now.params)
    seen = len(before.history) if before else 0
    for epoch, metrics in enumerate(now.history[seen:], seen + 1):
        view.epoch_done(now.number, epoch, metrics)
    if now.status is not Status.RUNNING and (before is None or before.status is Status.RUNNING):
        view.trial_ended(now)
