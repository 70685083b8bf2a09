from __future__ import annotations

import math

import pytest

from jepa_ray import formatting
from jepa_ray.errors import first_line


@pytest.mark.parametrize(
    ("seconds", "shown", "with_unit"),
    [
        (0.4, "0:00", "0:00 min"),
        (59.6, "1:00", "1:00 min"),
        (125, "2:05", "2:05 min"),
        (3723, "1:02:03", "1:02:03 h"),
    ],
)
def test_durations(seconds: float, shown: str, with_unit: str) -> None:
    assert formatting.format_duration(seconds) == shown
    assert formatting.format_duration(seconds, unit=True) == with_unit


def test_times_are_in_utc() -> None:
    assert formatting.format_time(0) == "1970-01-01 00:00 UTC"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (0.123456, "0.1235"), (1e-5, "1e-05"), (3, "3"), (True, "True"), ("cnn", "cnn")]
)
def test_cells(value: object, shown: str) -> None:
    assert formatting.format_cell(value) == shown


def test_a_cell_without_a_number_is_empty_unless_it_is_to_be_named() -> None:
    assert formatting.format_cell(math.nan) == ""
    assert formatting.format_cell(math.nan, nan="NaN") == "NaN"
    assert formatting.format_cell(math.inf) == "inf"


@pytest.mark.parametrize(("value", "shown"), [(12345678.0, "12345678"), (0.123456, "0.1235"), (1e12, "1e+12")])
def test_whole_numbers_keep_all_their_digits(value: float, shown: str) -> None:
    assert formatting.format_number(value) == shown


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_json_cannot_express_is_missing(value: float | None) -> None:
    assert formatting.round_finite(value) is None


def test_numbers_are_rounded_to_significant_digits() -> None:
    assert formatting.round_finite(0.123456789) == 0.12346
    assert formatting.round_finite(123456.789, digits=3) == 123000.0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \ntwo"), "one  "),
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        ("one\ntwo", "one"),
        ("", ""),
    ],
)
def test_first_line_of_an_error(error: BaseException | str, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(("count", "shown"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs")])
def test_counts_have_the_right_plural(count: int, shown: str) -> None:
    assert formatting.format_count(count, "epoch") == shown


def test_a_configuration_has_the_last_part_of_each_key_unless_two_are_equal() -> None:
    assert formatting.format_params({"a.b.c": 1e-5, "d": "cnn"}) == "c=1e-05 d=cnn"
    assert formatting.format_params({"a.depth": 1, "b.depth": [2, 3], "b.c": True}) == "a.depth=1 b.depth=[2, 3] c=True"


def test_lines_are_filled_but_items_are_never_broken() -> None:
    assert formatting.pack_lines(["aaa", "bb", "cccc", "d" * 12, "e"], 7) == ["aaa  bb", "cccc", "d" * 12, "e"]
    assert formatting.pack_lines([], 7) == []
