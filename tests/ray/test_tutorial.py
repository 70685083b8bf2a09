"""The commands of the tutorial, run in order in a new folder, with less data and fewer trials."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from helpers.pages import DOCS, follow

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_tutorial_leads_from_data_to_a_model(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    assert follow(DOCS / "tutorial.md", tmp_path) >= 8
    board = pd.read_csv(tmp_path / "outputs/sweeps/pendulum/leaderboard.csv")
    assert list(board["status"]) == ["COMPLETE", "COMPLETE"]
