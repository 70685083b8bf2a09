"""Trial numbers are consecutive, although Optuna also numbers discarded suggestions and warm-start trials."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.studies import make_spec, make_study, record_trial

from jepa_ray.config import SweepConfig, dump_yaml
from jepa_ray.errors import ConfigError
from jepa_ray.sweep.output.leaderboard import build_leaderboard
from jepa_ray.sweep.ranking import compute_repeat_means
from jepa_ray.sweep.search.searcher import Search, Suggestion, TuneSearcher
from jepa_ray.sweep.search.warm_start import apply_warm_starts
from jepa_ray.sweep.storage.records import Status
from jepa_ray.sweep.storage.study import Study, StudyView

DECAY, DEPTH = "training.ema_decay", "model.transition_depth"
POINTS = 6


class OneIdea(optuna.samplers.RandomSampler):
    """Suggests the first point of the space every time, so that all suggestions but the first are discarded."""

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return distribution.choices[0]


def finite_spec(**search: object) -> SweepConfig:
    return make_spec(
        space={DECAY: [0.9, 0.99], DEPTH: [1, 2, 3]},
        search={"algorithm": "random", "num_trials": 100, "enqueue_base": False, **search},
    )


def search_with_duplicates(study: Study) -> Search:
    search = Search(study)
    study.optuna.sampler = OneIdea()
    return search


def ask_all(search: Search, max_trials: int = POINTS) -> list[Suggestion]:
    return [suggestion for _ in range(max_trials) if (suggestion := search.ask())]


def sql(database: Path, command: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(command, values)


def optuna_trials(database: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="unit", storage=f"sqlite:///{database}").trials


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "optuna.db"


class TestDiscardedSuggestions:
    def test_they_take_no_number(self) -> None:
        study = make_study(finite_spec())
        suggestions = ask_all(search_with_duplicates(study))
        assert len(study.optuna.trials) == 2 * POINTS - 1  # five suggestions were discarded
        assert [suggestion.number for suggestion in suggestions] == list(range(POINTS))
        assert [record.trial_id for record in study.records()] == [f"trial_{n:05d}" for n in range(POINTS)]
        for suggestion in suggestions:
            record_trial(study, suggestion.number, suggestion.number / 10)
        assert build_leaderboard(study, {})["trial_id"].tolist() == [f"trial_{n:05d}" for n in reversed(range(POINTS))]

    def test_results_reach_the_trial_that_was_trained(self, database: Path) -> None:
        study = make_study(finite_spec(), database)
        for suggestion in ask_all(search_with_duplicates(study)):
            record_trial(study, suggestion.number, suggestion.overrides[DEPTH] / 10, last=suggestion.number != 2)
            study.finish(suggestion.number)
        trained = [trial for trial in optuna_trials(database) if "replaced" not in trial.user_attrs]
        assert [trial.user_attrs["number"] for trial in trained] == list(range(POINTS))
        assert {trial.number for trial in trained} != set(range(POINTS))
        for trial in trained:
            assert trial.intermediate_values == {1: trial.params[DEPTH] / 10}
            assert trial.user_attrs["epoch_1"]["val_rollout_mrr"] == trial.params[DEPTH] / 10
        assert [trial.state.name for trial in trained] == ["COMPLETE"] * 2 + ["PRUNED"] + ["COMPLETE"] * 3
        assert [study.optuna.trials[trial.number].state for trial in trained] == [trial.state for trial in trained]

    def test_a_later_session_continues_the_numbers_and_the_unfinished_trials(self, database: Path) -> None:
        first = make_study(finite_spec(), database)
        begun = ask_all(search_with_duplicates(first), max_trials=3)
        record_trial(first, 0, 0.4)
        first.report(2, 1, {"val_rollout_mrr": 0.7, "epoch_s": 1.0}, last=False)

        again = make_study(finite_spec(), database)
        assert [again.record(n).history for n in range(3)] == [first.record(n).history for n in range(3)]
        suggestions = ask_all(search_with_duplicates(again))
        assert suggestions[:2] == begun[1:]
        assert [suggestion.number for suggestion in suggestions] == [1, 2, 3, 4, 5]
        record_trial(again, 2, 0.7, 0.8)
        view = StudyView.open(finite_spec(), database)
        assert [record.number for record in view.records()] == list(range(POINTS))
        assert [row["val_rollout_mrr"] for row in view.record(2).history] == [0.7, 0.8]
        assert view.record(2).status is Status.COMPLETE


def test_warm_start_trials_take_no_number(tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    folder.mkdir()
    spec = finite_spec()
    (folder / "spec.yaml").write_text(dump_yaml(spec.to_dict()))
    earlier = make_study(spec, folder / "optuna.db")
    for suggestion in ask_all(Search(earlier), max_trials=4):
        record_trial(earlier, suggestion.number, 0.5)

    study = make_study(finite_spec(algorithm="tpe", warm_start=[folder]))
    apply_warm_starts(study, tmp_path / "own")
    assert len(study.optuna.trials) == 4
    suggestions = ask_all(Search(study))
    assert [suggestion.number for suggestion in suggestions] == list(range(POINTS))
    record_trial(study, 0, 0.5)
    assert study.optuna.trials[4].value == 0.5


class TestRepeats:
    def train(self, searcher: TuneSearcher, study: Study, trials: int) -> list[dict[str, Any]]:
        """Train what is suggested; deeper transitions do better."""
        configs = []
        while len(configs) < trials and isinstance(config := searcher.suggest(str(len(configs))), dict):
            value = (config["overrides"][DEPTH] + config["overrides"][DECAY]) / 10
            record_trial(study, config["number"], value)
            configs.append(config)
        return configs

    def test_they_continue_the_numbers_and_name_the_finalist_by_its_number(self, database: Path) -> None:
        spec = finite_spec(repeats=3, finalists=2)
        study = make_study(spec, database)
        searcher = TuneSearcher(study)
        study.optuna.sampler = OneIdea()
        configs = self.train(searcher, study, trials=POINTS + 1)
        study = make_study(spec, database)  # the session ends after the first repeat
        configs += self.train(TuneSearcher(study), study, trials=100)
        assert [config["number"] for config in configs] == list(range(POINTS + 4))

        finalists = [config for config in configs[:POINTS] if config["overrides"][DEPTH] == 3]
        numbers = {config["overrides"][DECAY]: config["number"] for config in finalists}
        for record in study.records()[POINTS:]:
            assert record.params[DEPTH] == 3
            assert record.repeat_of == numbers[record.params[DECAY]]
        assert {number: mean.runs for number, mean in compute_repeat_means(study).items()} == dict.fromkeys(
            numbers.values(), 3
        )


class TestStudiesOfOlderVersions:
    """They have no numbers of their own: Optuna's numbers count, with their gaps."""

    @pytest.fixture
    def old(self, database: Path) -> Path:
        """Three trials with Optuna's numbers 0, 2 and 4; the first two are complete, the last one is running."""
        study = make_study(finite_spec(), database)
        ask_all(search_with_duplicates(study), max_trials=3)
        record_trial(study, 0, 0.1)
        record_trial(study, 1, 0.2)
        sql(database, "DELETE FROM trial_user_attributes WHERE key = 'number'")
        return database

    def test_their_trials_keep_optunas_numbers(self, old: Path) -> None:
        view = StudyView.open(finite_spec(), old)
        assert [(r.number, len(r.history)) for r in view.records()] == [(0, 1), (2, 1), (4, 0)]

    def test_new_trials_continue_after_the_largest_number(self, old: Path) -> None:
        study = make_study(finite_spec(), old)
        suggestions = ask_all(search_with_duplicates(study))
        assert [suggestion.number for suggestion in suggestions] == [4, 5, 6, 7]
        for suggestion in suggestions:
            record_trial(study, suggestion.number, 0.5)
        again = StudyView.open(finite_spec(), old)
        assert [record.number for record in again.records()] == [0, 2, 4, 5, 6, 7]
        assert all(record.status is Status.COMPLETE for record in again.records())
        assert len({tuple(record.params.items()) for record in again.records()}) == POINTS

    def test_their_repeats_name_the_finalist_by_optunas_number(self, old: Path) -> None:
        trial = next(t for t in optuna_trials(old) if t.number == 4)
        for key, value in (("repeat_of", 2), ("seed", 1)):
            sql(old, "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                trial._trial_id, key, json.dumps(value))  # fmt: skip
        study = make_study(finite_spec(repeats=2, finalists=1), old)
        record_trial(study, 4, 0.4)
        assert compute_repeat_means(study)[2].mean == pytest.approx(0.3)


@pytest.mark.parametrize("number", [0, -1, True, "1", 1.0, None])
def test_a_number_that_is_not_one_or_is_taken_is_refused(database: Path, number: object) -> None:
    study = make_study(finite_spec(), database)
    ask_all(search_with_duplicates(study), max_trials=2)
    sql(database, "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'number' AND value_json = '1'",
        json.dumps(number))  # fmt: skip
    reason = "two trials have the number 0" if number == 0 else r"the number .* of Optuna's trial 2 is not a whole"
    for opened in (Study, StudyView):
        with pytest.raises(ConfigError, match=rf"does not hold the study of sweep unit \({reason}"):
            opened.open(finite_spec(), database)
