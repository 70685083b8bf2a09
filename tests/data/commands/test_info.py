"""Statistics, text and pictures of datasets with known content."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeH5
from PIL import Image
from rich.console import Console

from jepa_ray.data.columns import chunks
from jepa_ray.data.commands import info
from jepa_ray.data.commands.info import (
    ActionAlignment,
    Bin,
    Continuous,
    Description,
    Discrete,
    MultiDiscrete,
    Repeats,
    Values,
)
from jepa_ray.data.commands.info_text import print_description
from jepa_ray.data.commands.sheet import contact_sheet
from jepa_ray.data.formats import open_recording

LENGTHS = (5, 7, 4, 6)  # of the files that `canonical_h5` writes: 22 rows


def described(path: Path) -> Description:
    with open_recording(path) as recording:
        return info.describe(recording)


def printed(description: Description, width: int = 300) -> str:
    out = io.StringIO()
    print_description(description, Console(file=out, width=width))
    return out.getvalue()


def values(description: Description, name: str) -> Values:
    found = next(column.values for column in description.columns if column.name == name)
    assert found is not None
    return found


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use chunks of 3 rows, so that episodes and comparisons cross the borders of chunks."""
    three = lambda column: chunks(column, 3 * max(1, int(np.prod(column.shape[1:])) * column.dtype.itemsize))  # noqa: E731
    monkeypatch.setattr(info, "chunks", three)


def test_counts_and_lengths(canonical_h5: MakeH5) -> None:
    found = described(canonical_h5())
    assert (found.trajectories, found.rows, found.transitions) == (4, 22, 18)
    assert found.lengths is not None
    assert (found.lengths.low, found.lengths.median, found.lengths.high) == (4, 5.5, 7)
    assert found.lengths.bins == (Bin(4, 4, 1), Bin(5, 5, 1), Bin(6, 6, 1), Bin(7, 7, 1))
    assert found.memory == 22 * (16 * 16 * 3 + 2 * 4 + 2 * 4)
    assert found.refusal is None


def test_at_most_ten_bins_hold_every_trajectory(canonical_h5: MakeH5) -> None:
    lengths = (2, 3, 24, 25, 25)
    found = described(canonical_h5(lengths=lengths)).lengths
    assert found is not None
    assert [(b.low, b.high) for b in found.bins] == [(low, min(low + 2, 25)) for low in range(2, 26, 3)]
    assert [b.count for b in found.bins] == [2, 0, 0, 0, 0, 0, 0, 3]


@pytest.mark.usefixtures("small_chunks")
def test_statistics_of_a_column(canonical_h5: MakeH5) -> None:
    extra = np.arange(22 * 3, dtype=np.float32).reshape(22, 3)
    extra[:, 1] = 7
    extra[4, 0] = extra[21, 2] = np.nan
    extra[9, 2] = np.inf
    finite = extra[np.isfinite(extra)]
    found = values(described(canonical_h5(columns={"extra": extra})), "extra")
    assert (found.low, found.high, found.nan, found.infinite) == (0, 63, 2, 1)
    assert found.mean == pytest.approx(finite.astype(np.float64).mean(), rel=1e-12)
    assert (found.dims, found.constant) == (3, (1,))
    assert found.ranges == ((0, 63), (7, 7), (2, 62))


def test_column_without_finite_values_has_no_statistics(canonical_h5: MakeH5) -> None:
    found = values(described(canonical_h5(columns={"extra": np.full((22, 2), np.nan)})), "extra")
    assert (found.low, found.high, found.mean, found.nan, found.constant) == (None, None, None, 44, (0, 1))


def test_columns_without_numbers_per_row_have_only_a_shape(canonical_h5: MakeH5) -> None:
    odd = {"names": np.array([b"a"] * 22), "fps": 10, "short": np.zeros(3)}
    found = described(canonical_h5(columns=odd))
    assert {column.name: column.shape for column in found.columns if column.values is None} == {
        "names": (22,),
        "fps": (),
        "short": (3,),
    }


@pytest.mark.usefixtures("small_chunks")
def test_action_spaces(canonical_h5: MakeH5) -> None:
    moves = np.tile(np.array([[-1, 0.5], [2, 0.25]], np.float32), (11, 1))
    assert described(canonical_h5(columns={"action": moves})).actions == Continuous(2, ((-1, 2), (0.25, 0.5)))
    keys = np.array([0] * 11 + [3] * 9 + [1] * 2, np.int32)
    shares = ((0, 0.5), (1, 2 / 22), (3, 9 / 22))
    assert described(canonical_h5(columns={"action": keys})).actions == Discrete(3, shares)
    several = np.stack([np.arange(22) % 3, np.arange(22) % 5], 1)
    assert described(canonical_h5(columns={"action": several})).actions == MultiDiscrete(2, ((0, 2), (0, 4)))
    assert described(canonical_h5(columns={"action": np.zeros(22)})).actions is None


def test_most_frequent_values_of_discrete_actions_are_shown(canonical_h5: MakeH5) -> None:
    keys = np.array([*range(12), *range(2, 12)])  # 0 and 1 occur once, the others twice
    found = described(canonical_h5(columns={"action": keys}))
    assert found.actions == Discrete(12, tuple((value, 2 / 22) for value in range(2, 12)))
    assert "12 values: 2 (9.1%)" in printed(found)
    assert "and 2 rarer values" in printed(found)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("unchanged", [0, 3])
