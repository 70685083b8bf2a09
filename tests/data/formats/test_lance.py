"""Compares with a table that stable-worldmodel's LanceWriter wrote, and with the data that its LanceDataset loads."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_ray.data.formats import GuardedColumn
from jepa_ray.data.formats.lance import Lance
from jepa_ray.data.formats.peek import peek, readable
from jepa_ray.errors import DataError

lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")

FILES = Path(__file__).parents[1] / "files"
TABLE = FILES / "swm_small.lance"


def png(size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size)).save(file, "PNG")
    return file.getvalue()


def written(folder: Path, episode=(0, 0, 1, 1), step=(0, 1, 0, 1), leave_out: str = "", sizes=(4, 4, 4, 4)) -> Path:
    vectors = pa.array([[1.0, 2.0]] * len(episode), pa.list_(pa.float32(), 2))
    columns = {"episode_idx": list(episode), "step_idx": list(step), "action": vectors}
    columns["pixels"] = [png(size) for size in sizes]
    columns.pop(leave_out, None)
    lance.write_dataset(pa.table(columns), str(folder / "table.lance"))
    return folder / "table.lance"


def read(path: Path) -> None:
    """Open the table and read all of it, with errors handled as in `open_recording`."""
    with readable(path, "Lance table"), Lance().open(path) as opened:
        for name, column in opened.columns.items():
            GuardedColumn(column, name, path)[slice(None)]


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(DataError, match=match) as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_rows_equal_those_of_stable_worldmodel():
    with np.load(FILES / "swm_small_lance.npz") as theirs, Lance().open(TABLE) as ours:
        assert ours.lengths.tolist() == theirs["lengths"].tolist()
        for rows in (slice(None), slice(3, 9), slice(4, 4)):
            np.testing.assert_array_equal(ours.columns["pixels"][rows], theirs["pixels"][rows].transpose(0, 2, 3, 1))
            np.testing.assert_array_equal(ours.columns["action"][rows], theirs["action"][rows])
            np.testing.assert_array_equal(ours.columns["state"][rows], theirs["state"][rows])
            np.testing.assert_array_equal(ours.columns["reward"][rows], theirs["reward"][rows, 0])
        assert ours.notes == ("task is not read: it has type string",)
        for column in ours.columns.values():
            assert (column[2:5].shape, column[2:5].dtype) == ((3, *column.shape[1:]), column.dtype)


def test_folder_with_one_table_is_read_as_that_table(tmp_path):
    table = written(tmp_path)
    for path in (table, tmp_path):
        assert Lance().recognises(peek(path))
        assert Lance().files(path) == sorted(file for file in table.rglob("*") if file.is_file())
        with Lance().open(path) as recording:
            assert recording.lengths.tolist() == [2, 2]
    shutil.copytree(table, tmp_path / "other.lance")
    assert not Lance().recognises(peek(tmp_path))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"step": (0, 2, 0, 1)}, r"step_idx of row 1 is 2 \(episode_idx 0\), but must be 1"),
        ({"step": (0, 1, 1, 2)}, r"step_idx of row 2 is 1 \(episode_idx 1\), but must be 0"),
        ({"episode": (0, 1, 1, 0), "step": (0, 0, 1, 0)}, "episode_idx 0 appears again after another episode"),
        ({"leave_out": "action"}, "lacks the column action"),
        ({"leave_out": "step_idx"}, "lacks the column step_idx"),
        ({"sizes": (4, 4, 5, 4)}, "pixels of row 2 has shape"),
    ],
)
def test_tables_with_invalid_episodes_are_refused(tmp_path, changes, match):
    assert_refused(written(tmp_path, **changes), match)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_data_file_is_refused(tmp_path, keep):
    file = next((written(tmp_path) / "data").iterdir())
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    assert_refused(tmp_path, "cannot be read")


def test_damaged_data_file_is_refused(tmp_path):
    file = next((written(tmp_path) / "data").iterdir())
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert_refused(tmp_path, "cannot be read")
