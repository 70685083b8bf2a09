"""The study: what is recorded, how trials are closed, and what a session that died leaves behind."""

import io
import math
from pathlib import Path

import optuna
import pytest
from helpers.studies import make_spec, make_study, record_trial
from rich.console import Console

from jepa_ray.config import Objective, SweepConfig
from jepa_ray.sweep.output import leaderboard
from jepa_ray.sweep.output.terminal_table import print_leaderboard
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.records import Status, TrialRecord
from jepa_ray.sweep.storage.study import Study, StudyView

EPOCH = {"epoch_s": 2.0, "val_loss": 0.1}


def grid_spec(**sections: object) -> SweepConfig:
    """Six points, suggested in their order."""
    return make_spec(
        space={"training.ema_decay": [0.9, 0.99], "model.transition_depth": [1, 2, 3]},
        search={"algorithm": "grid", "num_trials": 100},
        **sections,
    )


def begin(study: Study, trials: int) -> Study:
    """Begin trials 0, 1, ..."""
    search = Search(study)
    for _ in range(trials):
        search.ask()
    return study


def optuna_trial(study: Study, number: int) -> optuna.trial.FrozenTrial:
    return study.optuna.trials[number]  # in a grid, no suggestion is discarded, so Optuna has the same numbers


class TestStatus:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return begin(make_study(grid_spec(), tmp_path / "optuna.db"), trials=3)

    def test_reaching_its_end_is_complete_with_the_best_value(self, study: Study) -> None:
        record_trial(study, 0, 0.2, 0.7, 0.6)
        assert study.record(0).status is Status.COMPLETE
        assert optuna_trial(study, 0).value == 0.7

    def test_being_stopped_is_pruned_with_every_intermediate_value(self, study: Study) -> None:
        record_trial(study, 0, 0.2, 0.1, last=False)
        assert study.record(0).status is Status.PRUNED
        assert optuna_trial(study, 0).state is optuna.trial.TrialState.PRUNED
        assert optuna_trial(study, 0).intermediate_values == {1: 0.2, 2: 0.1}

    def test_an_error_is_failed_and_never_left_running(self, study: Study) -> None:
        study.note(0, error="train_loss is nan")
        study.finish(0)
        study.finish(1, failed=True)
        assert [study.record(n).status for n in (0, 1)] == [Status.FAILED, Status.FAILED]
        assert optuna_trial(study, 0).state is optuna.trial.TrialState.FAIL

    def test_a_closed_trial_stays_as_it_is(self, study: Study) -> None:
        record_trial(study, 0, 0.7)
        study.finish(0, failed=True)
        assert study.record(0).status is Status.COMPLETE

    def test_an_epoch_that_is_reported_again_stays_as_it_is(self, study: Study) -> None:
        assert study.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        assert not study.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.4}, last=False)
        assert study.report(0, 2, {**EPOCH, "val_rollout_mrr": 0.5}, last=True)
        assert [row["val_rollout_mrr"] for row in study.record(0).history] == [0.3, 0.5]

    def test_a_trial_whose_only_objective_is_not_a_number_is_failed(self, study: Study) -> None:
        record_trial(study, 0, math.nan)
        assert study.record(0).status is Status.FAILED
        assert study.record(0).error == "the objective val_rollout_mrr has no finite value in the best epoch"
        assert study.best_value(study.record(0)) is None


class TestBestEpoch:
    @pytest.mark.parametrize(
        ("mode", "values", "best"),
        [
            ("max", [0.2, 0.7, 0.6], 2),
            ("min", [0.2, 0.7, 0.1], 3),
            ("max", [0.7, 0.2, 0.7], 1),  # the first one of equals
            ("max", [math.nan, 0.3], 2),
            ("max", [0.3, math.nan], 1),
            ("max", [math.nan], None),
            ("min", [], None),
        ],
    )
    def test_it_is_the_first_one_with_the_best_value(self, mode: str, values: list[float], best: int | None) -> None:
        objective = Objective.model_validate({"metric": "val_loss", "mode": mode})
        record = TrialRecord(0, {}, Status.RUNNING, [{"val_loss": value} for value in values])
        assert record.best_epoch(objective) == best
        assert record.best_metrics(objective) == (record.history[best - 1] if best else {})


