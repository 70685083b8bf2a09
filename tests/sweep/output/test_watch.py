import io
import itertools
import socket
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.errors import ConfigError
from jepa_ray.files import RunFolder
from jepa_ray.sweep.output import watch as watching
from jepa_ray.sweep.output.watch import read_records, watch
from jepa_ray.sweep.storage.study import Study, TrialRecord


@pytest.fixture
def spec() -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "watched",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {"training.learning_rate": [1e-4, 1e-3]},
        }
    )


CHOICES = optuna.distributions.CategoricalDistribution([1e-4, 1e-3])


def row(value: float) -> dict[str, float]:
    return {"val_rollout_mrr": value, "epoch_s": 1.0}


def begun(study: Study) -> int:
    return study.begin(study.optuna.ask({"training.learning_rate": CHOICES}).number).number


def test_a_running_sweep_is_shown_from_its_books_until_it_is_finished(
    spec: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before is counted; what happens while it looks is told, also a trial it never saw running."""
    monkeypatch.setattr(watching, "INTERVAL_S", 0.01)
    folder = RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml")
    with folder.begin("name: watched", fresh=False):
        study = Study.open(spec, folder.path / "optuna.db")
        first, second = begun(study), begun(study)
        study.report(first, 1, row(0.4), last=True)
        study.finish(first)
        study.report(second, 1, row(0.5), last=False)
        looked = threading.Barrier(2, timeout=20)
        reads = itertools.count(1)

        def reading(*arguments: Any) -> list[TrialRecord]:
            found = read_records(*arguments)
            if next(reads) == 2:
                looked.wait()
            return found

        monkeypatch.setattr(watching, "read_records", reading)

        def run() -> None:
            looked.wait()
            study.report(second, 2, row(0.6), last=True)
            study.finish(second)
            third = begun(study)
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


def test_a_sweep_whose_process_is_gone_ends_the_watch(spec: SweepConfig, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml")
    with folder.begin("name: watched", fresh=False):
        Study.open(spec, folder.path / "optuna.db")
        assert folder.in_use
    assert not folder.in_use
    folder._beside("owner").write_text(f"process 999999999 on {socket.gethostname()}")
    assert not folder.in_use  # it was killed, and could not say so
    assert not watch(spec, folder, Console(file=io.StringIO()))


def test_nothing_to_watch_is_said(spec: SweepConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no sweep to watch"):
        watch(spec, RunFolder(tmp_path / "sweeps" / "watched", "spec.yaml"), Console(file=io.StringIO()))
    assert not any(tmp_path.iterdir())
