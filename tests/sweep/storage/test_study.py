"""The books: what is recorded, how trials are closed, and what a session that died leaves behind."""

import io
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from jepa_ray.config import SweepConfig
from jepa_ray.storage import Storage
from jepa_ray.sweep import checkpoint_name
from jepa_ray.sweep.output import results
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.retention import CheckpointRetention
from jepa_ray.sweep.storage.study import Status, Study

EPOCH = {"epoch_s": 2.0, "val_loss": 0.1}


def spec(metric: str = "val_rollout_mrr") -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {"training.ema_decay": [0.9, 0.99], "model.transition_depth": [1, 2, 3]},
            "search": {"algorithm": "grid", "num_trials": 100},
            "objective": {"metric": metric},
        }
    )


def study(path: Path, trials: int = 0, metric: str = "val_rollout_mrr") -> Study:
    """A study in a file, with trials 0, 1, ... begun."""
    books = Study.open(spec(metric), path / "optuna.db")
    search = Search(books)
    for _ in range(trials):
        search.ask()
    return books


def train(books: Study, number: int, values: list[float], *, last: bool = True) -> None:
    for epoch, value in enumerate(values, start=1):
        ended = last and epoch == len(values)
        books.report(number, epoch, {**EPOCH, "val_rollout_mrr": value}, last=ended)
    books.finish(number)


class TestStatus:
    @pytest.fixture
    def books(self, tmp_path: Path) -> Study:
        return study(tmp_path, trials=3)

    def told(self, books: Study, number: int) -> optuna.trial.FrozenTrial:
        return books.optuna.trials[number]

    def test_reaching_its_end_is_complete_with_the_best_value(self, books: Study) -> None:
        train(books, 0, [0.2, 0.7, 0.6])
        assert books.record(0).status is Status.COMPLETE
        assert self.told(books, 0).value == 0.7

    def test_being_stopped_is_pruned_with_every_intermediate_value(self, books: Study) -> None:
        train(books, 0, [0.2, 0.1], last=False)
        assert books.record(0).status is Status.PRUNED
        assert self.told(books, 0).state is optuna.trial.TrialState.PRUNED
        assert self.told(books, 0).intermediate_values == {1: 0.2, 2: 0.1}

    def test_an_error_is_failed_and_never_left_running(self, books: Study) -> None:
        books.note(0, error="train_loss is nan")
        books.finish(0)
        books.finish(1, failed=True)
        assert [books.record(n).status for n in (0, 1)] == [Status.FAILED, Status.FAILED]
        assert self.told(books, 0).state is optuna.trial.TrialState.FAIL

    def test_telling_twice_changes_nothing(self, books: Study) -> None:
        train(books, 0, [0.7])
        books.finish(0, failed=True)
        assert books.record(0).status is Status.COMPLETE

    def test_an_epoch_told_again_is_known(self, books: Study) -> None:
        assert books.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        assert not books.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.4}, last=False)
        assert books.report(0, 2, {**EPOCH, "val_rollout_mrr": 0.5}, last=True)
        assert [row["val_rollout_mrr"] for row in books.record(0).history] == [0.3, 0.5]


class TestAfterADeath:
    """The session died between what it wrote last and closing the trial's books."""

    @pytest.mark.parametrize(
        ("notes", "last", "status"),
        [
            ({}, True, Status.COMPLETE),
            ({"stop": "too low", "stop_epoch": 1}, False, Status.PRUNED),
            ({"collapse": "all alike"}, False, Status.PRUNED),
            ({"error": "train_loss is nan"}, False, Status.FAILED),
        ],
    )
    def test_what_was_over_is_closed(
        self, tmp_path: Path, notes: dict[str, object], last: bool, status: Status
    ) -> None:
        books = study(tmp_path, trials=1)
        books.note(0, **notes)
        books.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=last)
        assert study(tmp_path).record(0).status is status

    def test_what_was_not_stays_open(self, tmp_path: Path) -> None:
        """One in the middle, one stopped at an epoch that was not recorded any more, one just begun."""
        books = study(tmp_path, trials=3)
        books.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        books.note(1, stop="too low", stop_epoch=1)
        again = study(tmp_path)
        assert [again.record(n).status for n in range(3)] == [Status.RUNNING] * 3
        assert not again.report(0, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)