class TestAfterADeath:
    """The session died between the last thing that it wrote and the closing of the trial."""

    @pytest.mark.parametrize(
        ("notes", "last", "status"),
        [
            ({}, True, Status.COMPLETE),
            ({"stop": "too low", "stop_epoch": 1}, False, Status.PRUNED),
            ({"collapse": "all alike"}, False, Status.PRUNED),
            ({"error": "train_loss is nan"}, False, Status.FAILED),
        ],
    )
    def test_a_trial_that_had_ended_is_closed(
        self, tmp_path: Path, notes: dict[str, object], last: bool, status: Status
    ) -> None:
        study = begin(make_study(grid_spec(), tmp_path / "optuna.db"), trials=1)
        study.note(0, **notes)
        study.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=last)
        view = StudyView.open(grid_spec(), tmp_path / "optuna.db")
        assert view.record(0).status is Status.RUNNING  # a view closes nothing
        assert make_study(grid_spec(), tmp_path / "optuna.db").record(0).status is status
        assert view.record(0).history == study.record(0).history

    def test_a_trial_that_had_not_ended_stays_open(self, tmp_path: Path) -> None:
        """One was in the middle, one was stopped at an epoch that is not recorded, one had just begun."""
        study = begin(make_study(grid_spec(), tmp_path / "optuna.db"), trials=3)
        study.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        study.note(1, stop="too low", stop_epoch=1)
        again = make_study(grid_spec(), tmp_path / "optuna.db")
        assert [again.record(n).status for n in range(3)] == [Status.RUNNING] * 3
        assert not again.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)


def train_all(spec: SweepConfig) -> Study:
    """A study whose every suggestion is complete after one epoch with the value 0.5."""
    study = make_study(spec)
    search = Search(study)
    while suggestion := search.ask():
        record_trial(study, suggestion.number, 0.5)
    return study


