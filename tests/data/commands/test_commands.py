"""The commands of `python -m jepa_ray.data`, each run in a separate process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

MakeH5 = Callable[..., Path]


def data(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepa_ray.data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_convert_applies_its_options(canonical_h5: MakeH5, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.h5"
    done = data("convert", canonical_h5(), out, "--frameskip", 2, "--resize", "8x10", "--keys", "pixels,action")
    assert (done.returncode, done.stderr) == (0, "")
    with h5py.File(out) as file:
        assert file["pixels"].shape == (3 + 4 + 2 + 3, 8, 10, 3)
        assert file["action"].shape == (12, 4)
        assert file["ep_len"][()].tolist() == [3, 4, 2, 3]
        assert "state" not in file


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("convert", "none.h5", "out.h5"), "none.h5: cannot be read (No such file or directory)"),
        (("convert", "{data}", "out.h5", "--resize", "0"), "--resize is 0"),
        (("convert", "{data}", "out.h5", "--keys", "depth"), "lacks the column depth"),
        (("convert", "{data}", "{data}"), "is the source itself"),
        (("info", "none.h5"), "none.h5: cannot be read"),
        (("info", "{pickle}"), "is a pickle, which can run code"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    canonical_h5: MakeH5, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    pickled = tmp_path / "data.pkl"
    pickled.write_bytes(b"\x80\x04N.")
    given = [a.format(data=canonical_h5(), pickle=pickled) for a in arguments]
    given = [str(tmp_path / a) if a == "out.h5" else a for a in given]
    done = data(*given)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.h5").exists()


def test_collected_episodes_are_shown_by_info(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    out = tmp_path / "episodes.h5"
    made = data("collect", "--env", "MountainCar-v0", "--out", out, "--episodes", 3, "--max-steps", 5)
    assert (made.returncode, made.stderr) == (0, "")
    with h5py.File(out) as file:
        assert file["observation"].shape == (18, 2)
        assert np.issubdtype(file["action"].dtype, np.integer)
    seen = data("info", out, "--sheet", tmp_path / "sheet.png")
    assert seen.returncode == 0, seen.stderr
    assert "canonical HDF5" in seen.stdout
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
