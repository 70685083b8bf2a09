"""Repeats: the best configurations are trained again with other seeds, and ranked by their mean."""

from pathlib import Path

import pytest
from helpers.studies import make_spec, make_study, record_trial
from scipy import stats

from jepa_ray.config import SweepConfig
from jepa_ray.sweep.output import leaderboard
from jepa_ray.sweep.search.searcher import TuneSearcher
from jepa_ray.sweep.storage.study import Study

VALUES = {1: 0.9, 2: 0.8, 3: 0.5, 4: 0.1}  # objective of the first run, by transition depth


def spec(**search: object) -> SweepConfig:
    return make_spec(
        base={"data": {"builtin": "two_rooms"}, "experiment": {"seed": 7}},
        space={"model.transition_depth": list(VALUES)},
        search={"algorithm": "grid", "repeats": 3, "finalists": 2, **search},
    )


def train(study: Study, config: dict[str, object], value: float) -> None:
    number = config["number"]
    assert isinstance(number, int)
    record_trial(study, number, value)


def train_configurations(study: Study) -> TuneSearcher:
    """Train all configurations once, and no repeats."""
    searcher = TuneSearcher(study)
    for _ in VALUES:
        config = searcher.suggest("")
        assert isinstance(config, dict)
        assert not config["repeat"]
        train(study, config, VALUES[config["overrides"]["model.transition_depth"]])
    return searcher


def test_only_the_finalists_are_repeated_once_per_seed() -> None:
    study = make_study(spec())
    searcher, repeats = train_configurations(study), []
    while isinstance(config := searcher.suggest(""), dict):
        assert config["repeat"]
        repeats.append(tuple(config["overrides"].values()))
        train(study, config, 0.5)
    assert config == "FINISHED"
    assert repeats == [(1, 8), (2, 8), (1, 9), (2, 9)]  # (depth, seed)


def test_repeats_wait_until_all_trials_have_ended() -> None:
    study = make_study(spec())
    searcher = TuneSearcher(study)
    configs = [searcher.suggest("") for _ in VALUES]
    assert searcher.suggest("") is None
    assert not searcher.exhausted
    for config in configs:
        assert isinstance(config, dict)
        train(study, config, 0.5)
    assert isinstance(searcher.suggest(""), dict)


def test_an_interrupted_repeat_is_continued_and_no_repeat_begins_twice(tmp_path: Path) -> None:
    study = make_study(spec(), tmp_path / "optuna.db")
    searcher = train_configurations(study)
    first, second = searcher.suggest(""), searcher.suggest("")
    assert isinstance(first, dict)
    train(study, first, 0.5)

    study = make_study(spec(), tmp_path / "optuna.db")
    searcher, configs = TuneSearcher(study), []
    while isinstance(config := searcher.suggest(""), dict):
        configs.append(config)
        train(study, config, 0.5)
    assert configs[0] == second
    assert len(configs) == 3
    assert len(study.records()) == 8


def test_the_mean_ranks_and_has_an_interval() -> None:
    """The first run of depth 1 was lucky: its mean is below that of depth 2."""
    study = make_study(spec())
    searcher = train_configurations(study)
    repeats = {1: [0.3, 0.4], 2: [0.7, 0.75]}
    while isinstance(config := searcher.suggest(""), dict):
        train(study, config, repeats[config["overrides"]["model.transition_depth"]].pop(0))
    frame = leaderboard.build_leaderboard(study, {})
    assert frame["model.transition_depth"].tolist() == [2, 1, 3, 4]
    assert frame["objective_runs"].tolist()[:2] == [3, 3]
    assert frame["objective_mean"][0] == pytest.approx(0.75)
    low, high = stats.t.interval(0.95, 2, loc=0.75, scale=stats.sem([0.8, 0.7, 0.75]))
    assert (frame["objective_low"][0], frame["objective_high"][0]) == (pytest.approx(low), pytest.approx(high))
    assert frame["objective_mean"][2:].isna().all()


def test_without_repeats_the_leaderboard_has_no_columns_for_them() -> None:
    study = make_study(spec(repeats=1))
    assert train_configurations(study).suggest("") == "FINISHED"
    assert list(leaderboard.build_leaderboard(study, {}).columns)[-1] == "plan_success"
