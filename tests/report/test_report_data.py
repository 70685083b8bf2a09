"""Report data of a study, timelines and importances, and the report command."""

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
from helpers.studies import BEGAN, make_metrics, make_spec, make_study, train_study

from jepa_ray.config import Budget, Objective, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.report import space_plots
from jepa_ray.report.importance import compute_importance
from jepa_ray.report.panels import find_picks, group_picks
from jepa_ray.report.report_data import Epoch, ReportData, Session, SweepState, Trial
from jepa_ray.report.timeline import MAX_BARS, build_timeline
from jepa_ray.sweep.output.reporting import collect_report_data, read_report_data, write_report
from jepa_ray.sweep.storage.study import Study
from jepa_ray.sweep.tune_result import TrainedBy


def sweep(
    trials: Sequence[Trial], sessions: Sequence[float] = (), space: dict[str, object] | None = None
) -> ReportData:
    return ReportData(
        name="unit",
        state=SweepState.FINISHED,
        written=0.0,
        objectives=[Objective()],
        space=space or {},
        trials=trials,
        budget=Budget(points=None, trials=4, repeats=0, rungs=[], max_epochs=3),
        sessions=[Session(began, "", {}) for began in sessions],
        spec={},
        spec_text="",
    )


def trial(number: int, *epochs: tuple[str | None, float, float], status: str = "COMPLETE") -> Trial:
    """A trial with `epochs` as (group, start, end)."""
    rows = [Epoch({"epoch_s": end - begin}, group, end if group else None) for group, begin, end in epochs]
    return Trial(number, f"t{number}", "", status, {}, rows)


