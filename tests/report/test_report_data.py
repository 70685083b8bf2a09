"""What is worked out from the books: facts, the time line, importances; and the command that reads them."""

from __future__ import annotations

import itertools
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from helpers import books

from jepa_ray.config import Objective, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.report import space_plots
from jepa_ray.report.importance import importance
from jepa_ray.report.panels import alike, picks
from jepa_ray.report.report_data import Budget, Epoch, ReportData, Session, SweepState, Trial
from jepa_ray.report.timeline import MAX_BARS, timeline
from jepa_ray.sweep.output.reporting import collect_report_data, read_report_data, write_report
from jepa_ray.sweep.storage.study import Ran, Study


def sweep(
    trials: Sequence[Trial], sessions: Sequence[float] = (), space: dict[str, object] | None = None
) -> ReportData:
    return ReportData(
        name="unit",
        state=SweepState.FINISHED,
        written=0.0,
        objectives=[Objective()],
        space=space or {},
        conditional=frozenset(),
        trials=trials,
        budget=Budget(4, 3, [], None),
        sessions=[Session(began, "", {}) for began in sessions],
        spec={},
        spec_text="",
    )


def trial(number: int, *epochs: tuple[str | None, float, float], status: str = "COMPLETE") -> Trial:
    """With epochs as (group, began, ended)."""
    rows = [Epoch({"epoch_s": end - begin}, group, end if group else None) for group, begin, end in epochs]
    return Trial(number, f"t{number}", "", status, {}, rows)


class TestTimeline:
    def test_idle_time_of_a_session_by_hand(self) -> None:
        """a: 10-14, 14-18, 20-22; b: 11-13, then nothing until the session's last epoch at 22."""
        line = timeline(
            sweep([trial(0, ("a", 10, 14), ("a", 14, 18)), trial(1, ("b", 11, 13)), trial(2, ("a", 20, 22))], [8.0])
        )
        assert [(s.group, s.began, s.ended, s.trial) for s in line.spans] == [
            ("a", 2, 10, "t0"), ("b", 3, 5, "t1"), ("a", 12, 14, "t2"),
        ]  # fmt: skip
        a, b = line.groups
        assert (a.startup, a.busy, a.idle, a.trials, a.epochs) == (2, 10, 2, 2, 3)
        assert (b.startup, b.busy, b.idle) == (3, 2, 9)
        assert line.idle == 11
        assert line.seconds == 14

    def test_the_clock_stands_still_between_sessions(self) -> None:
        line = timeline(sweep([trial(0, ("a", 10, 14)), trial(1, ("b", 1005, 1009))], [8.0, 1000.0]))
        assert [(s.began, s.ended) for s in line.spans] == [(2, 6), (11, 15)]
        assert line.pauses == [6]
        assert line.idle == 0

    def test_books_without_sessions_begin_with_the_first_epoch(self) -> None:
        line = timeline(sweep([trial(0, ("a", 10, 14))]))
        assert [(s.began, s.ended) for s in line.spans] == [(0, 4)]

    def test_epochs_that_nobody_remembers_are_counted(self) -> None:
        line = timeline(sweep([trial(0, (None, 0, 2), ("a", 10, 14))], [8.0]))
        assert line.unknown == 1
        assert len(line.spans) == 1

    def test_too_many_bars_are_merged_and_no_time_is_lost(self) -> None:
        trials = [trial(i, ("ab"[i % 2], 2.0 * i, 2.0 * i + 1.9)) for i in range(2 * MAX_BARS)]
        line = timeline(sweep(trials, [0.0]))
        assert line.merged
        assert len(line.spans) <= MAX_BARS + 2
        assert sum(span.epochs for span in line.spans) == len(trials)
        assert sum(group.busy for group in line.groups) == pytest.approx(1.9 * len(trials))


class TestImportance:
    def planted(self, count: int, b_counts: float = 0.01) -> ReportData:
        """`a` decides nearly everything, `b` little or, but for chance, nothing."""
        rng = random.Random(0)
        choices = optuna.distributions.CategoricalDistribution([0, 1, 2])
        points = list(itertools.product(range(3), repeat=2)) * count
        trials = [
            Trial(
                i,
                f"t{i}",
                "",
                "COMPLETE",
                {"x.a": a, "x.b": b},
                objective=a + (b_counts * b or rng.random()),
                rank=i + 1,
            )
            for i, (a, b) in enumerate(points)
        ]
        return sweep(trials, space={"x.a": choices, "x.b": choices})

    def test_both_ways_find_what_decides(self) -> None:
        found = importance(self.planted(10, b_counts=0))
        for shares in (found.fanova, found.ped_anova):
            assert sum(shares.values()) == pytest.approx(1)
            assert shares["x.a"] > 0.6
        assert found.ordered(["x.b", "x.a"]) == ["x.a", "x.b"]

    def test_few_trials_are_said_to_be_few(self) -> None:
        assert "These are few" in " ".join(importance(self.planted(1)).notes)

    def test_pairs_show_the_best_of_each_cell(self) -> None:
        (pair,) = space_plots.pairs(planted := self.planted(2), importance(planted))
        assert pair.figure
        heat = pair.figure["data"][0]
        assert heat["x"] == ["0", "1", "2"]
        assert heat["z"][2] == [0.02, 1.02, 2.02]  # b = 2, over a
        assert heat["customdata"][0] == [2, 2, 2]


