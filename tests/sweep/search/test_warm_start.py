"""Warm-start trials: which trials of an earlier sweep are used, what is refused, and that its files stay unchanged."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import make_spec, make_study
from optuna.trial import TrialState

from jepa_ray.config import SweepConfig, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.output import leaderboard
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.search.warm_start import apply_warm_starts, read_warm_starts
from jepa_ray.sweep.storage.study import Study

DECAY, DEPTH, RATE = "training.ema_decay", "model.transition_depth", "training.learning_rate"
CHANNELS = "model.cnn.channels"
SPACE = {DECAY: [0.9, 0.99], DEPTH: {"low": 1, "high": 3, "int": True}, CHANNELS: [[8], [8, 16]]}


def spec(name: str, swept: dict[str, Any] = SPACE, objective: object = None, **search: object) -> SweepConfig:
    search = {"enqueue_base": False, "num_trials": 12, **search}
    return make_spec(name=name, space=swept, objective=objective or {}, search=search)


def train_earlier_sweep(folder: Path, config: SweepConfig) -> Path:
    """A sweep of twelve trials: complete, pruned, failed, complete, ..."""
    folder.mkdir()
    (folder / "spec.yaml").write_text(dump_yaml(config.to_dict()))
    storage = optuna.storages.InMemoryStorage()  # copying it once is much faster than a write per change
    study = Study(config, storage)
    search = Search(study)
    for i, suggestion in enumerate(s for _ in range(12) if (s := search.ask())):
        if i % 3 != 2:
            metrics = {"epoch_s": 1.0, "val_loss": 0.1, "val_rollout_mrr": i / 100}
            study.report(suggestion.number, 1, metrics, last=i % 3 == 0)
        study.finish(suggestion.number)
    optuna.copy_study(from_study_name=config.name, from_storage=storage, to_storage=f"sqlite:///{folder / 'optuna.db'}")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_earlier_sweep(tmp_path_factory.mktemp("sweeps") / "other", spec("other", algorithm="random"))


def make_warm_study(config: SweepConfig) -> Study:
    study = make_study(config)
    apply_warm_starts(study, Path("own"))
    return study


def test_the_sampler_gets_finished_trials_and_the_sweep_does_not(other: Path) -> None:
    study = make_study(spec("new", warm_start=[other]))
    assert [str(warm_start) for warm_start in apply_warm_starts(study, Path("own"))] == [
        f"warm start from {other}: 8 of its 8 trials fit this space"
    ]
    added = study.optuna.trials
    assert [trial.state for trial in added] == [TrialState.COMPLETE, TrialState.PRUNED] * 4
    assert [trial.value for trial in added if trial.state is TrialState.COMPLETE] == [0.0, 0.03, 0.06, 0.09]
    assert added[1].intermediate_values == {1: 0.01}
    assert all("warm_start" in trial.user_attrs for trial in added)
    assert study.records() == []
    assert len(leaderboard.build_leaderboard(study, {})) == 0
    search = Search(study)
    suggestions = [suggestion for _ in range(20) if (suggestion := search.ask())]
    assert len(suggestions) == len(study.records()) == 12  # they use up none of the budget, and no point
    assert suggestions[0].number == 0


def test_the_sampler_learns(other: Path) -> None:
    """Eight warm-start trials and two of its own exceed TPE's ten random ones, so the next suggestions differ."""
    suggestions = []
    for config in (spec("new", warm_start=[other]), spec("new")):
        study = make_warm_study(config)
        search = Search(study)
        for value in (0.5, 0.4):
            suggestion = search.ask()
            assert suggestion
            study.report(suggestion.number, 1, {"epoch_s": 1.0, "val_rollout_mrr": value}, last=True)
            study.finish(suggestion.number)
        suggestions.append([s.overrides for _ in range(5) if (s := search.ask())])
    assert suggestions[0] != suggestions[1]


def test_trials_are_added_once(other: Path) -> None:
    storage, config = optuna.storages.InMemoryStorage(), spec("new", warm_start=[other])
    for _ in range(2):
        study = Study(config, storage)
        apply_warm_starts(study, Path("own"))
        assert len(study.optuna.trials) == 8


