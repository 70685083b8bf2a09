from pathlib import Path

import optuna
import pytest

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import results
from jepa_ray.sweep.search import Status, Study

EPOCH = {"epoch_s": 2.0, "val_loss": 0.1}


def spec(**search: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": {"training.ema_decay": [0.9, 0.99], "model.transition_depth": [1, 2, 3]},
            "search": {"num_trials": 100, **search},
        }
    )


def study(path: Path, **search: object) -> Study:
    return Study(spec(**search), path / "optuna.db")


def train(books: Study, tune_id: str, values: list[float], *, last: bool = True) -> None:
    for epoch, value in enumerate(values, start=1):
        ended = last and epoch == len(values)
        books.report(tune_id, epoch, {**EPOCH, "val_rollout_mrr": value}, last=ended)
    books.finish(tune_id)


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
class TestEverySampler:
    def test_tries_every_point_of_a_finite_space_once_and_ends(self, tmp_path: Path, algorithm: str) -> None:
        books, points = study(tmp_path, algorithm=algorithm), []
        while asked := books.ask(f"t{len(points)}"):
            points.append(tuple(asked[1].items()))
            train(books, f"t{len(points) - 1}", [len(points) / 10])
        assert len(points) == len(set(points)) == 6
        assert books.exhausted

    def test_is_deterministic_under_a_seed(self, tmp_path: Path, algorithm: str) -> None:
        def suggestions(folder: Path) -> list[object]:
            folder.mkdir()
            books, points = study(folder, algorithm=algorithm, seed=3, num_trials=5), []
            while asked := books.ask(f"t{len(points)}"):
                points.append(asked)
                train(books, f"t{len(points) - 1}", [asked[1]["training.ema_decay"]])
            return points

        assert suggestions(tmp_path / "a") == suggestions(tmp_path / "b")

    def test_stops_at_its_budget_and_continues_after_a_restart(self, tmp_path: Path, algorithm: str) -> None:
        first = study(tmp_path, algorithm=algorithm, num_trials=4)
        for i in range(2):
            first.ask(f"t{i}")
            train(first, f"t{i}", [0.5])
        again = study(tmp_path, algorithm=algorithm, num_trials=4)
        asked = [again.ask(f"t{i}") for i in (2, 3, 4)]
        assert asked[2] is None
        params = [tuple(r.params.items()) for r in again.records()]
        assert len(params) == len(set(params)) == 4


def test_list_choices_survive_a_restart(tmp_path: Path) -> None:
    config = SweepConfig.model_validate(
        spec().model_dump(by_alias=True) | {"space": {"model.cnn.channels": [[8, 16], [16, 32], [4]]}}
    )
    first = Study(config, tmp_path / "optuna.db").ask("a")
    rest = [Study(config, tmp_path / "optuna.db").ask(name) for name in "bcd"]
    channels = [asked[1]["model.cnn.channels"] for asked in [first, *rest] if asked]
    assert sorted(channels) == [[4], [8, 16], [16, 32]]
    assert config.trial_config({"model.cnn.channels": channels[0]})


def test_grid_goes_in_order(tmp_path: Path) -> None:
    books = study(tmp_path, algorithm="grid", num_trials=3)
    assert [books.ask(f"t{i}")[1]["model.transition_depth"] for i in range(3)] == [1, 2, 3]  # type: ignore[index]


class TestStatus:
    @pytest.fixture
    def books(self, tmp_path: Path) -> Study:
        books = study(tmp_path, algorithm="grid")
        for tune_id in "abc":
            books.ask(tune_id)
        return books

    def told(self, books: Study, number: int) -> optuna.trial.FrozenTrial:
        return optuna.load_study(study_name="unit", storage=books._storage).trials[number]

    def test_reaching_its_end_is_complete_with_the_best_value(self, books: Study) -> None:
        train(books, "a", [0.2, 0.7, 0.6])
        assert books.record("a").status is Status.COMPLETE
        assert self.told(books, 0).value == 0.7

    def test_being_stopped_is_pruned_with_every_intermediate_value(self, books: Study) -> None:
        train(books, "a", [0.2, 0.1], last=False)
        assert books.record("a").status is Status.PRUNED
        assert self.told(books, 0).state is optuna.trial.TrialState.PRUNED
        assert self.told(books, 0).intermediate_values == {1: 0.2, 2: 0.1}

    def test_an_error_is_failed_and_never_left_running(self, books: Study) -> None:
        books.note("a", error="train_loss is nan")
        books.finish("a")
        books.finish("b", failed=True)
        assert [books.record(t).status for t in "ab"] == [Status.FAILED, Status.FAILED]
        assert self.told(books, 0).state is optuna.trial.TrialState.FAIL

    def test_telling_twice_changes_nothing(self, books: Study) -> None:
        train(books, "a", [0.7])
        books.finish("a", failed=True)
        assert books.record("a").status is Status.COMPLETE

    def test_an_epoch_trained_again_replaces_itself(self, books: Study) -> None:
        books.report("a", 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        train(books, "a", [0.3, 0.4])
        assert [row["val_rollout_mrr"] for row in books.record("a").history] == [0.3, 0.4]

    def test_what_tune_forgot_is_begun_anew(self, books: Study) -> None:
        """Suggested after the driver's last snapshot: the same point comes again, and no record is doubled."""
        train(books, "a", [0.7])
        lost = books.record("c").params
        books.requeue_unknown({"a", "b"})
        number, params = books.ask("d")  # type: ignore[misc]
        assert params == lost
        assert [r.number for r in books.records()] == [0, 1, number]


class TestLeaderboard:
    def test_ranks_complete_before_pruned_before_failed(self, tmp_path: Path) -> None:
        books = study(tmp_path, algorithm="grid")
        for tune_id in "abcd":
            books.ask(tune_id)
        train(books, "a", [0.2, 0.5])
        train(books, "b", [0.9], last=False)  # judged on one epoch only
        books.finish("c", failed=True)
        train(books, "d", [0.8, 0.6])
        frame = results.leaderboard(books)
        assert frame["trial_id"].tolist() == ["trial_00003", "trial_00000", "trial_00001", "trial_00002"]
        assert frame["status"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "FAILED"]
        assert frame["objective"].tolist()[:3] == [0.8, 0.5, 0.9]
        assert frame["rank"].tolist() == [1, 2, 3, 4]
        assert frame["seconds"].tolist() == [4.0, 4.0, 2.0, 0.0]

    def test_has_the_documented_columns(self, tmp_path: Path) -> None:
        columns = list(results.leaderboard(study(tmp_path)).columns)
        assert columns[:7] == [
            "rank", "trial_id", "status", "epochs", "objective", "training.ema_decay", "model.transition_depth",
        ]  # fmt: skip
        assert columns[-4:] == ["seconds", "mlflow_run_id", "collapse", "plan_success"]

    def test_a_loss_is_ranked_upwards(self, tmp_path: Path) -> None:
        minimise = spec(algorithm="grid").model_copy(
            update={"objective": spec().objective.model_copy(update={"metric": "val_loss", "mode": "min"})}
        )
        books = Study(minimise, tmp_path / "optuna.db")
        for tune_id, losses in {"a": [0.5, 0.3], "b": [0.2, 0.4]}.items():
            books.ask(tune_id)
            for epoch, loss in enumerate(losses, start=1):
                books.report(tune_id, epoch, {"epoch_s": 1.0, "val_loss": loss}, last=epoch == 2)
            books.finish(tune_id)
        assert results.leaderboard(books)["objective"].tolist() == [0.2, 0.3]