class TestLeaderboard:
    def test_ranks_complete_before_pruned_before_failed(self, tmp_path: Path) -> None:
        books = study(tmp_path, trials=4)
        train(books, 0, [0.2, 0.5])
        train(books, 1, [0.9], last=False)  # judged on one epoch only
        books.finish(2, failed=True)
        train(books, 3, [0.8, 0.6])
        frame = results.leaderboard(books, {3: "run3"})
        assert frame["trial_id"].tolist() == ["trial_00003", "trial_00000", "trial_00001", "trial_00002"]
        assert frame["status"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAILED"]
        assert frame["objective"].tolist()[:3] == [0.8, 0.5, 0.9]
        assert frame["rank"].tolist() == [1, 2, 3, 4]
        assert frame["seconds"].tolist() == [4.0, 4.0, 2.0, 0.0]
        assert frame["mlflow_run_id"].isna().tolist() == [False, True, True, True]

    def test_has_the_documented_columns(self, tmp_path: Path) -> None:
        columns = list(results.leaderboard(study(tmp_path), {}).columns)
        assert columns[:7] == [
            "rank", "trial_id", "status", "epochs", "objective", "training.ema_decay", "model.transition_depth",
        ]  # fmt: skip
        assert columns[-5:] == ["seconds", "mlflow_run_id", "collapse", "stop", "plan_success"]

    def test_a_loss_is_ranked_upwards(self, tmp_path: Path) -> None:
        books = study(tmp_path, trials=2, metric="val_loss")
        for number, losses in enumerate([[0.5, 0.3], [0.2, 0.4]]):
            for epoch, loss in enumerate(losses, start=1):
                books.report(number, epoch, {"epoch_s": 1.0, "val_loss": loss}, last=epoch == 2)
            books.finish(number)
        assert results.leaderboard(books, {})["objective"].tolist() == [0.2, 0.3]

    def test_an_absent_dimension_is_an_empty_cell_and_a_present_one_keeps_its_type(self, tmp_path: Path) -> None:
        depth = {"choices": [2, 4], "when": {"model.encoder_type": "vit"}}
        books = in_memory(space={"model.encoder_type": ["vit", "mlp"], "model.vit.depth": depth})
        text = results.write_leaderboard(books, {}, tmp_path).read_text()
        header, *lines = (line.split(",") for line in text.splitlines())
        places = [header.index(key) for key in ("model.encoder_type", "model.vit.depth")]
        assert sorted([line[i] for i in places] for line in lines) == [["mlp", ""], ["vit", "2"], ["vit", "4"]]
        console = Console(file=io.StringIO(), width=200)
        console.print(results.table(results.leaderboard(books, {}), books.spec))
        assert "nan" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_checkpoints_of_the_best_stay_and_the_worst_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_ray.sweep.storage.retention.MIN_KEPT", 2)
    books, store = study(tmp_path, trials=5), Storage(str(tmp_path))
    for number in range(5):
        store.write(checkpoint_name(number), b"weights")
    retention = CheckpointRetention(books, store)
    for number, values, last in [(0, [0.2], True), (1, [0.9], False), (2, [0.5], True), (3, [0.4], True)]:
        train(books, number, values, last=last)
        retention.ended(books.record(number))
    # the three best of those that ended (finalists: 3), complete ones first; the fifth is still training
    assert {p.stem for p in (tmp_path / "checkpoints").iterdir()} == {f"trial_0000{n}" for n in (0, 2, 3, 4)}


def in_memory(objective: object = None, **changes: object) -> Study:
    """A study whose every suggestion is complete after one epoch with the value 0.5."""
    values = {**spec().to_dict(), **changes} | ({"objective": objective} if objective else {})
    books = Study(SweepConfig.model_validate(values), optuna.storages.InMemoryStorage())
    search = Search(books)
    while asked := search.ask():
        train(books, asked.number, [0.5])
    return books


class TestSeveralObjectives:
    @pytest.fixture
    def books(self) -> Study:
        """Mean reciprocal rank (larger is better) against seconds per epoch (smaller is); trials as in `told`."""
        objective = [{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]
        values = spec().model_dump(by_alias=True) | {"objective": objective}
        books = Study(SweepConfig.model_validate(values), optuna.storages.InMemoryStorage())
        search = Search(books)
        for _ in range(6):
            search.ask()
        return books

    def told(self, books: Study, number: int, *epochs: tuple[float, float], last: bool = True) -> None:
        for epoch, (mrr, seconds) in enumerate(epochs, start=1):
            ended = last and epoch == len(epochs)
            books.report(number, epoch, {"val_rollout_mrr": mrr, "epoch_s": seconds}, last=ended)
        books.finish(number)

    def test_optuna_is_told_the_values_of_the_best_epoch_by_the_first(self, books: Study) -> None:
        self.told(books, 0, (0.2, 1.0), (0.7, 3.0), (0.6, 2.0))
        assert books.optuna.trials[0].values == [0.7, 3.0]

    def test_a_pruned_trial_has_no_values_and_breaks_nothing(self, books: Study) -> None:
        self.told(books, 0, (0.2, 1.0), last=False)
        assert books.record(0).status is Status.PRUNED
        assert books.optuna.trials[0].values is None
        assert [row["epoch_s"] for row in books.record(0).history] == [1.0]

    @pytest.mark.parametrize("lacking", [{}, {"epoch_s": float("nan")}, {"epoch_s": float("inf")}])
    def test_a_trial_that_lacks_an_objective_is_failed_and_says_which(
        self, books: Study, lacking: dict[str, float]
    ) -> None:
        books.report(0, 1, {"val_rollout_mrr": 0.5, **lacking}, last=True)
        record = books.finish(0)
        assert record.status is books.record(0).status is Status.FAILED
        assert record.error == "the objective epoch_s has no finite value in the best epoch"

    def test_pareto_is_told_of_complete_trials_and_the_rank_stays_by_the_first(self, books: Study) -> None:
        """Trial 2 is beaten by 1, in both; 3 is as good as 1; 4 is the best of all but not complete."""
        for number, values in enumerate([(0.9, 9.0), (0.5, 2.0), (0.4, 3.0), (0.5, 2.0)]):
            self.told(books, number, values)
        self.told(books, 4, (0.99, 1.0), last=False)
        books.finish(5, failed=True)
        frame = results.leaderboard(books, {})
        assert frame["trial_id"].tolist() == [f"trial_0000{n}" for n in (0, 1, 3, 2, 4, 5)]
        assert frame["pareto"].tolist() == [True, True, True, False, None, None]
        assert list(frame.columns).index("pareto") == 5

    def test_a_single_objective_has_no_such_column(self) -> None:
        assert "pareto" not in results.leaderboard(in_memory(), {}).columns