def test_the_trials_that_a_dying_session_did_not_add_are_added_by_the_next_one(other: Path) -> None:
    storage, config = optuna.storages.InMemoryStorage(), spec("new", warm_start=[other])
    (warm_start,) = read_warm_starts(config, Path("own"))

    def dying() -> Iterator[optuna.trial.FrozenTrial]:
        yield warm_start.trials[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(config, storage).add_warm_starts(dying())
    study = Study(config, storage)
    assert not study.has_warm_starts
    apply_warm_starts(study, Path("own"))
    assert len(study.optuna.trials) == len(Study(config, storage).optuna.trials) == 8


def test_the_files_of_the_earlier_sweep_stay_unchanged(other: Path) -> None:
    def state() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in other.iterdir()}

    before = state()
    make_warm_study(spec("new", warm_start=[other]))
    assert state() == before
    assert set(before) == {"spec.yaml", "optuna.db"}


def test_warm_start_trials_of_an_earlier_sweep_are_not_used(other: Path, tmp_path: Path) -> None:
    """Otherwise a trial that two earlier sweeps share would count twice."""
    second = train_earlier_sweep(tmp_path / "second", spec("second", algorithm="random"))
    with_warm_start = optuna.load_study(study_name="second", storage=f"sqlite:///{second / 'optuna.db'}")
    with_warm_start.add_trials(read_warm_starts(spec("second", warm_start=[other]), Path("own"))[0].trials)
    (warm_start,) = read_warm_starts(spec("new", warm_start=[second]), Path("own"))
    assert warm_start.finished == 8


@pytest.mark.parametrize(
    "swept",
    [
        {**SPACE, DEPTH: [1, 2]},
        {**SPACE, DECAY: [0.9, 0.999]},
        {**SPACE, CHANNELS: [[8, 16], [4]]},
        {**SPACE, DEPTH: {"low": 2, "high": 9, "int": True}},
        {
            **SPACE,
            DEPTH: {"low": 1, "high": 3, "int": True, "when": {DECAY: 0.99}},
        },  # else left out
        {DEPTH: [1, 2, 3]},
    ],
)
def test_only_trials_in_the_space_are_used(other: Path, swept: dict[str, Any]) -> None:
    config = spec("new", swept, warm_start=[other])
    (warm_start,) = read_warm_starts(config, Path("own"))
    all_trials = read_warm_starts(spec("new", warm_start=[other]), Path("own"))[0].trials
    allowed = [t for t in all_trials if is_inside(t.params, swept)]
    assert 0 < len(warm_start.trials) == len(allowed) <= warm_start.finished == 8
    assert all(set(trial.params) <= set(swept) for trial in warm_start.trials)
    assert len(make_warm_study(config).optuna.trials) == len(allowed)


def is_inside(params: dict[str, Any], swept: dict[str, Any]) -> bool:
    lists = {key: [str(c) for c in d] for key, d in swept.items() if isinstance(d, list)}
    low = swept[DEPTH]["low"] if isinstance(swept[DEPTH], dict) else 0
    return params[DEPTH] >= low and all(str(params[key]) in choices for key, choices in lists.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"swept": {RATE: [1e-3]}},
            "has 8 finished trials, but none in the space of this sweep: remove it from search.warm_start",
        ),
        ({"swept": {**SPACE, RATE: [1e-3]}}, "none in the space"),
        ({"swept": {DECAY: [0.5]}}, "none in the space"),
        (
            {"objective": {"metric": "val_loss"}},
            "optimized max val_rollout_mrr, but this sweep optimizes min val_loss: remove it from search.warm_start",
        ),
        ({"objective": {"mode": "min"}}, "optimized max val_rollout_mrr, but this sweep optimizes min val_rollout_mrr"),
        ({"objective": [{}, {"metric": "epoch_s"}]}, "this sweep optimizes max val_rollout_mrr, min epoch_s"),
    ],
)
def test_a_sweep_without_usable_trials_is_refused(other: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_warm_starts(spec("new", warm_start=[other], **changes), Path("own"))


def test_a_folder_that_is_not_of_another_sweep_is_refused(other: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not the folder of a sweep"):
        read_warm_starts(spec("new", warm_start=[tmp_path / "nowhere"]), Path("own"))
    with pytest.raises(ConfigError, match="this sweep's own folder"):
        read_warm_starts(spec("other", warm_start=[other]), other)
    (tmp_path / "optuna.db").write_text("not a database, but long enough to be read as one" * 40)
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec("broken").to_dict()))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_warm_starts(spec("new", warm_start=[tmp_path]), Path("own"))