def test_repeated_episodes_and_unchanged_rows(canonical_h5: MakeH5, unchanged: int) -> None:
    lengths = (5, 4, 5, 5, 5)  # 24 rows, 19 steps
    seen = np.arange(24, dtype=np.float32)[:, None] + np.zeros((1, 2), np.float32)
    act = np.arange(24, dtype=np.float32)[:, None]
    seen[9:14], act[9:14] = seen[:5], act[:5]  # episode 2 repeats episode 0
    seen[14:19] = seen[:5]  # episode 3 repeats only the observations
    act[19:24] = act[:5]  # episode 4 repeats only the actions
    seen[5] = seen[4]  # between two episodes, so not a step
    seen[6 : 6 + unchanged] = seen[5]
    path = canonical_h5(lengths=lengths, observation="vector", columns={"observation": seen, "action": act})
    assert described(path).repeats == Repeats((2,), unchanged / 19)


def test_alignment_and_evidence_are_shown(canonical_h5: MakeH5) -> None:
    found = described(canonical_h5())
    assert found.alignment == ActionAlignment("next", "every episode's last action is NaN", "next")
    assert (
        "alignment   next by the format (action[t] leads from row t to t + 1);"
        " the data says next: every episode's last action is NaN"
    ) in printed(found)


def test_data_that_training_refuses_gives_a_warning(canonical_h5: MakeH5) -> None:
    bad = np.zeros((22, 3), np.float32)
    bad[8, 1] = np.nan
    found = described(canonical_h5(observation="vector", columns={"observation": bad}))
    assert found.refusal is not None
    assert "observation is not finite (NaN or inf) at row 8" in found.refusal
    assert f"warning: training would refuse this dataset: {found.refusal}" in printed(found, width=80)


@pytest.mark.parametrize(
    "broken",
    [
        {"ep_len": np.array([5, -7, 4, 6])},
        {"ep_len": np.zeros(0, int), "ep_offset": np.zeros(0, int)},
        {"ep_offset": np.array([0, 1, 2, 3])},
        {"pixels": None},
        {"pixels": np.zeros((21, 4, 4, 3), np.uint8)},
        {"pixels": np.zeros((22, 4, 0, 3), np.uint8)},
        {"action": np.array([b"left"] * 22)},
    ],
)
def test_invalid_datasets_are_described(canonical_h5: MakeH5, broken: dict[str, Any]) -> None:
    found = described(canonical_h5(columns=broken))
    assert found.rows == 22
    assert found.alignment is None
    assert found.repeats is None
    assert found.refusal is not None
    assert found.refusal in printed(found, width=80)


def test_progress_reaches_its_total(canonical_h5: MakeH5) -> None:
    calls: list[tuple[int, int]] = []
    with open_recording(canonical_h5()) as recording:
        info.describe(recording, lambda done, total: calls.append((done, total)))
    assert calls == [(22, 66), (44, 66), (66, 66)]  # action, pixels, state


def test_all_parts_of_a_description_are_printed(canonical_h5: MakeH5) -> None:
    constant = np.arange(22)[:, None] * np.array([1, 0, 0, 0, 1, 0])
    text = printed(described(canonical_h5(columns={"[red]odd": constant})))
    for words in (
        "canonical HDF5",
        "size        4 trajectories, 22 rows, 18 transitions",
        "rows per trajectory: min 4, median 5.5, max 7",
        "█ 1",
        "[red]odd",
        "22x16x16x3",
        "4 of 6: 1-3, 5",
        "continuous, 2 dimensions: -",
        "0 episodes identical to an earlier one; the observation stays the same in 0.0% of steps",
        "16.8 KiB when loaded for training (observation, action and state)",
    ):
        assert words in text
    assert "warning" not in text


def test_sheet_shows_evenly_spaced_frames_of_evenly_spaced_episodes(canonical_h5: MakeH5, tmp_path: Path) -> None:
    """Each frame has a unique colour: the sheet contains a 64 x 64 square of each expected colour, in order."""
    out = tmp_path / "new" / "sheet.png"
    frames = np.zeros((24, 16, 16, 3), np.uint8)
    frames[..., 0], frames[..., 2] = 10 * np.arange(24)[:, None, None], 255  # unlike text, which is gray
    with open_recording(canonical_h5(lengths=(5, 7, 1, 6, 5), columns={"pixels": frames})) as recording:
        contact_sheet(recording, out, episodes=3, frames=3)
    with Image.open(out) as image:
        sheet = np.asarray(image.convert("RGB"))
    squares = {row: (sheet == (10 * row, 0, 255)).all(2) for row in range(24)}
    corners = {row: tuple(np.argwhere(at)[0]) for row, at in squares.items() if at.any()}
    drawn = [0, 2, 4, 12, 19, 21, 23]  # three rows of episode 0, the only row of episode 2, three rows of episode 4
    assert sorted(corners, key=lambda row: corners[row]) == drawn
    assert len({corners[row][0] for row in drawn}) == 3
    for row in drawn:
        y, x = corners[row]
        assert squares[row][y : y + 64, x : x + 64].all()
    assert [path.name for path in out.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("actions", ["continuous", "discrete"])
def test_sheet_of_vectors_draws_lines(canonical_h5: MakeH5, tmp_path: Path, actions: str) -> None:
    out = tmp_path / "sheet.png"
    with open_recording(canonical_h5(observation="vector", actions=actions)) as recording:
        contact_sheet(recording, out, episodes=1)
    with Image.open(out) as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    assert sheet.shape == (260, 320, 3)
    coloured = (sheet.max(2) - sheet.min(2)) > 80  # lines are coloured; axes and text are gray
    assert coloured[:150].sum() > 50
    assert coloured[150:].sum() > 50


def test_narrow_console_shows_all_values(canonical_h5: MakeH5) -> None:
    constant = np.arange(22)[:, None] * np.array([1, 0, 0, 0, 1, 0])
    text = printed(described(canonical_h5(columns={"distance_to_target": constant})), width=80)
    assert "distance_to_target" in text
    assert "1-3, 5" in " ".join(line[-20:].strip() for line in text.splitlines())
