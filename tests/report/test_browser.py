"""The report in a browser, in a desktop and a phone layout: errors, tables, plots, sorting and filtering."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.browsing import TIMEOUT_MS, WIDTHS, chromium, needs_chromium
from helpers.studies import BEGAN, make_spec, make_study, train_study, train_trial

from jepa_ray.report.report_data import SweepState
from jepa_ray.report.side_by_side import render_comparison
from jepa_ray.sweep.output.reporting import collect_report_data, write_report
from jepa_ray.sweep.search.repeats import Repeats

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep with 31 runs, including repeats: the leaderboard has two pages."""
    study = make_study(make_spec(search={"algorithm": "random", "num_trials": 27, "repeats": 3, "finalists": 2}))
    train_study(study, fail_every=9)
    repeats, rng = Repeats(study), random.Random(1)
    while suggestion := repeats.ask():
        train_trial(study, suggestion.number, rng, "unit-group-0", BEGAN + 300)
    return write_report(study, tmp_path_factory.mktemp("report"), SweepState.FINISHED)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


class Opened:
    """A page whose plots are drawn, with its errors and the requests that it made."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: Any = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), timeout=TIMEOUT_MS)
        drawn = "document.documentElement.dataset.drawn === 'yes'"
        self.page.wait_for_function(drawn, timeout=TIMEOUT_MS)

    def cells(self, column: int, table: str = "board") -> list[str]:
        return self.page.locator(f"#table-{table} tbody td:nth-child({column})").all_text_contents()

    def head(self, name: str) -> None:
        self.page.locator("#table-board thead button", has_text=name).first.click()


@pytest.fixture(scope="module", params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report, WIDTHS[request.param])
    yield opened
    opened.page.close()


def test_the_page_has_no_errors_and_loads_nothing(opened: Opened, report: Path) -> None:
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_every_plot_is_drawn(opened: Opened) -> None:
    plots = opened.page.locator("[data-plot]")
    assert plots.count() >= 8
    for plot in plots.all():
        name = plot.get_attribute("data-plot")
        assert plot.locator("svg, canvas").count() > 0, name
        box = plot.bounding_box()
        assert box, name
        assert box["height"] > 150, name
    lines = opened.page.locator("#plot-curves .scatterlayer .trace path.js-line")
    assert lines.count() > 3
    assert opened.page.locator("#plot-timeline .barlayer .point").count() > 10
    assert opened.page.locator("#plot-importance .barlayer .point").count() >= 6


def test_the_page_is_no_wider_than_the_window(opened: Opened) -> None:
    overflow = opened.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0


def test_the_leaderboard_is_filled_and_has_pages(opened: Opened) -> None:
    assert opened.cells(1)[:3] == ["1", "2", "3"]
    assert len(opened.cells(1)) == 25
    table = opened.page.locator("#table-board")
    assert table.locator(".count").text_content() == "31 of 31"
    table.locator(".next").click()
    assert len(opened.cells(1)) == 6
    table.locator(".back").click()
    assert opened.cells(1)[0] == "1"


def test_a_column_sorts_up_down_and_back(opened: Opened) -> None:
    ranked = opened.cells(5)
    opened.head("val_rollout_mrr")
    up = [float(cell) for cell in opened.cells(5) if cell]
    assert up == sorted(up)
    opened.head("val_rollout_mrr")
    down = [float(cell) for cell in opened.cells(5) if cell]
    assert down == sorted(down, reverse=True)
    assert down[0] > up[0]
    opened.head("val_rollout_mrr")
    assert opened.cells(5) == ranked


def test_filters_by_status_text_and_number(opened: Opened) -> None:
    table = opened.page.locator("#table-board")
    table.locator("select.status").select_option("FAILED")
    assert len(opened.cells(1)) == 3
    table.locator("select.status").select_option("")
    table.locator(".filter").fill("learning_rate=0.001 complete")
    assert set(opened.cells(3)) == {"■ COMPLETE"}
    table.locator(".filter").fill("val_rollout_mrr>0.6")
    shown = [float(cell) for cell in opened.cells(5)]
    assert shown
    assert min(shown) > 0.6
    table.locator(".filter").fill("nothing has this")
    assert opened.cells(1) == []
    table.locator(".filter").fill("")
    assert len(opened.cells(1)) == 25


def test_all_metrics_are_columns_on_demand(opened: Opened) -> None:
    heads = opened.page.locator("#table-board thead th")
    few = heads.count()
    box = opened.page.locator("#table-board .all")
    box.check()
    assert heads.count() > few + 10
    box.uncheck()
    assert heads.count() == few


def test_the_colours_follow_the_dark_mode_of_the_system(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, 1280, "dark")
    read = "getComputedStyle(document.querySelector('section')).backgroundColor"
    assert opened.page.evaluate(read) == "rgb(23, 27, 31)"
    ink = "getComputedStyle(document.querySelector('#plot-progress .xtick text')).fill"
    assert opened.page.evaluate(ink) == "rgb(230, 233, 236)"
    opened.page.emulate_media(color_scheme="light")
    opened.page.wait_for_function(f"{ink} === 'rgb(28, 33, 38)'", timeout=TIMEOUT_MS)
    assert opened.errors == []
    opened.page.close()


def test_two_sweeps_side_by_side(browser: Any, tmp_path: Path) -> None:
    sides = []
    for name, seed in (("left", 0), ("right", 1)):
        study = make_study(make_spec(name=name, search={"algorithm": "random", "num_trials": 14, "seed": seed}))
        train_study(study)
        sides.append(collect_report_data(study, tmp_path, SweepState.FINISHED))
    path = tmp_path / "compare.html"
    path.write_text(render_comparison(*sides))
    opened = Opened(browser, path, 390)
    assert opened.errors == []
    assert opened.page.locator("[data-plot] svg.main-svg").count() >= 8
    assert opened.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    opened.page.close()
