"""The search: one contract for every sampler, then the requests that a spec can make."""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
from helpers.studies import make_spec, make_study, record_trial

from jepa_ray.config import SearchConfig, SweepConfig, load_sweep_config
from jepa_ray.config.dimensions import Params
from jepa_ray.sweep.search import space
from jepa_ray.sweep.search.searcher import Search, Suggestion, TuneSearcher
from jepa_ray.sweep.storage.records import Status
from jepa_ray.sweep.storage.study import Study

ROOT = Path(__file__).parents[3]
ALGORITHMS = get_args(SearchConfig.model_fields["algorithm"].annotation)
EPOCH = {"epoch_s": 2.0, "val_loss": 0.1}
DECAY, DEPTH, RATE = "training.ema_decay", "model.transition_depth", "training.learning_rate"
SPACE = {DECAY: [0.9, 0.99], DEPTH: [1, 2, 3]}
AS_RANGES = {DECAY: {"low": 0.9, "high": 0.99, "step": 0.09}, DEPTH: {"low": 1, "high": 3, "int": True}}


def spec(
    swept: object = SPACE, objective: object = None, base: dict[str, Any] | None = None, **search: object
) -> SweepConfig:
    return make_spec(
        base={"data": {"builtin": "two_rooms"}} | (base or {}),
        space=swept,
        search={"num_trials": 100, **search},
        objective=objective or {},
        early_stopping={},
    )


def six_points(algorithm: str, **search: object) -> SweepConfig:
    """The same six points for all samplers; cma-es needs ranges."""
    return spec(AS_RANGES if algorithm == "cma-es" else SPACE, algorithm=algorithm, **search)


def documented_grid(algorithm: str, **search: object) -> SweepConfig:
    """The 81 points of sweeps/grid.yaml; for cma-es another 81 points in ranges; for gp, which is slow, 18 of them."""
    swept: dict[str, Any] = dict(load_sweep_config(ROOT / "sweeps" / "grid.yaml").space)
    if algorithm == "cma-es":
        swept = {key: {"low": 4, "high": 12, "step": 4, "int": True} for key in INTEGERS}
    if algorithm == "gp":
        swept |= {DECAY: [0.99], DEPTH: [2, 4]}
    return spec(swept, algorithm=algorithm, **search)


INTEGERS = [DEPTH, "model.latent_dim_action", "training.batch_size", "training.rollout_horizon"]


def train_all(study: Study) -> list[Suggestion]:
    """Train every suggestion; larger decays do better."""
    search, suggestions = Search(study), []
    while suggestion := search.ask():
        suggestions.append(suggestion)
        record_trial(study, suggestion.number, suggestion.overrides["training.ema_decay"])
    return suggestions


def train_new(config: SweepConfig) -> list[Suggestion]:
    """Train every suggestion of a new study."""
    return train_all(make_study(config))


def train_at_once(study: Study, max_trials: int = 1000) -> list[Suggestion]:
    """Begin up to `max_trials` trials before the first one ends; see `end_trial`."""
    search = Search(study)
    suggestions = [suggestion for _ in range(max_trials) if (suggestion := search.ask())]
    return [end_trial(study, i, suggestion) for i, suggestion in enumerate(suggestions)]


def train_one_by_one(study: Study, max_trials: int = 1000) -> list[Suggestion]:
    """Begin each trial after the one before has ended, so that the sampler learns from it; see `end_trial`."""
    search = Search(study)
    suggestions: Iterator[Suggestion] = itertools.takewhile(bool, (search.ask() for _ in range(max_trials)))  # type: ignore[arg-type]
    return [end_trial(study, i, suggestion) for i, suggestion in enumerate(suggestions)]


def end_trial(study: Study, i: int, suggestion: Suggestion) -> Suggestion:
    """Of four trials in a row, the second one is pruned, the fourth one fails, and the other two are complete."""
    if i % 4 == 3:
        study.note(suggestion.number, error="train_loss is nan")
    else:
        value = sum(float(v) for v in suggestion.overrides.values()) % 1
        metrics = {"epoch_s": 1.0 + value, "val_loss": 0.1, "val_rollout_mrr": value}
        study.report(suggestion.number, 1, metrics, last=i % 4 != 1)
    study.finish(suggestion.number)
    return suggestion


def points(suggestions: list[Suggestion]) -> list[tuple[object, ...]]:
    return [tuple(suggestion.overrides.values()) for suggestion in suggestions]