class TestTimeline:
    def test_idle_time_of_a_session_by_hand(self) -> None:
        """a: 10-14, 14-18, 20-22; b: 11-13, then nothing until the session's last epoch at 22."""
        line = build_timeline(
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

    def test_the_clock_stops_between_sessions(self) -> None:
        line = build_timeline(sweep([trial(0, ("a", 10, 14)), trial(1, ("b", 1005, 1009))], [8.0, 1000.0]))
        assert [(s.began, s.ended) for s in line.spans] == [(2, 6), (11, 15)]
        assert line.pauses == [6]
        assert line.idle == 0

    def test_a_study_without_sessions_begins_with_the_first_epoch(self) -> None:
        line = build_timeline(sweep([trial(0, ("a", 10, 14))]))
        assert [(s.began, s.ended) for s in line.spans] == [(0, 4)]

    def test_epochs_without_a_recorded_group_are_counted(self) -> None:
        line = build_timeline(sweep([trial(0, (None, 0, 2), ("a", 10, 14))], [8.0]))
        assert line.unknown == 1
        assert len(line.spans) == 1

    def test_too_many_bars_are_merged_and_no_time_is_lost(self) -> None:
        trials = [trial(i, ("ab"[i % 2], 2.0 * i, 2.0 * i + 1.9)) for i in range(2 * MAX_BARS)]
        line = build_timeline(sweep(trials, [0.0]))
        assert line.merged
        assert len(line.spans) <= MAX_BARS + 2
        assert sum(span.epochs for span in line.spans) == len(trials)
        assert sum(group.busy for group in line.groups) == pytest.approx(1.9 * len(trials))


class TestImportance:
    def planted(self, count: int, b_counts: float = 0.01) -> ReportData:
        """`a` determines the objective almost alone; `b` has a small effect, or none (`b_counts` = 0)."""
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

    def test_both_methods_find_the_important_key(self) -> None:
        importance = compute_importance(self.planted(10, b_counts=0))
        for shares in (importance.fanova, importance.ped_anova):
            assert sum(shares.values()) == pytest.approx(1)
            assert shares["x.a"] > 0.6
        assert importance.ordered(["x.b", "x.a"]) == ["x.a", "x.b"]

    def test_a_note_warns_of_few_trials(self) -> None:
        assert "With fewer than about 30 trials" in " ".join(compute_importance(self.planted(1)).notes)
        assert "With fewer than" not in " ".join(compute_importance(self.planted(10)).notes)

    def test_pairs_show_the_best_objective_of_each_cell(self) -> None:
        (pair,) = space_plots.plot_pairs(planted := self.planted(2), compute_importance(planted))
        assert pair.figure
        heat = pair.figure["data"][0]
        assert heat["x"] == ["0", "1", "2"]
        assert heat["z"][2] == [0.02, 1.02, 2.02]  # b = 2, over a
        assert heat["customdata"][0] == [2, 2, 2]


def test_the_pick_of_a_metric_has_the_objective_of_its_epoch() -> None:
    rows = [
        [{"val_rollout_mrr": 0.2, "val_loss": 0.5}, {"val_rollout_mrr": 0.8, "val_loss": 0.4}],
        [{"val_rollout_mrr": 0.1, "val_loss": 0.01}, {"val_rollout_mrr": 0.3, "val_loss": 0.02}],
    ]
    trials = [
        Trial(i, f"t{i}", "", "COMPLETE", {}, [Epoch(row) for row in epochs], objective=epochs[1]["val_rollout_mrr"])
        for i, epochs in enumerate(rows)
    ]
    found = {pick.metric: pick for pick in find_picks(sweep(trials))}
    assert (found["val_rollout_mrr"].trial.name, found["val_rollout_mrr"].epoch) == ("t0", 2)
    assert (found["val_loss"].trial.name, found["val_loss"].epoch, found["val_loss"].objective) == ("t1", 1, 0.1)
    assert (found["val_rollout_mrr"].share, found["val_loss"].share) == (1, 0)
    assert [[pick.metric for pick in together] for together in group_picks(find_picks(sweep(trials)))] == [
        ["val_rollout_mrr"], ["val_loss"],
    ]  # fmt: skip


# --------------------------------------------------------------------------------- studies on disk


class TestStudyOnDisk:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        spec = make_spec()
        (tmp_path / "spec.yaml").write_text(dump_yaml(spec.to_dict()))
        study = make_study(spec, tmp_path / "optuna.db")
        study.begin_session({"began": BEGAN, "command": "c", "versions": {}})
        train_study(study, max_trials=3)
        return tmp_path

    def test_the_group_and_time_of_each_epoch_are_stored(self, folder: Path) -> None:
        record = Study.open(make_spec(), folder / "optuna.db").record(0)
        assert [each.group for each in record.trained_by] == ["unit-group-0"] * len(record.history)
        assert record.trained_by[0].ended == pytest.approx(BEGAN, abs=20)
        assert all("ran" not in row and "last" not in row for row in record.history)

    def test_sessions_are_stored_in_order(self, folder: Path) -> None:
        study = Study.open(make_spec(), folder / "optuna.db")
        study.begin_session({"began": 2.0, "command": "d", "versions": {}})
        assert [s["command"] for s in Study.open(make_spec(), folder / "optuna.db").sessions] == ["c", "d"]

    def test_an_epoch_that_is_reported_again_keeps_its_group_and_time(self, folder: Path) -> None:
        study = Study.open(make_spec(), folder / "optuna.db")
        before = study.record(0).trained_by
        assert not study.report(0, 1, make_metrics(0.1), last=False, trained_by=TrainedBy("other", 1.0))
        assert study.record(0).trained_by == before

    def test_reading_changes_no_file_and_reports_the_sweep_as_not_finished(self, folder: Path) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        found = read_report_data(folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert found.state is SweepState.UNFINISHED
        assert len(found.trials) == 3
        (folder / "finished.json").write_text('{"seconds": 1}')
        assert read_report_data(folder).state is SweepState.FINISHED

    def test_the_study_can_be_read_while_another_process_writes(self, folder: Path) -> None:
        with sqlite3.connect(folder / "optuna.db") as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert len(read_report_data(folder).trials) == 3

    def test_a_folder_without_a_sweep_is_bad_input(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"is not the folder of a sweep: spec\.yaml and optuna\.db not found"):
            read_report_data(tmp_path)

    def test_the_command_takes_an_output_root_with_one_sweep(self, folder: Path) -> None:
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

    def test_two_folders_need_the_option_compare(self, folder: Path) -> None:
        command = [sys.executable, "-m", "jepa_ray.report", str(folder), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "--compare takes two" in done.stderr
        done = subprocess.run([*command, "--compare", "--out", str(folder / "both.html")], check=False)
        assert done.returncode == 0
        assert "Tried in both" in (folder / "both.html").read_text()


def test_writing_replaces_the_last_report(tmp_path: Path) -> None:
    study = make_study()
    first = write_report(study, tmp_path, SweepState.INTERRUPTED).read_text()
    train_study(study, max_trials=2)
    assert write_report(study, tmp_path, SweepState.INTERRUPTED).read_text() != first
    assert collect_report_data(study, tmp_path, SweepState.FINISHED).trials[0].rank is not None
