"""Compares the reader with Pillow and numpy on three episodes that stable-worldmodel wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_ray.data.formats.swm_folder import SwmFolder
from jepa_ray.errors import DataError

FOLDER = Path(__file__).parents[1] / "files/swm_folder"


def test_values_equal_those_of_pillow_and_numpy() -> None:
    with SwmFolder().open(FOLDER) as got:
        assert got.lengths.tolist() == [19, 24, 24]
        assert got.offsets.tolist() == [0, 19, 43]
        for name in ("action", "observation", "state", "reward"):
            np.testing.assert_array_equal(got.columns[name][:], np.load(FOLDER / f"{name}.npz")["arr_0"])
        for rows, files in ((slice(42, 44), ("1_step_23", "2_step_0")), (slice(18, 20), ("0_step_18", "1_step_0"))):
            frames = [np.asarray(Image.open(FOLDER / f"pixels/ep_{file}.jpeg").convert("RGB")) for file in files]
            np.testing.assert_array_equal(got.columns["pixels"][rows], frames)


@pytest.mark.parametrize("offsets", [[0, 18, 43], [0, 19], [-1, 19, 43]])
def test_invalid_offsets_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "a")
    np.savez(folder / "ep_offset.npz", np.array(offsets))
    with pytest.raises(DataError, match="ep_offset"), SwmFolder().open(folder):
        pass


def test_missing_frame_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "a")
    (folder / "pixels/ep_1_step_2.jpeg").unlink()
    with SwmFolder().open(folder) as got, pytest.raises(DataError, match="ep_1_step_2"):
        got.columns["pixels"][20:23]
