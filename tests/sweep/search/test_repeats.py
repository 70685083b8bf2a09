"""Repeats: the best configurations again, with other seeds, ranked by their mean."""

from pathlib import Path

import optuna
import pytest
from scipy import stats

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.output import results
from jepa_ray.sweep.search.searcher import TuneSearcher
from jepa_ray.sweep.storage.study import Study

EPOCH = {"epoch_s": 1.0, "val_loss": 0.1}
VALUES = {1: 0.9, 2: 0.8, 3: 0.5, 4: 0.1}  # of the first run, by transition depth


def spec(**search: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": "unit",
            "base": {"data": {"builtin": "two_rooms"}, "experiment": {"seed": 7}},
            "space": {"model.transition_depth": list(VALUES)},
            "search": {"algorithm": "grid", "repeats": 3, "finalists": 2, **search},
        }
    )


def train(study: Study, config: dict[str, object], value: float) -> None:
    number = config["number"]
    assert isinstance(number, int)
    study.report(number, 1, {**EPOCH, "val_rollout_mrr": value}, last=True)
    study.finish(number)


def search_only(study: Study) -> TuneSearcher:
    searcher = TuneSearcher(study)
    for _ in VALUES:
        asked = searcher.suggest("")
        assert isinstance(asked, dict)
        assert not asked["repeat"]
        train(study, asked, VALUES[asked["overrides"]["model.transition_depth"]])
    return searcher


def test_only_the_finalists_are_repeated_each_seed_once() -> None:
    study = Study(spec(), optuna.storages.InMemoryStorage())
    searcher, repeats = search_only(study), []
    while isinstance(asked := searcher.suggest(""), dict):
        assert asked["repeat"]
        repeats.append(tuple(asked["overrides"].values()))
        train(study, asked, 0.5)
    assert asked == "FINISHED"
    assert repeats == [(1, 8), (2, 8), (1, 9), (2, 9)]  # (depth, seed)


def test_finalists_are_waited_for() -> None:
    study = Study(spec(), optuna.storages.InMemoryStorage())
    searcher = TuneSearcher(study)
    asked = [searcher.suggest("") for _ in VALUES]
    assert searcher.suggest("") is None
    assert not searcher.exhausted
    for config in asked:
        assert isinstance(config, dict)
        train(study, config, 0.5)
    assert isinstance(searcher.suggest(""), dict)


def test_an_interrupted_repeat_is_continued_and_none_is_doubled(tmp_path: Path) -> None:
    study = Study.open(spec(), tmp_path / "optuna.db")
    searcher = search_only(study)
    first, second = searcher.suggest(""), searcher.suggest("")
    assert isinstance(first, dict)
    train(study, first, 0.5)

    study = Study.open(spec(), tmp_path / "optuna.db")
    searcher, asked = TuneSearcher(study), []
    while isinstance(config := searcher.suggest(""), dict):
        asked.append(config)
        train(study, config, 0.5)
    assert asked[0] == second
    assert len(asked) == 3
    assert len(study.records()) == 8


def test_the_mean_decides_and_has_its_interval() -> None:
    """The first run of depth 1 was luck: its mean is below that of depth 2."""
    study = Study(spec(), optuna.storages.InMemoryStorage())
    searcher = search_only(study)
    luck = {1: [0.3, 0.4], 2: [0.7, 0.75]}
    while isinstance(config := searcher.suggest(""), dict):
        train(study, config, luck[config["overrides"]["model.transition_depth"]].pop(0))
    frame = results.leaderboard(study, {})
    assert frame["model.transition_depth"].tolist() == [2, 1, 3, 4]
    assert frame["objective_runs"].tolist()[:2] == [3, 3]
    assert frame["objective_mean"][0] == pytest.approx(0.75)
    low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem([0.8, 0.7, 0.75]))
    assert (frame["objective_low"][0], frame["objective_high"][0]) == (pytest.approx(low), pytest.approx(high))
    assert frame["objective_mean"][2:].isna().all()


def test_without_repeats_nothing_changes() -> None:
    study = Study(spec(repeats=1), optuna.storages.InMemoryStorage())
    assert search_only(study).suggest("") == "FINISHED"
    assert list(results.leaderboard(study, {}).columns)[-1] == "plan_success"
