"""Learning from an earlier sweep: what is taken, what is refused, and that the other one stays as it was."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from jepa_ray.config import SweepConfig, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.output import results
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.search.warm_start import apply_warm_starts, read_warm_starts
from jepa_ray.sweep.storage.study import Study

DECAY, DEPTH, RATE = "training.ema_decay", "model.transition_depth", "training.learning_rate"
CHANNELS = "model.cnn.channels"
SPACE = {DECAY: [0.9, 0.99], DEPTH: {"low": 1, "high": 3, "int": True}, CHANNELS: [[8], [8, 16]]}


def spec(name: str, swept: dict[str, Any] = SPACE, objective: object = None, **search: object) -> SweepConfig:
    return SweepConfig.model_validate(
        {
            "name": name,
            "base": {"data": {"builtin": "two_rooms"}},
            "space": swept,
            "objective": objective or {},
            "search": {"enqueue_base": False, "num_trials": 12, **search},
        }
    )


def earlier(folder: Path, config: SweepConfig) -> Path:
    """A sweep of twelve trials: complete, pruned, failed, complete, ..."""
    folder.mkdir()
    (folder / "spec.yaml").write_text(dump_yaml(config.to_dict()))
    storage = optuna.storages.InMemoryStorage()  # copied to a file in one go: much the faster way
    study = Study(config, storage)
    search = Search(study)
    for i, asked in enumerate(s for _ in range(12) if (s := search.ask())):
        if i % 3 != 2:
            metrics = {"epoch_s": 1.0, "val_loss": 0.1, "val_rollout_mrr": i / 100}
            study.report(asked.number, 1, metrics, last=i % 3 == 0)
        study.finish(asked.number)
    optuna.copy_study(from_study_name=config.name, from_storage=storage, to_storage=f"sqlite:///{folder / 'optuna.db'}")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier(tmp_path_factory.mktemp("sweeps") / "other", spec("other", algorithm="random"))


def taught(config: SweepConfig) -> Study:
    study = Study(config, optuna.storages.InMemoryStorage())
    apply_warm_starts(study, Path("own"))
    return study


def test_finished_trials_are_the_samplers_but_not_the_sweeps(other: Path) -> None:
    study = Study(spec("new", warm_start=[other]), optuna.storages.InMemoryStorage())
    assert [str(warm_start) for warm_start in apply_warm_starts(study, Path("own"))] == [
        f"warm start from {other}: 8 of its 8 trials fit this space"
    ]
    added = study.optuna.trials
    assert [trial.state for trial in added] == [TrialState.COMPLETE, TrialState.PRUNED] * 4
    assert [trial.value for trial in added if trial.state is TrialState.COMPLETE] == [0.0, 0.03, 0.06, 0.09]
    assert added[1].intermediate_values == {1: 0.01}
    assert all("warm_start" in trial.user_attrs for trial in added)
    assert study.records() == []
    assert len(results.leaderboard(study, {})) == 0
    search = Search(study)
    asked = [suggestion for _ in range(20) if (suggestion := search.ask())]
    assert len(asked) == len(study.records()) == 12  # of the budget nothing is used up, and nothing counts as tried
    assert asked[0].number == 8


def test_the_sampler_learns(other: Path) -> None:
    """Eight trials and two of its own are past TPE's ten at random: a taught one goes another way than an untaught."""
    first = []
    for config in (spec("new", warm_start=[other]), spec("new")):
        study = taught(config)
        search = Search(study)
        for value in (0.5, 0.4):
            asked = search.ask()
            assert asked
            study.report(asked.number, 1, {"epoch_s": 1.0, "val_rollout_mrr": value}, last=True)
            study.finish(asked.number)
        first.append([s.overrides for _ in range(5) if (s := search.ask())])
    assert first[0] != first[1]


def test_it_is_learned_once(other: Path) -> None:
    storage, config = optuna.storages.InMemoryStorage(), spec("new", warm_start=[other])
    for _ in range(2):
        study = Study(config, storage)
        apply_warm_starts(study, Path("own"))
        assert len(study.optuna.trials) == 8


