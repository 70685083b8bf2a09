"""The live view of a sweep that another process runs."""

from __future__ import annotations

import io
import itertools
import socket
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import make_spec
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder
from jepa_ray.sweep.output import watch as watching
from jepa_ray.sweep.output.watch import read_study, watch
from jepa_ray.sweep.storage.records import TrialRecord
from jepa_ray.sweep.storage.study import Study


@pytest.fixture
def spec() -> SweepConfig:
    return make_spec(name="watched", space={"training.learning_rate": [1e-4, 1e-3]})


CHOICES = optuna.distributions.CategoricalDistribution([1e-4, 1e-3])


def make_row(value: float) -> dict[str, float]:
    return {"val_rollout_mrr": value, "epoch_s": 1.0}


def begin_trial(study: Study) -> int:
    return study.begin(study.optuna.ask({"training.learning_rate": CHOICES}).number).number


def test_a_running_sweep_is_shown_from_its_study_until_it_is_finished(
    spec: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials that had ended are only counted; later events are shown, also of a trial that never was seen running."""
    monkeypatch.setattr(watching, "INTERVAL_S", 0.01)
    folder = RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml")
    with folder.begin("name: watched", fresh=False):
        study = Study.open(spec, folder.path / "optuna.db")
        first, second = begin_trial(study), begin_trial(study)
        study.report(first, 1, make_row(0.4), last=True)
        study.finish(first)
        study.report(second, 1, make_row(0.5), last=False)
        has_read = threading.Barrier(2, timeout=20)
        reads = itertools.count(1)

        def reading(*arguments: Any) -> list[TrialRecord]:
            records = read_study(*arguments)
            if next(reads) == 2:
                has_read.wait()
            return records

        monkeypatch.setattr(watching, "read_study", reading)

        def run() -> None:
            has_read.wait()
            study.report(second, 2, make_row(0.6), last=True)
            study.finish(second)
            third = begin_trial(study)
            study.note(third, error="train_loss is nan")
            study.finish(third, failed=True)
            folder.mark_finished(1.0)

        thread = threading.Thread(target=run)
        thread.start()
        console = Console(file=io.StringIO(), width=160, color_system=None)
        assert watch(spec, folder, console)
        thread.join()
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("trial_00001  COMPLETE  2 epochs  0.6000  learning_rate=")
    assert "trial_00002  FAILED    0 epochs  nan" in lines[1]
    assert len(lines) == 2


def test_the_view_ends_when_the_process_of_the_sweep_is_gone(spec: SweepConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml")
    with folder.begin("name: watched", fresh=False):
        Study.open(spec, folder.path / "optuna.db")
        assert folder.in_use
    assert not folder.in_use
    folder._beside("owner").write_text(f"process 999999999 on {socket.gethostname()}")
    assert not folder.in_use  # it was killed, and could not remove the file
    assert not watch(spec, folder, Console(file=io.StringIO()))


def test_without_a_study_there_is_nothing_to_show(spec: SweepConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no sweep to watch"):
        watch(spec, RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml"), Console(file=io.StringIO()))
    assert not any(tmp_path.iterdir())