class TestLeaderboard:
    def test_ranks_complete_before_pruned_before_failed(self) -> None:
        study = begin(make_study(grid_spec()), trials=4)
        record_trial(study, 0, 0.2, 0.5)
        record_trial(study, 1, 0.9, last=False)  # compared after one epoch only
        study.finish(2, failed=True)
        record_trial(study, 3, 0.8, 0.6)
        frame = leaderboard.build_leaderboard(study, {3: "run3"})
        assert frame["trial_id"].tolist() == ["trial_00003", "trial_00000", "trial_00001", "trial_00002"]
        assert frame["status"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAILED"]
        assert frame["objective"].tolist()[:3] == [0.8, 0.5, 0.9]
        assert frame["rank"].tolist() == [1, 2, 3, 4]
        assert frame["seconds"].tolist() == [4.0, 4.0, 2.0, 0.0]
        assert frame["mlflow_run_id"].isna().tolist() == [False, True, True, True]

    def test_has_the_documented_columns(self) -> None:
        columns = list(leaderboard.build_leaderboard(make_study(grid_spec()), {}).columns)
        assert columns[:7] == [
            "rank", "trial_id", "status", "epochs", "objective", "training.ema_decay", "model.transition_depth",
        ]  # fmt: skip
        assert columns[-5:] == ["seconds", "mlflow_run_id", "collapse", "stop", "plan_success"]

    def test_a_smaller_loss_ranks_higher(self) -> None:
        study = begin(make_study(grid_spec(objective={"metric": "val_loss"})), trials=2)
        for number, losses in enumerate([[0.5, 0.3], [0.2, 0.4]]):
            for epoch, loss in enumerate(losses, start=1):
                study.report(number, epoch, {"epoch_s": 1.0, "val_loss": loss}, last=epoch == 2)
            study.finish(number)
        assert leaderboard.build_leaderboard(study, {})["objective"].tolist() == [0.2, 0.3]

    def test_an_absent_dimension_is_an_empty_cell_and_a_present_one_keeps_its_type(self, tmp_path: Path) -> None:
        depth = {"choices": [2, 4], "when": {"model.encoder_type": "vit"}}
        study = train_all(make_spec(space={"model.encoder_type": ["vit", "mlp"], "model.vit.depth": depth}))
        text = leaderboard.write_leaderboard(study, {}, tmp_path).read_text()
        header, *lines = (line.split(",") for line in text.splitlines())
        places = [header.index(key) for key in ("model.encoder_type", "model.vit.depth")]
        assert sorted([line[i] for i in places] for line in lines) == [["mlp", ""], ["vit", "2"], ["vit", "4"]]
        console = Console(file=io.StringIO(), width=200)
        print_leaderboard(leaderboard.build_leaderboard(study, {}), study.spec, console)
        assert "nan" not in console.file.getvalue()  # type: ignore[attr-defined]


class TestSeveralObjectives:
    @pytest.fixture
    def study(self) -> Study:
        """Mean reciprocal rank (larger is better) against seconds per epoch (smaller is better)."""
        objective = [{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]
        return begin(make_study(grid_spec(objective=objective)), trials=6)

    def record(self, study: Study, number: int, *epochs: tuple[float, float], last: bool = True) -> None:
        for epoch, (mrr, seconds) in enumerate(epochs, start=1):
            ended = last and epoch == len(epochs)
            study.report(number, epoch, {"val_rollout_mrr": mrr, "epoch_s": seconds}, last=ended)
        study.finish(number)

    def test_optuna_gets_the_values_of_the_best_epoch_by_the_first_objective(self, study: Study) -> None:
        self.record(study, 0, (0.2, 1.0), (0.7, 3.0), (0.6, 2.0))
        assert optuna_trial(study, 0).values == [0.7, 3.0]

    def test_a_pruned_trial_has_no_values_and_breaks_nothing(self, study: Study) -> None:
        self.record(study, 0, (0.2, 1.0), last=False)
        assert study.record(0).status is Status.PRUNED
        assert optuna_trial(study, 0).values is None
        assert [row["epoch_s"] for row in study.record(0).history] == [1.0]

    @pytest.mark.parametrize("lacking", [{}, {"epoch_s": float("nan")}, {"epoch_s": float("inf")}])
    def test_a_trial_that_lacks_an_objective_is_failed_and_says_which(
        self, study: Study, lacking: dict[str, float]
    ) -> None:
        study.report(0, 1, {"val_rollout_mrr": 0.5, **lacking}, last=True)
        record = study.finish(0)
        assert record.status is study.record(0).status is Status.FAILED
        assert record.error == "the objective epoch_s has no finite value in the best epoch"

    def test_only_complete_trials_can_be_on_the_pareto_front_and_the_first_objective_ranks(self, study: Study) -> None:
        """Trial 2 is worse than 1 in both; 3 is as good as 1; 4 is the best of all but not complete."""
        for number, values in enumerate([(0.9, 9.0), (0.5, 2.0), (0.4, 3.0), (0.5, 2.0)]):
            self.record(study, number, values)
        self.record(study, 4, (0.99, 1.0), last=False)
        study.finish(5, failed=True)
        frame = leaderboard.build_leaderboard(study, {})
        assert frame["trial_id"].tolist() == [f"trial_0000{n}" for n in (0, 1, 3, 2, 4, 5)]
        assert frame["pareto"].tolist() == [True, True, True, False, None, None]
        assert list(frame.columns).index("pareto") == 5

    def test_a_single_objective_has_no_such_column(self) -> None:
        assert "pareto" not in leaderboard.build_leaderboard(train_all(grid_spec()), {}).columns