def test_a_session_that_died_while_learning_is_caught_up(other: Path) -> None:
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


def test_the_other_sweep_is_left_as_it_was(other: Path) -> None:
    def state() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in other.iterdir()}

    before = state()
    taught(spec("new", warm_start=[other]))
    assert state() == before
    assert set(before) == {"spec.yaml", "optuna.db"}


def test_what_was_learned_is_not_passed_on(other: Path, tmp_path: Path) -> None:
    """Else a trial that two earlier sweeps share would count twice."""
    second = earlier(tmp_path / "second", spec("second", algorithm="random"))
    with_warm_start = optuna.load_study(study_name="second", storage=f"sqlite:///{second / 'optuna.db'}")
    with_warm_start.add_trials(read_warm_starts(spec("second", warm_start=[other]), Path("own"))[0].trials)
    (warm_start,) = read_warm_starts(spec("new", warm_start=[second]), Path("own"))
    assert warm_start.found == 8


@pytest.mark.parametrize(
    "swept",
    [
        {**SPACE, DEPTH: [1, 2]},
        {**SPACE, DECAY: [0.9, 0.999]},
        {**SPACE, CHANNELS: [[8, 16], [4]]},
        {**SPACE, DEPTH: {"low": 2, "high": 9, "int": True}},
        {**SPACE, DEPTH: {"low": 1, "high": 3, "int": True, "when": {DECAY: 0.99}}},  # elsewhere it is left out
        {DEPTH: [1, 2, 3]},
    ],
)
def test_only_what_lies_in_the_space_is_taken(other: Path, swept: dict[str, Any]) -> None:
    config = spec("new", swept, warm_start=[other])
    (warm_start,) = read_warm_starts(config, Path("own"))
    everything = read_warm_starts(spec("new", warm_start=[other]), Path("own"))[0].trials
    allowed = [t for t in everything if inside(t.params, swept)]
    assert 0 < len(warm_start.trials) == len(allowed) <= warm_start.found == 8
    assert all(set(trial.params) <= set(swept) for trial in warm_start.trials)
    assert len(taught(config).optuna.trials) == len(allowed)


def inside(params: dict[str, Any], swept: dict[str, Any]) -> bool:
    lists = {key: [str(c) for c in d] for key, d in swept.items() if isinstance(d, list)}
    low = swept[DEPTH]["low"] if isinstance(swept[DEPTH], dict) else 0
    return params[DEPTH] >= low and all(str(params[key]) in choices for key, choices in lists.items())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"swept": {RATE: [1e-3]}}, "has 8 finished trials, but none in the space of this sweep"),
        ({"swept": {**SPACE, RATE: [1e-3]}}, "none in the space"),
        ({"swept": {DECAY: [0.5]}}, "none in the space"),
        ({"objective": {"metric": "val_loss"}}, "optimised max val_rollout_mrr, but this sweep: min val_loss"),
        ({"objective": {"mode": "min"}}, "optimised max val_rollout_mrr, but this sweep: min val_rollout_mrr"),
        ({"objective": [{}, {"metric": "epoch_s"}]}, "this sweep: max val_rollout_mrr, min epoch_s"),
    ],
)
def test_what_teaches_nothing_is_refused(other: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_warm_starts(spec("new", warm_start=[other], **changes), Path("own"))


def test_folders_that_are_none_are_refused(other: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder of a sweep"):
        read_warm_starts(spec("new", warm_start=[tmp_path / "nowhere"]), Path("own"))
    with pytest.raises(ConfigError, match="this sweep's own folder"):
        read_warm_starts(spec("other", warm_start=[other]), other)
    (tmp_path / "optuna.db").write_text("not a database, but long enough to be looked at as one" * 40)
    (tmp_path / "spec.yaml").write_text(dump_yaml(spec("broken").to_dict()))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_warm_starts(spec("new", warm_start=[tmp_path]), Path("own"))