def test_a_metric_picks_an_epoch_and_gets_its_objective() -> None:
    rows = [
        [{"val_rollout_mrr": 0.2, "val_loss": 0.5}, {"val_rollout_mrr": 0.8, "val_loss": 0.4}],
        [{"val_rollout_mrr": 0.1, "val_loss": 0.01}, {"val_rollout_mrr": 0.3, "val_loss": 0.02}],
    ]
    trials = [
        Trial(i, f"t{i}", "", "COMPLETE", {}, [Epoch(row) for row in epochs], objective=epochs[1]["val_rollout_mrr"])
        for i, epochs in enumerate(rows)
    ]
    found = {pick.metric: pick for pick in picks(sweep(trials))}
    assert (found["val_rollout_mrr"].trial.name, found["val_rollout_mrr"].epoch) == ("t0", 2)
    assert (found["val_loss"].trial.name, found["val_loss"].epoch, found["val_loss"].objective) == ("t1", 1, 0.1)
    assert (found["val_rollout_mrr"].share, found["val_loss"].share) == (1, 0)
    assert [[pick.metric for pick in together] for together in alike(picks(sweep(trials)))] == [
        ["val_rollout_mrr"], ["val_loss"],
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- the books


class TestBooks:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        spec = books.spec()
        (tmp_path / "spec.yaml").write_text(dump_yaml(spec.to_dict()))
        study = books.study(spec, tmp_path / "optuna.db")
        study.begin_session({"began": books.BEGAN, "command": "c", "versions": {}})
        books.train_all(study, most=3)
        return tmp_path

    def test_who_trained_what_when_survives_the_session(self, folder: Path) -> None:
        record = Study.open(books.spec(), folder / "optuna.db").record(0)
        assert [ran.group for ran in record.ran] == ["unit-group-0"] * len(record.history)
        assert record.ran[0].ended == pytest.approx(books.BEGAN, abs=20)
        assert all("ran" not in row and "last" not in row for row in record.history)

    def test_sessions_are_remembered_in_order(self, folder: Path) -> None:
        study = Study.open(books.spec(), folder / "optuna.db")
        study.begin_session({"began": 2.0, "command": "d", "versions": {}})
        assert [s["command"] for s in Study.open(books.spec(), folder / "optuna.db").sessions] == ["c", "d"]

    def test_an_epoch_told_again_keeps_who_trained_it(self, folder: Path) -> None:
        study = Study.open(books.spec(), folder / "optuna.db")
        before = study.record(0).ran
        assert not study.report(0, 1, books.metrics(0.1), last=False, ran=Ran("other", 1.0))
        assert study.record(0).ran == before

    def test_reading_touches_nothing_and_says_it_is_not_finished(self, folder: Path) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        found = read_report_data(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert found.state is SweepState.UNFINISHED
        assert len(found.trials) == 3
        (folder / "finished.json").write_text('{"seconds": 1}')
        assert read_report_data(folder).state is SweepState.FINISHED

    def test_reading_goes_on_while_another_process_writes(self, folder: Path) -> None:
        with sqlite3.connect(folder / "optuna.db") as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert len(read_report_data(folder).trials) == 3

    def test_no_sweep_is_bad_input(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is no folder of a sweep"):
            read_report_data(tmp_path)

    def test_the_command_writes_the_report_of_the_only_sweep_of_an_output_root(self, folder: Path) -> None:
        root = folder / "root"
        (root / "sweeps/unit").mkdir(parents=True)
        for name in ("spec.yaml", "optuna.db"):
            (folder / name).rename(root / "sweeps/unit" / name)
        done = subprocess.run(
            [sys.executable, "-m", "jepa_ray.report", str(root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        written = Path(done.stdout.strip())
        assert written == root / "sweeps/unit/report.html"
        assert "trial_00002" in written.read_text()

    def test_two_folders_want_compare(self, folder: Path) -> None:
        command = [sys.executable, "-m", "jepa_ray.report", str(folder), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--compare takes two" in done.stderr
        done = subprocess.run([*command, "--compare", "--out", str(folder / "both.html")], check=False)
        assert done.returncode == 0
        assert "Tried in both" in (folder / "both.html").read_text()


def test_writing_replaces_the_last_report(tmp_path: Path) -> None:
    study = books.study(books.spec())
    first = write_report(study, tmp_path, SweepState.INTERRUPTED).read_text()
    books.train_all(study, most=2)
    assert write_report(study, tmp_path, SweepState.INTERRUPTED).read_text() != first
    assert collect_report_data(study, tmp_path, SweepState.FINISHED).trials[0].rank is not None
