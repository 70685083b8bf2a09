from pathlib import Path

import optuna
import pytest

from jepa_ray.config import SweepConfig
from jepa_ray.sweep import space
from jepa_ray.sweep.search import Search, Suggestion, TuneSearcher
from jepa_ray.sweep.study import Study

EPOCH = {"epoch_s": 2.0, "val_loss": 0.1}
SPACE = {"training.ema_decay": [0.9, 0.99], "model.transition_depth": [1, 2, 3]}


def spec(swept: object = SPACE, **search: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}},
            "space": swept,
            "search": {"num_trials": 100, **search},
        }
    )


def books(config: SweepConfig, folder: Path | None = None) -> Study:
    if folder is None:
        return Study(config, optuna.storages.InMemoryStorage())
    folder.mkdir(exist_ok=True)
    return Study.open(config, folder / "optuna.db")


def train(study: Study, number: int, *values: float) -> None:
    for epoch, value in enumerate(values, start=1):
        study.report(number, epoch, {**EPOCH, "val_rollout_mrr": value}, last=epoch == len(values))
    study.finish(number)


def all_of(study: Study) -> list[Suggestion]:
    """Everything that is suggested, each trained; larger decays do better."""
    search, asked = Search(study), []
    while suggestion := search.ask():
        asked.append(suggestion)
        train(study, suggestion.number, suggestion.overrides["training.ema_decay"])
    return asked


def points(asked: list[Suggestion]) -> list[tuple[object, ...]]:
    return [tuple(suggestion.overrides.values()) for suggestion in asked]


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
class TestEverySampler:
    def test_tries_every_point_of_a_finite_space_once_and_ends(self, algorithm: str) -> None:
        study = books(spec(algorithm=algorithm))
        asked = all_of(study)
        assert len(asked) == len(set(points(asked))) == 6
        assert Search(study).exhausted

    def test_is_deterministic_under_a_seed(self, algorithm: str) -> None:
        config = spec(algorithm=algorithm, seed=3, num_trials=5)
        assert all_of(books(config)) == all_of(books(config))

    def test_stops_at_its_budget_and_continues_after_a_restart(self, algorithm: str, tmp_path: Path) -> None:
        config = spec(algorithm=algorithm, num_trials=4)
        first, search = books(config, tmp_path), None
        search = Search(first)
        for _ in range(2):
            asked = search.ask()
            assert asked is not None
            train(first, asked.number, 0.5)
        again = books(config, tmp_path)
        assert len(all_of(again)) == 2
        params = [tuple(r.params.items()) for r in again.records()]
        assert len(params) == len(set(params)) == 4

    def test_hands_out_first_what_a_dead_session_left_unfinished(self, algorithm: str, tmp_path: Path) -> None:
        config = spec(algorithm=algorithm)
        first = books(config, tmp_path)
        search = Search(first)
        done, begun, fresh = search.ask(), search.ask(), search.ask()
        assert done
        assert begun
        assert fresh
        train(first, done.number, 0.5, 0.6)
        first.report(begun.number, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        again = books(config, tmp_path)
        resumed = Search(again)
        assert [resumed.ask(), resumed.ask()] == [begun, fresh]
        rest = all_of(again)[2:]
        assert len({*points([done, begun, fresh]), *points(rest)}) == 6
        assert len(again.records()) == 6


def test_list_choices_survive_a_restart(tmp_path: Path) -> None:
    config = spec({"model.cnn.channels": [[8, 16], [16, 32], [4]]})
    first = Search(books(config, tmp_path)).ask()
    again = Search(books(config, tmp_path))
    asked = [again.ask() for _ in range(4)]
    assert first
    assert asked[0] == first
    channels = [suggestion.overrides["model.cnn.channels"] for suggestion in asked if suggestion]
    assert sorted(channels) == [[4], [8, 16], [16, 32]]
    assert config.trial_config({"model.cnn.channels": channels[0]})


def test_grid_goes_in_order() -> None:
    asked = all_of(books(spec(algorithm="grid", num_trials=3)))
    assert [suggestion.overrides["model.transition_depth"] for suggestion in asked] == [1, 2, 3]


def test_a_repeat_that_was_not_replaced_in_time_is_struck_off(tmp_path: Path) -> None:
    """The driver died between Optuna's repeated suggestion and its replacement."""
    config = spec(algorithm="grid")
    study = books(config, tmp_path)
    first = Search(study).ask()
    assert first
    study.optuna.enqueue_trial(study.record(first.number).params)
    study.optuna.ask(space.distributions(config.space))
    assert len(study.records()) == 2
    assert [record.number for record in books(config, tmp_path).records()] == [first.number]


def test_tune_is_told_when_the_space_is_used_up() -> None:
    config = spec(num_trials=1)
    searcher = TuneSearcher(Search(books(config)), config)
    assert set(searcher.suggest("a") or {}) == {"number", "overrides"}
    assert searcher.suggest("b") == "FINISHED"
