import io

import pytest
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.machine import Machine
from jepa_ray.sweep.output.view import SweepView, clock, describe
from jepa_ray.sweep.search.budget import plan
from jepa_ray.sweep.storage.study import Status, TrialRecord

PARAMS = {"training.learning_rate": 1e-3, "model.transition_depth": 4}


@pytest.fixture
def spec() -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {"training.learning_rate": [1e-4, 1e-3], "model.transition_depth": [2, 4]},
        }
    )


def row(value: float) -> dict[str, float]:
    return {"val_rollout_mrr": value, "epoch_s": 1.0}


def view_of(spec: SweepConfig, done: list[TrialRecord], *, terminal: bool) -> tuple[SweepView, Console]:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal, color_system=None)
    return SweepView(spec, plan(spec, Machine(2, 0)), console, done), console


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_panel_counts_what_happened_and_shows_the_best_with_its_configuration(spec: SweepConfig) -> None:
    before = TrialRecord(0, PARAMS, Status.PRUNED, [row(0.2)])
    view, console = view_of(spec, [before], terminal=True)
    view.trial_started(1, PARAMS)
    view.trial_started(2, PARAMS)
    view.epoch_done(1, 1, row(0.7))
    view.epoch_done(1, 2, row(0.6))
    view.trial_ended(TrialRecord(2, PARAMS, Status.FAILED, [], error="train_loss is nan"))
    console.print(view._draw())
    shown = printed(console)
    assert "1 running  0 complete  1 pruned  1 failed" in shown
    assert "2/4" in shown
    assert "epochs 3 of at most 24" in shown
    assert "best val_rollout_mrr 0.7000  trial_00001  learning_rate=0.001 transition_depth=4" in shown
    assert "epoch 2/6" in shown
    assert "trial_00002  FAILED    0 epochs  nan  learning_rate=0.001 transition_depth=4  train_loss is nan" in shown


def test_without_a_terminal_each_end_is_one_line_with_the_progress(spec: SweepConfig) -> None:
    view, console = view_of(spec, [], terminal=False)
    with view:
        view.trial_started(0, PARAMS)
        view.epoch_done(0, 1, row(0.5))
        view.retried(0, "the worker died")
        view.trial_ended(TrialRecord(0, PARAMS, Status.COMPLETE, [row(0.5), row(0.4)]))
    lines = printed(console).splitlines()
    assert lines[0] == "trial_00000  retried from its checkpoint: the worker died"
    assert lines[1].startswith(
        "trial_00000  COMPLETE  2 epochs  0.5000  learning_rate=0.001 transition_depth=4  [1/4, 0:"
    )
    assert len(lines) == 2


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_describe_keeps_the_last_part_of_each_key() -> None:
    assert describe({"a.b.c": 1e-5, "d": "cnn"}) == "c=1e-05 d=cnn"
