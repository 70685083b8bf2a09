"""The live view: the panel in a terminal, and the plain lines everywhere else."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from helpers.studies import make_spec
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.formatting import format_params
from jepa_ray.sweep.output.view import SweepView
from jepa_ray.sweep.search.budget import plan_budget
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.train.mailbox import Progress

PARAMS = {"training.learning_rate": 1e-3, "model.transition_depth": 4}
MANY_PARAMS = PARAMS | {f"model.some_long_key_name_{i}": 0.12345 for i in range(8)}


class Clock:
    """A clock that a test sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def spec() -> SweepConfig:
    """A spec with four configurations, of at most six epochs each."""
    space = {"training.learning_rate": [1e-4, 1e-3], "model.transition_depth": [2, 4]}
    return make_spec(space=space, early_stopping={"max_epochs": 6})


def make_row(value: float, **metrics: float) -> dict[str, float]:
    return {"val_rollout_mrr": value, "epoch_s": 1.0, **metrics}


def make_view(
    spec: SweepConfig,
    earlier: list[TrialRecord],
    *,
    terminal: bool,
    size: tuple[int, int] = (160, 40),
    clock: Callable[[], float] | None = None,
) -> tuple[SweepView, Console]:
    """A view, and the console that it prints to. `size`: its columns and lines."""
    width, height = size
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal, color_system=None)
    return SweepView(spec, plan_budget(spec), console, earlier, clock or Clock()), console


def read_output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def draw(view: SweepView, console: Console) -> list[str]:
    """The panel as it is now, line by line."""
    console.print(view._draw())
    return read_output(console).splitlines()


class TestPanel:
    def test_it_counts_trials_and_epochs_and_shows_the_best_with_its_configuration(self, spec: SweepConfig) -> None:
        before = TrialRecord(0, PARAMS, Status.PRUNED, [make_row(0.2)])
        view, console = make_view(spec, [before], terminal=True)
        view.trial_started(1, PARAMS)
        view.trial_started(2, PARAMS)
        view.epoch_done(1, 1, make_row(0.7))
        view.epoch_done(1, 2, make_row(0.6))
        view.trial_ended(TrialRecord(2, PARAMS, Status.FAILED, [], error="train_loss is nan"))
        shown = "\n".join(draw(view, console))
        assert "1 running  0 complete  1 pruned  1 failed" in shown
        assert "2/4" in shown
        assert "epochs 3 of at most 24" in shown
        assert "best val_rollout_mrr 0.7000  trial_00001  learning_rate=0.001 transition_depth=4" in shown
        assert "epoch 2/6" in shown
        assert (
            "trial_00002  FAILED    0 epochs  nan  learning_rate=0.001 transition_depth=4  train_loss is nan" in shown
        )

    def test_earlier_epochs_of_a_resumed_trial_are_counted_once(self, spec: SweepConfig) -> None:
        """After a retry, the last epoch is reported again from the checkpoint."""
        resumed = TrialRecord(0, PARAMS, Status.RUNNING, [make_row(0.7), make_row(0.6)])
        view, console = make_view(spec, [resumed], terminal=True)
        view.trial_started(0, PARAMS)
        view.epoch_done(0, 2, make_row(0.6))
        view.epoch_done(0, 3, make_row(0.5))
        view.retried(0, "the worker died")
        view.epoch_done(0, 3, make_row(0.5))
        shown = "\n".join(draw(view, console))
        assert "epochs 3 of at most 24" in shown
        assert "1 running  0 complete  0 pruned  0 failed" in shown
        assert "0/4" in shown
        assert "best val_rollout_mrr 0.7000  trial_00000" in shown

    def test_every_running_trial_has_its_step_and_speed(self, spec: SweepConfig) -> None:
        view, console = make_view(spec, [], terminal=True)
        view.trial_started(0, PARAMS)
        view.trial_started(1, PARAMS)
        view.epoch_done(0, 1, make_row(0.5, samples_per_s=1000.0))
        view.progressed(Progress(0, 2, 130, 156, 3200.4))
        view.progressed(Progress(1, 1, 7, 156, 99.6))
        lines = draw(view, console)
        assert lines[-2] == (
            "trial_00000  epoch 2/6  step 130/156  3,200 samples/s  0.5000  learning_rate=0.001 transition_depth=4"
        )
        assert (
            lines[-1] == "trial_00001  epoch 1/6  step 7/156  100 samples/s  -  learning_rate=0.001 transition_depth=4"
        )

    def test_a_complete_epoch_replaces_its_steps(self, spec: SweepConfig) -> None:
        """Also if a message about its steps arrives after its end."""
        view, console = make_view(spec, [], terminal=True)
        view.trial_started(0, PARAMS)
        view.progressed(Progress(0, 1, 156, 156, 3200.0))
        view.epoch_done(0, 1, make_row(0.5, samples_per_s=3100.0))
        view.progressed(Progress(0, 1, 156, 156, 3200.0))
        assert draw(view, console)[-1].startswith("trial_00000  epoch 1/6  3,100 samples/s  0.5000")

    def test_steps_of_a_trial_that_has_ended_are_ignored(self, spec: SweepConfig) -> None:
        view, console = make_view(spec, [], terminal=True)
        view.trial_started(0, PARAMS)
        view.trial_ended(TrialRecord(0, PARAMS, Status.FAILED, [], error="train_loss is nan"))
        view.progressed(Progress(0, 1, 1, 156, 3200.0))
        assert "0 running" in "\n".join(draw(view, console))

    def test_at_80_columns_nothing_is_cut_and_configurations_are_below_their_trials(self, spec: SweepConfig) -> None:
        view, console = make_view(spec, [], terminal=True, size=(80, 30))
        for number in (0, 1):
            view.trial_started(number, MANY_PARAMS)
            view.epoch_done(number, 1, make_row(0.5))
            view.progressed(Progress(number, 2, 130, 156, 3200.0))
        lines = draw(view, console)
        assert max(map(len, lines)) <= 80
        assert "…" not in "".join(lines)
        first = lines.index("trial_00000  epoch 2/6  step 130/156  3,200 samples/s  0.5000")
        below = lines[first + 1 : lines.index("trial_00001  epoch 2/6  step 130/156  3,200 samples/s  0.5000")]
        assert " ".join(below).split() == format_params(MANY_PARAMS).split()

    def test_many_running_trials_fit_on_the_screen(self, spec: SweepConfig) -> None:
        view, console = make_view(spec, [], terminal=True, size=(80, 20))
        for number in range(30):
            view.trial_started(number, PARAMS)
        lines = draw(view, console)
        assert len(lines) <= 20
        assert lines[-1] == "and 17 more trials"