def params(study: Study) -> list[Params]:
    return [record.params for record in study.records()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestEverySampler:
    def test_tries_every_point_of_a_finite_space_once_and_ends(self, algorithm: str) -> None:
        study = make_study(six_points(algorithm))
        suggestions = train_all(study)
        assert len(suggestions) == len(set(points(suggestions))) == 6
        assert Search(study).exhausted

    def test_the_documented_grid_ends_after_its_points(self, algorithm: str) -> None:
        study = make_study(documented_grid(algorithm, num_trials=500))
        size = 18 if algorithm == "gp" else 81
        assert space.size(study.spec.space) == size
        assert len(train_one_by_one(study)) == size
        assert {space.identity(p) for p in params(study)} == {space.identity(p) for p in space.points(study.spec.space)}

    @pytest.mark.parametrize("train", [train_at_once, train_one_by_one])
    def test_every_trial_ends_as_complete_pruned_or_failed(self, algorithm: str, train: Any) -> None:
        study = make_study(documented_grid(algorithm, num_trials=16))
        assert len(train(study)) == 16
        ends = [record.status for record in study.records()]
        assert [ends.count(status) for status in (Status.COMPLETE, Status.PRUNED, Status.FAILED)] == [8, 4, 4]
        unfinished = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
        assert not study.optuna.get_trials(states=unfinished)
        states = [trial.state for trial in study.optuna.trials if "replaced" not in trial.user_attrs]
        assert states.count(optuna.trial.TrialState.FAIL) == 4

    def test_is_deterministic_under_a_seed_and_the_seed_matters(self, algorithm: str) -> None:
        first, same, other = (
            points(train_one_by_one(make_study(documented_grid(algorithm, seed=seed, num_trials=16))))
            for seed in (3, 3, 4)
        )
        assert first == same
        assert (first != other) == (algorithm != "grid")

    def test_a_restart_repeats_nothing_and_is_deterministic(self, algorithm: str) -> None:
        config = documented_grid(algorithm, num_trials=17)
        sessions = []
        for _ in range(2):
            storage = optuna.storages.InMemoryStorage()
            train_one_by_one(Study(config, storage), max_trials=14)
            again = Study(config, storage)
            assert len(train_one_by_one(again)) == 3
            sessions.append(params(again))
        assert sessions[0] == sessions[1]
        assert len({space.identity(p) for p in sessions[0]}) == len(sessions[0]) == 17

    def test_prints_no_warning(self, algorithm: str, caplog: pytest.LogCaptureFixture) -> None:
        """Optuna warns about experimental arguments and random draws of a sampler; that is of no use to a user."""
        config = documented_grid(algorithm, num_trials=14)
        if algorithm == "cma-es":  # cma-es draws choices at random
            config = spec({**config.to_dict()["space"], DECAY: [0.9, 0.99]}, algorithm=algorithm, num_trials=14)
        optuna.logging.enable_propagation()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                train_one_by_one(make_study(config))
        finally:
            optuna.logging.disable_propagation()
        assert [record.message for record in caplog.records if record.levelname != "INFO"] == []

    def test_stops_at_its_budget_and_continues_after_a_restart(self, algorithm: str, tmp_path: Path) -> None:
        config = six_points(algorithm, num_trials=4)
        first = make_study(config, tmp_path / "optuna.db")
        search = Search(first)
        for _ in range(2):
            suggestions = search.ask()
            assert suggestions is not None
            record_trial(first, suggestions.number, 0.5)
        again = make_study(config, tmp_path / "optuna.db")
        assert len(train_all(again)) == 2
        tried = {space.identity(point) for point in params(again)}
        assert len(tried) == len(again.records()) == 4

    def test_suggests_the_unfinished_trials_of_a_dead_session_first(self, algorithm: str, tmp_path: Path) -> None:
        config = six_points(algorithm)
        first = make_study(config, tmp_path / "optuna.db")
        search = Search(first)
        done, begun, fresh = search.ask(), search.ask(), search.ask()
        assert done
        assert begun
        assert fresh
        record_trial(first, done.number, 0.5, 0.6)
        first.report(begun.number, 1, {**EPOCH, "val_rollout_mrr": 0.3}, last=False)
        again = make_study(config, tmp_path / "optuna.db")
        resumed = Search(again)
        assert [resumed.ask(), resumed.ask()] == [begun, fresh]
        rest = train_all(again)[2:]
        assert len({*points([done, begun, fresh]), *points(rest)}) == 6
        assert len(again.records()) == 6


def test_list_choices_survive_a_restart(tmp_path: Path) -> None:
    config = spec({"model.cnn.channels": [[8, 16], [16, 32], [4]]})
    first = Search(make_study(config, tmp_path / "optuna.db")).ask()
    again = Search(make_study(config, tmp_path / "optuna.db"))
    suggestions = [again.ask() for _ in range(4)]
    assert first
    assert suggestions[0] == first
    channels = [suggestion.overrides["model.cnn.channels"] for suggestion in suggestions if suggestion]
    assert sorted(channels) == [[4], [8, 16], [16, 32]]
    assert config.trial_config({"model.cnn.channels": channels[0]})


def test_a_grid_is_searched_in_order() -> None:
    suggestions = train_new(spec(algorithm="grid", num_trials=3))
    assert [suggestion.overrides["model.transition_depth"] for suggestion in suggestions] == [1, 2, 3]


def test_a_suggestion_that_did_not_become_a_trial_leaves_no_trace(tmp_path: Path) -> None:
    """The driver died between two dimensions, or between a duplicate suggestion and its replacement."""
    config = spec(algorithm="grid")
    study = make_study(config, tmp_path / "optuna.db")
    first = Search(study).ask()
    assert first
    study.optuna.enqueue_trial(study.record(first.number).params)
    study.optuna.ask(space.distributions(config.space))
    study.optuna.ask().suggest_categorical(DECAY, [0.9, 0.99])
    study.optuna.enqueue_trial({DECAY: 0.9})
    again = make_study(config, tmp_path / "optuna.db")
    assert [trial.number for trial in again.optuna.trials] == [first.number]
    assert [suggestion.number for suggestion in train_all(again)] == list(range(6))
    assert params(again) == list(space.points(config.space))


def test_ray_tune_gets_a_signal_when_the_space_is_used_up() -> None:
    searcher = TuneSearcher(make_study(spec(num_trials=1)))
    assert set(searcher.suggest("a") or {}) == {"number", "overrides", "repeat"}
    assert searcher.suggest("b") == "FINISHED"


# ------------------------------------------------------------------------------------- conditions

CONDITIONAL = {
    "model.encoder_type": ["vit", "mlp"],
    "model.vit.depth": {"choices": [1, 2], "when": {"model.encoder_type": "vit"}},
    "model.mlp.width": {"low": 64, "high": 256, "step": 64, "int": True, "when": {"model.encoder_type": ["mlp"]}},
    DECAY: [0.9, 0.99],
}  # 2 x (2 + 4) = 12 points, not 2 x 2 x 2 x 4


@pytest.mark.parametrize("algorithm", ["tpe", "random", "grid"])
class TestConditions:
    def test_every_point_once_and_only_keys_whose_condition_holds(self, algorithm: str) -> None:
        suggestions = train_new(spec(CONDITIONAL, algorithm=algorithm))
        assert len(suggestions) == 12
        for overrides in (suggestion.overrides for suggestion in suggestions):
            own = {"vit": "model.vit.depth", "mlp": "model.mlp.width"}[overrides["model.encoder_type"]]
            assert set(overrides) == {"model.encoder_type", own, DECAY}

    def test_a_restart_continues(self, algorithm: str) -> None:
        config, storage = spec(CONDITIONAL, algorithm=algorithm), optuna.storages.InMemoryStorage()
        search = Search(Study(config, storage))
        begun = [search.ask(), search.ask()]
        rest = train_all(Study(config, storage))
        assert rest[:2] == begun
        assert len(rest) == 12

    def test_a_continuous_dimension_may_have_a_condition(self, algorithm: str) -> None:
        if algorithm == "grid":
            return
        rate = {"low": 1e-5, "high": 1e-3, "log": True, "when": {"model.encoder_type": "mlp"}}
        suggestions = train_new(spec({**CONDITIONAL, RATE: rate}, algorithm=algorithm, num_trials=30))
        assert len(suggestions) == 30
        assert all((RATE in s.overrides) == (s.overrides["model.encoder_type"] == "mlp") for s in suggestions)

    def test_prints_no_warning(self, algorithm: str, capfd: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train_new(spec(CONDITIONAL, algorithm=algorithm))
        assert "".join(capfd.readouterr()) == ""


def test_an_absent_key_keeps_the_value_of_the_base() -> None:
    config = spec(CONDITIONAL, base={"model": {"vit": {"depth": 3}}})
    suggestions = train_new(config)
    kept = {
        config.trial_config(s.overrides).model.vit.depth for s in suggestions if "model.vit.depth" not in s.overrides
    }
    assert kept == {3}


# ------------------------------------------------------------------------- requested configurations

IN_SPACE = {"training": {"ema_decay": 0.99}, "model": {"transition_depth": 2}}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestRequested:
    def test_the_base_then_the_enqueued_in_order(self, algorithm: str) -> None:
        requests = [{DECAY: 0.9, DEPTH: 3}, {DECAY: 0.99, DEPTH: 2}, {DECAY: 0.9, DEPTH: 1}]
        suggestions = train_new(six_points(algorithm, base=IN_SPACE, enqueue=requests))
        assert points(suggestions[:3]) == [(0.99, 2), (0.9, 3), (0.9, 1)]  # the base, which is enqueued too, once
        assert len(set(points(suggestions))) == len(suggestions) == 6

    def test_a_base_outside_the_space_is_not_tried(self, algorithm: str) -> None:
        base = {"training": {"ema_decay": 0.95}, "model": {"transition_depth": 2}}
        with_it, without = (
            points(train_new(six_points(algorithm, base=base, enqueue_base=flag))) for flag in (True, False)
        )
        assert with_it == without

    def test_nothing_is_enqueued_again(self, algorithm: str) -> None:
        config = six_points(algorithm, base=IN_SPACE, enqueue=[{DECAY: 0.9}, {DECAY: 0.9, DEPTH: 3}])
        storage = optuna.storages.InMemoryStorage()
        for _ in range(6):  # one session per trial
            study = Study(config, storage)
            suggestion = Search(study).ask()
            assert suggestion
            record_trial(study, suggestion.number, 0.5)
        tried = [(p[DECAY], p[DEPTH]) for p in params(study)]
        assert len(set(tried)) == 6
        assert tried[0] == (0.99, 2)
        assert tried[1][0] == 0.9
        assert (0.9, 3) in tried[1:3]
        assert Search(study).exhausted


def test_a_grid_continues_in_order_after_the_requested_configurations() -> None:
    suggestions = train_new(spec(algorithm="grid", base=IN_SPACE, enqueue=[{DECAY: 0.9, DEPTH: 3}]))
    assert points(suggestions) == [(0.99, 2), (0.9, 3), (0.9, 1), (0.9, 2), (0.99, 1), (0.99, 3)]


def test_the_base_is_tried_unless_enqueue_base_is_false() -> None:
    first = [
        train_new(spec(algorithm="grid", base=IN_SPACE, enqueue_base=flag, num_trials=1)) for flag in (True, False)
    ]
    assert [points(suggestions) for suggestions in first] == [[(0.99, 2)], [(0.9, 1)]]


def test_missing_keys_are_chosen_so_that_the_point_is_new() -> None:
    """Three points have the decay 0.9, and three requests name it: each request gets another point."""
    for seed in range(5):
        config = spec(algorithm="random", seed=seed, enqueue=[{DECAY: 0.9}] * 3, enqueue_base=False)
        suggestions = points(train_new(config))
        assert sorted(suggestions[:3]) == [(0.9, 1), (0.9, 2), (0.9, 3)]


def test_the_base_needs_values_only_for_keys_whose_condition_holds() -> None:
    base = {
        "model": {"encoder_type": "mlp", "mlp": {"width": 128}, "vit": {"depth": 7}},
        "training": {"ema_decay": 0.9},
    }
    config = spec(CONDITIONAL, base=base)
    assert train_new(config)[0].overrides == {
        "model.encoder_type": "mlp",
        "model.mlp.width": 128,
        DECAY: 0.9,
    }
    base["model"]["mlp"]["width"] = 100
    assert space.base_point(spec(CONDITIONAL, base=base)) is None


def test_a_sampler_that_repeats_itself_in_a_continuous_space_ends_with_its_budget() -> None:
    class Stuck(optuna.samplers.RandomSampler):
        def sample_independent(self, *args: Any) -> Any:
            return 1e-4

    study = make_study(spec({RATE: {"low": 1e-5, "high": 1e-3}}, num_trials=4))
    search = Search(study)
    study.optuna.sampler = Stuck()
    suggestions = list(itertools.takewhile(bool, (search.ask() for _ in range(9))))
    assert len(suggestions) == 4


# ------------------------------------------------------------------------------------- objectives

BOTH = [{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "cma-es"])
def test_several_objectives_with_complete_pruned_and_failed_trials(algorithm: str) -> None:
    study = make_study(documented_grid(algorithm, objective=BOTH, num_trials=18))
    assert len(train_one_by_one(study)) == 18
    assert [direction.name for direction in study.optuna.directions] == ["MAXIMIZE", "MINIMIZE"]
    complete = [trial for trial in study.optuna.trials if trial.state is optuna.trial.TrialState.COMPLETE]
    assert all(trial.values[1] == 1 + trial.values[0] for trial in complete)
    assert [record.status for record in study.records()].count(Status.PRUNED) == 5


def test_samplers_use_the_second_objective() -> None:
    """With both objectives TPE must suggest other points than with the first one alone."""
    first = points(train_one_by_one(make_study(documented_grid("tpe", num_trials=30))))
    both = points(train_one_by_one(make_study(documented_grid("tpe", objective=BOTH, num_trials=30))))
    assert first[:10] == both[:10]
    assert first != both
