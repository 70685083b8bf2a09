"""Looking at a sweep from another terminal: its books, read again and again, as the events that the live view knows."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder
from jepa_ray.machine import Machine
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.search.budget import plan
from jepa_ray.sweep.search.warm_start import copied
from jepa_ray.sweep.storage.study import Status, StudyView, TrialRecord

INTERVAL_S = 1.0  # between two looks,
SHARE = 0.1  # and at most this share of the time spent on looking, however large the study


def watch(spec: SweepConfig, folder: RunFolder, console: Console) -> bool:
    """Show a running sweep until it ends, or its process does; whether it is finished.

    Reads and never writes. Raises `ConfigError` if there is no such sweep.
    """
    database = folder.path / "optuna.db"
    if not database.exists():
        raise ConfigError(f"{folder.path}: there is no sweep to watch; without --watch-only the command starts it")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = {record.number: record for record in read_records(spec, database)}
    done = [record for record in known.values() if record.status is not Status.RUNNING]
    with SweepView(spec, plan(spec, Machine.local()), console, done) as view:
        for record in known.values():
            if record.status is Status.RUNNING:
                tell(view, None, record)
        over = False
        while not over:
            over = folder.finished or not folder.in_use  # before reading: nothing comes after it
            started = time.monotonic()
            for record in read_records(spec, database):
                tell(view, known.get(record.number), record)
                known[record.number] = record
            if not over:
                time.sleep(max(INTERVAL_S, (time.monotonic() - started) / SHARE))
    return folder.finished


def read_records(spec: SweepConfig, database: Path) -> list[TrialRecord]:
    """All trials as the disk has them now, from a copy: what another process writes is not opened."""
    with copied(database) as copy:
        return StudyView.open(spec, copy).records()


def tell(view: SweepView, before: TrialRecord | None, now: TrialRecord) -> None:
    """What happened to a trial between two looks, as events."""
    if before is None:
        view.trial_started(now.number, now.params)
    seen = len(before.history) if before else 0
    for epoch, metrics in enumerate(now.history[seen:], seen + 1):
        view.epoch_done(now.number, epoch, metrics)
    if now.status is not Status.RUNNING and (before is None or before.status is Status.RUNNING):
        view.trial_ended(now)