class TestPlainLines:
    def test_the_end_of_a_trial_is_one_line_with_the_progress_of_the_sweep(self, spec: SweepConfig) -> None:
        view, console = make_view(spec, [], terminal=False)
        with view:
            view.trial_started(0, PARAMS)
            view.epoch_done(0, 1, make_row(0.5))
            view.retried(0, "the worker died")
            view.trial_ended(TrialRecord(0, PARAMS, Status.COMPLETE, [make_row(0.5), make_row(0.4)]))
        lines = read_output(console).splitlines()
        assert lines[0] == "trial_00000  is retried: the worker died"
        assert lines[1].startswith(
            "trial_00000  COMPLETE  2 epochs  0.5000  learning_rate=0.001 transition_depth=4  [1/4, 0:"
        )
        assert len(lines) == 2

    def test_a_long_line_is_wrapped_in_a_terminal_only(self, spec: SweepConfig) -> None:
        record = TrialRecord(0, MANY_PARAMS, Status.PRUNED, [make_row(0.5)], stop="stopped at epoch 1")
        for terminal in (True, False):
            view, console = make_view(spec, [], terminal=terminal, size=(80, 30))
            view.trial_ended(record)
            lines = read_output(console).splitlines()
            assert lines[0].startswith("trial_00000  PRUNED    1 epoch  0.5000  learning_rate=0.001")
            assert (max(map(len, lines)) <= 80) is terminal
            assert (len(lines) == 1) is not terminal
            assert "".join(lines).count("some_long_key_name_7=0.12345") == 1

    def test_steps_are_printed_every_30_seconds(self, spec: SweepConfig) -> None:
        """While trials run for ten minutes, and report every second, a line comes at least and at most every 30 s."""
        clock = Clock()
        view, console = make_view(spec, [], terminal=False, clock=clock)
        with view:
            view.trial_started(0, PARAMS)
            view.trial_started(1, PARAMS)
            for second in range(1, 601):
                clock.seconds = 1000.0 + second
                view.progressed(Progress(0, 1, second, 700, 3200.0))
                view.progressed(Progress(1, 1, 2 * second, 1400, 1600.0))
        lines = read_output(console).splitlines()
        assert len(lines) == 20
        assert lines[0] == (
            "trial_00000  epoch 1/6  step 30/700  3,200 samples/s; "
            "trial_00001  epoch 1/6  step 58/1400  1,600 samples/s"
        )

    def test_steps_are_not_printed_in_a_terminal(self, spec: SweepConfig) -> None:
        clock = Clock()
        view, console = make_view(spec, [], terminal=True, clock=clock)
        view.trial_started(0, PARAMS)
        clock.seconds += 100
        view.progressed(Progress(0, 1, 1, 156, 3200.0))
        assert read_output(console) == ""
