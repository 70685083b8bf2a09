"""The contents of the reports of various sweeps, read as text. `test_browser.py` checks them in a browser."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.studies import BEGAN, make_metrics, make_spec, make_study, train_study, train_trial

from jepa_ray.report.page import embed_json, render
from jepa_ray.report.report_data import SweepState
from jepa_ray.report.side_by_side import render_comparison
from jepa_ray.sweep.output.reporting import collect_report_data, record_session
from jepa_ray.sweep.search.repeats import Repeats
from jepa_ray.sweep.search.searcher import Search
from jepa_ray.sweep.storage.records import PlanningScore
from jepa_ray.sweep.storage.study import Study

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The text of a page by section, its data, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._section, self._quiet, self._data = "", "", ""
        self.feed(text)
        self.data = json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag == "section":
            self._section = values["id"] or ""
        if tag in ("script", "style"):
            self._quiet = values.get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._quiet = ""

    def handle_data(self, data: str) -> None:
        if self._quiet == "data":
            self._data += data
        elif not self._quiet:
            self.sections[self._section] = self.sections.get(self._section, "") + " " + " ".join(data.split())

    @property
    def board(self) -> list[dict[str, Any]]:
        """The leaderboard, one dict per row."""
        table = self.data["tables"]["board"]
        labels = [column["label"] for column in table["columns"]]
        return [dict(zip(labels, row, strict=True)) for row in table["rows"]]

    @property
    def plotted(self) -> set[str | None]:
        return {values["data-plot"] for _, values in self.tags if "data-plot" in values}


def page(study: Study, state: SweepState = SweepState.FINISHED, folder: Path = Path("nowhere")) -> Page:
    return Page(render(collect_report_data(study, folder, state)))


def trained(**changes: Any) -> Study:
    study = make_study(make_spec(**changes))
    train_study(study)
    return study


@pytest.fixture(scope="module")
def normal() -> Page:
    study = make_study()
    study.begin_session({"began": BEGAN, "command": "python -m jepa_ray.sweep a.yaml", "versions": {"torch": "9.9"}})
    train_study(study)
    return page(study)


class TestANormalSweep:
    def test_every_plot_is_there_and_has_data(self, normal: Page) -> None:
        expected = {"curves", "progress", "parallel", "importance", "timeline", "pair-0", "pair-1", "pair-2"}
        assert normal.plotted == expected == set(normal.data["plots"])
        assert all(figure["data"] for figure in normal.data["plots"].values())

    def test_the_leaderboard_has_all_trials_best_first(self, normal: Page) -> None:
        assert [row["rank"] for row in normal.board] == list(range(1, 13))
        complete = [row["val_rollout_mrr"] for row in normal.board if row["status"] == "COMPLETE"]
        assert complete == sorted(complete, reverse=True)
        assert {row["status"] for row in normal.board} == {"COMPLETE", "PRUNED"}

    def test_the_summary_gives_the_epochs_in_percent_of_grid_and_budget(self, normal: Page) -> None:
        epochs = sum(row["epochs"] for row in normal.board)
        shares = f"{epochs / 108:.0%} of the full grid (108); {epochs / 48:.0%} of the budget (48)"
        assert shares in normal.sections["summary"]

    def test_the_axis_of_the_progress_says_that_repeats_are_left_out(self, normal: Page) -> None:
        axis = normal.data["plots"]["progress"]["layout"]["xaxis"]
        assert axis["title"]["text"] == "epochs spent, without repeats"

    def test_a_stop_is_marked_where_it_happened(self, normal: Page) -> None:
        stops = next(trace for trace in normal.data["plots"]["curves"]["data"] if trace["name"] == "stop")
        stopped = [row for row in normal.board if row["status"] == "PRUNED"]
        assert len(stops["x"]) == len(stopped) > 0
        assert set(stops["x"]) == {1}
        assert all("is worse than 0.2" in text for text in stops["text"])

    def test_rungs_are_lines(self, normal: Page) -> None:
        assert [shape["x0"] for shape in normal.data["plots"]["curves"]["layout"]["shapes"]] == [1, 2]

    def test_it_loads_nothing_from_the_network(self, normal: Page) -> None:
        linked = [values.get(key) for _, values in normal.tags for key in ("src", "href") if values.get(key)]
        assert all(address.startswith(("#", "data:")) for address in linked if address)
        policy = next(v["content"] for _, v in normal.tags if v.get("http-equiv") == "Content-Security-Policy")
        assert policy
        assert policy.startswith("default-src 'none'")

    def test_it_shows_how_to_reproduce_the_sweep_and_its_environment(self, normal: Page) -> None:
        section = normal.sections["environment"]
        assert "python -m jepa_ray.sweep a.yaml" in section
        assert "torch 9.9" in re.sub(r"\s+", " ", section)
        assert "training.learning_rate" in section

    def test_the_loss_selects_a_model_at_chance_level(self, normal: Page) -> None:
        section = re.sub(r"\s+", " ", normal.sections["picks"])
        worst = min(row["val_rollout_mrr"] for row in normal.board)
        assert re.search(rf"val_loss [\d.e-]+ (?:\w+ [\d.e-]+ )*{worst:.4g}", section), section

    def test_unhealthy_trials_are_listed_with_suggestions(self, normal: Page) -> None:
        unhealthy = normal.data["tables"]["unhealthy"]["rows"]
        assert unhealthy
        assert all(row[1] == "scale collapse" and "chance" in row[3] for row in unhealthy)
        assert "training.loss.inverse_dynamics" in normal.sections["diagnosis"]

    def test_its_title_names_the_sweep(self, normal: Page) -> None:
        assert "Sweep unit" in normal.sections[""]


class TestMissingValuesAreExplained:
    def test_nothing_has_ended(self) -> None:
        study = make_study()
        Search(study).ask()
        report = page(study, SweepState.UNFINISHED)
        assert report.plotted == set()
        assert "No trial has ended yet" in report.sections["summary"]
        assert "no learning curves" in report.sections["curves"]
        assert "needs at least 4 trials" in report.sections["importance"]
        assert "no epoch has ended yet, or an older version wrote it" in report.sections["timeline"]
        assert "This sweep's models were not used for planning" in report.sections["planning"]

    def test_one_trial(self) -> None:
        report = page(trained(search={"algorithm": "random", "num_trials": 1}))
        assert "trial_00000" in report.sections["summary"]
        assert "Parallel coordinates need two trials" in report.sections["parallel"]
        assert report.plotted == {"curves", "progress", "timeline"}

    def test_all_failed(self) -> None:
        study = make_study()
        train_study(study, fail_every=1)
        report = page(study)
        assert "All 12 trials that have ended failed. The first error: train_loss is nan" in report.sections["summary"]
        assert report.plotted == set()
        assert len(report.board) == 12

    def test_all_reached_the_same(self) -> None:
        study = make_study()
        search = Search(study)
        while suggestion := search.ask():
            study.report(suggestion.number, 1, make_metrics(0.5), last=True)
            study.finish(suggestion.number)
        report = page(study)
        assert "All trials reached the same value" in report.sections["importance"]
        assert "No collapse or other failure of a model was found" in report.sections["diagnosis"]

    def test_an_older_study_has_no_groups(self) -> None:
        study = make_study(make_spec(search={"algorithm": "random", "num_trials": 1}))
        suggestion = Search(study).ask()
        assert suggestion
        study.report(suggestion.number, 1, make_metrics(0.5), last=True)
        report = page(study)
        assert "timeline" not in report.plotted
        assert "an older version wrote it" in report.sections["timeline"]

    def test_metrics_that_were_not_measured(self) -> None:
        study = make_study(make_spec(search={"algorithm": "random", "num_trials": 1}))
        suggestion = Search(study).ask()
        assert suggestion
        study.report(suggestion.number, 1, {"val_rollout_mrr": 0.5, "val_loss": float("nan")}, last=True)
        study.finish(suggestion.number)
        report = page(study)
        assert report.board[0]["val_loss"] is None
        assert report.board[0]["diagnosis"] == "untested"


class TestOtherKindsOfSweeps:
    def test_several_objectives(self) -> None:
        report = page(trained(objective=[{"metric": "val_rollout_mrr"}, {"metric": "epoch_s"}]))
        complete = [row for row in report.board if row["status"] == "COMPLETE"]
        assert {row["pareto"] for row in complete} == {"yes", "no"}
        assert all(isinstance(row["epoch_s"], float) for row in complete)

    def test_a_smaller_objective_is_better(self) -> None:
        report = page(trained(objective={"metric": "val_loss"}))
        complete = [row["val_loss"] for row in report.board if row["status"] == "COMPLETE"]
        assert complete == sorted(complete)
        assert "can be faked by collapse" in report.sections["summary"]

    def test_a_conditional_key_is_absent_where_its_condition_does_not_hold(self) -> None:
        depth = {"choices": [2, 4], "when": {"model.encoder_type": "vit"}}
        space = {"model.encoder_type": ["cnn", "vit"], "model.vit.depth": depth, "training.ema_decay": [0.98, 0.99]}
        report = page(trained(space=space))
        assert {(row["encoder_type"], row["depth"]) for row in report.board} == {("cnn", None), ("vit", 2), ("vit", 4)}
        axis = next(d for d in report.data["plots"]["parallel"]["data"][0]["dimensions"] if d["label"] == "depth")
        assert axis["ticktext"] == ["absent", "2", "4"]
        assert set(axis["values"]) == {-1, 0, 1}

    def test_ranges_are_drawn_as_contours(self) -> None:
        ends = {"low": 1e-5, "high": 1e-2, "log": True}
        space = {"training.learning_rate": ends, "training.ema_decay": {"low": 0.98, "high": 0.999}}
        pair = page(trained(space=space)).data["plots"]["pair-0"]
        assert [trace["type"] for trace in pair["data"]] == ["contour", "scatter"]
        assert len(pair["data"][1]["x"]) == 12

    def test_repeats_give_intervals(self) -> None:
        study = trained(search={"algorithm": "random", "num_trials": 27, "repeats": 3, "finalists": 2})
        repeats, rng = Repeats(study), random.Random(1)
        while suggestion := repeats.ask():
            train_trial(study, suggestion.number, rng, "unit-group-0", BEGAN + 300)
        report = page(study)
        assert "mean of 3 seeds, 95 %" in report.sections["summary"]
        assert re.fullmatch(r"0\.\d+ \[0\.\d+, 0\.\d+\]", report.board[0]["mean over seeds"])
        assert sum("repeat of" in (row["note"] or "") for row in report.board) == 4

    def test_a_planning_score_and_its_picture(self, tmp_path: Path) -> None:
        study = trained(evaluation={"plan_top_k": 1})
        best = next(row for row in page(study).board if row["rank"] == 1)["trial"]
        study.record_planning_score(int(best.removeprefix("trial_")), PlanningScore(0.84, 0.7, 0.93, 0.15))
        (tmp_path / "planned.png").write_bytes(b"\x89PNG\r\n\x1a\npicture")
        report = page(study, folder=tmp_path)
        assert "84% [70%, 93%]" in report.sections["planning"]
        assert "random actions: 15%" in report.sections["summary"]
        assert any(
            v.get("src") == "data:image/png;base64,iVBORw0KGgpwaWN0dXJl" for tag, v in report.tags if tag == "img"
        )

    def test_an_interrupted_sweep_shows_its_trials_so_far(self) -> None:
        study = make_study()
        train_study(study, max_trials=5)
        Search(study).ask()
        report = page(study, SweepState.INTERRUPTED)
        assert "6 of 12 runs started" in report.sections[""]
        assert "the same command continues" in report.sections[""]
        assert [row["rank"] for row in report.board] == [1, 2, 3, 4, 5, None]
        assert report.board[-1]["status"] == "RUNNING"


class TestUntrustedTexts:
    def test_no_text_becomes_markup(self) -> None:
        spec = make_spec(space={"model.encoder_type": ["cnn", "vit"], "training.ema_decay": [0.98, 0.99]})
        study = make_study(spec)
        train_study(study, max_trials=3)
        suggestion = Search(study).ask()
        assert suggestion
        study.note(suggestion.number, error=EVIL)
        study.finish(suggestion.number, failed=True)
        record_session(study)
        text = render(collect_report_data(study, Path("nowhere"), SweepState.FINISHED))
        assert EVIL not in text
        report = Page(text)
        assert [tag for tag, _ in report.tags if tag == "img"] == []
        assert sum(tag == "script" for tag, _ in report.tags) == 3
        assert EVIL in report.sections["diagnosis"]
        assert any(row["note"] == EVIL for row in report.board)

    def test_hover_texts_are_escaped_for_plotly(self) -> None:
        study = make_study()
        suggestion = Search(study).ask()
        assert suggestion
        study.note(suggestion.number, stop="<b>bold</b>", stop_epoch=1)
        study.report(suggestion.number, 1, make_metrics(0.5), last=False)
        study.finish(suggestion.number)
        traces = page(study).data["plots"]["curves"]["data"]
        assert "&lt;b&gt;bold" in next(trace for trace in traces if trace["name"] == "stop")["text"][0]

    @pytest.mark.parametrize("value", [EVIL, "<!--", "a & b", "\u2028"])
    def test_embedded_json_holds_no_markup_and_reads_back(self, value: str) -> None:
        text = str(embed_json({"key": value}))
        assert not set("<>&\u2028") & set(text)
        assert json.loads(text) == {"key": value}


def test_a_large_sweep_is_sampled_and_the_page_says_so(tmp_path: Path) -> None:
    """2,000 trials; `benchmarks/report_scale.py` measures 10,000."""
    ends = {"low": 1e-5, "high": 1e-2, "log": True}
    space = {"training.learning_rate": ends, "training.ema_decay": {"low": 0.98, "high": 0.999}}
    study = trained(space=space, search={"algorithm": "random", "num_trials": 2000})
    text = render(collect_report_data(study, tmp_path, SweepState.FINISHED))
    report = Page(text)
    assert len(report.board) == 2000
    assert "The plot shows the best 50 of 2,000 trials, and 100 of the others" in report.sections["curves"]
    assert "fANOVA uses a random sample of 300 trials" in report.sections["importance"]
    assert len(text) < 8e6  # plotly.js is 4.8 MB of it


class TestTwoSweeps:
    def pair(self, a: Study, b: Study) -> Page:
        return Page(
            render_comparison(*(collect_report_data(study, Path("nowhere"), SweepState.FINISHED) for study in (a, b)))
        )

    def test_side_by_side(self) -> None:
        a, b = trained(), trained(name="other", early_stopping={"grace_epochs": 2, "max_epochs": 4})
        report = self.pair(a, b)
        assert "early_stopping.grace_epochs 1 2" in re.sub(r"\s+", " ", report.sections["differences"])
        assert "configurations were tried in both" in report.sections["both"]
        assert {trace["name"] for trace in report.data["plots"]["progress"]["data"]} == {"unit", "other"}
        assert report.plotted == {"progress", "both", "importance-0", "importance-1"}

    def test_values_of_different_objectives_are_not_compared(self) -> None:
        report = self.pair(trained(), trained(name="other", objective={"metric": "val_loss"}))
        assert "The objectives differ" in report.sections["found"]
        assert "cannot be drawn on a common axis" in report.sections["progress"]
        assert report.plotted == {"importance-0", "importance-1"}

    def test_two_empty_studies_of_the_same_spec(self) -> None:
        report = self.pair(make_study(), make_study())
        assert "The specs are the same except for their names" in report.sections["differences"]
        assert report.sections["found"].count("no trial has a model") == 2
