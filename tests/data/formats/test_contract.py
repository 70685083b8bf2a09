"""What every reader owes whoever reads through it, whatever the format: one class of tests over all of them.

`SAMPLES` are written by the tests themselves and hold the same episodes, so values are known; `REAL` were written by
the formats' own libraries. A format that is in `FORMATS` and in neither is a failure.
"""

from __future__ import annotations

import importlib.util
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import written
from helpers.written import ACTION, LAST, LENGTHS, PIXELS, REWARD, ROWS, SAMPLES, SEEN, Sample, unzipped

from jepa_ray.config import DataConfig
from jepa_ray.data.commands.convert import convert
from jepa_ray.data.commands.info import describe
from jepa_ray.data.formats import FORMATS, format_of, open_recording
from jepa_ray.data.formats.canonical import Canonical
from jepa_ray.data.formats.peek import peek
from jepa_ray.data.selection import aligned, choose, select

FILES = Path(__file__).parents[1] / "files"
IO = Path("/proc/self/io")  # Linux' count of what this process has read


def ogbench(folder: Path) -> Path:
    with np.load(FILES / "ogbench_expected.npz") as kept:
        arrays = {name.removeprefix("file_"): kept[name] for name in kept if name.startswith("file_")}
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def there(name: str) -> Callable[[Path], Path]:
    return lambda folder: FILES / name


REAL: dict[str, Sample] = {
    "real swm HDF5": Sample("canonical HDF5", there("swm_tworoom.h5")),
    "real swm folder": Sample("stable-worldmodel folder", there("swm_folder")),
    "real Lance": Sample("Lance table", there("swm_small.lance"), needs="lance"),
    "real OGBench": Sample("OGBench", ogbench),
    "real Minari HDF5": Sample("Minari", unzipped("minari", "pendulum_hdf5")),
    "real Minari Arrow, images": Sample("Minari", unzipped("minari", "sights_arrow_jpeg"), needs="pyarrow"),
    "real Minari HDF5, images": Sample("Minari", unzipped("minari", "sights_hdf5_jpeg")),
    "real LeRobot": Sample("LeRobot v3", unzipped("lerobot", "vectors"), needs="pyarrow"),
    "real LeRobot, images": Sample("LeRobot v3", unzipped("lerobot", "images"), needs="pyarrow"),
    "real LeRobot, videos": Sample("LeRobot v3", unzipped("lerobot", "videos"), needs="av"),
}
ALL = SAMPLES | REAL

# Reads every state to find where episodes end; Arrow's files are mapped, whose pages are no reads.
READS_ALL = {"transitions h5", "transitions pt"}


def sample_at(name: str, folder: Path) -> Path:
    """The dataset, made in a folder of its own."""
    needed = ALL[name].needs
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    return ALL[name].write(folder)


@pytest.fixture(scope="module", params=ALL)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A sample's name, and its path; not to be changed."""
    return request.param, sample_at(request.param, tmp_path_factory.mktemp("sample"))


def read(path: Path) -> dict[str, np.ndarray]:
    with open_recording(path) as recording:
        return {name: column[slice(None)] for name, column in recording.columns.items()}


def selected(path: Path) -> dict[str, np.ndarray]:
    """What training would get."""
    with open_recording(path) as recording:
        data = select(recording, DataConfig(path=path)).trajectories
        return {name: column[slice(None)] for name, column in data.columns().items()} | {"lengths": data.lengths}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], name, strict=True)


def test_every_format_has_a_sample() -> None:
    assert {sample.format for sample in ALL.values()} == {known.name for known in FORMATS}


class TestEveryReader:
    def test_is_told_from_all_others(self, made: tuple[str, Path]) -> None:
        """None but the one that reads it says it is its own, except for canonical, which any HDF5 file is judged by."""
        name, path = made
        seen = peek(path)
        its = [known for known in FORMATS if known.recognises(seen)]
        assert its[0].name == format_of(path).name == ALL[name].format
        assert all(isinstance(known, Canonical) for known in its[1:])

    def test_names_its_files(self, made: tuple[str, Path]) -> None:
        """Each that is named is there, none twice, in the same order again: a cache is known by them."""
        _, path = made
        files = format_of(path).files(path)
        assert files == format_of(path).files(path)
        assert len(set(files)) == len(files) > 0
        for file in files:
            assert file.is_file()
            assert file == path or file.is_relative_to(path.parent)

    def test_can_be_described(self, made: tuple[str, Path]) -> None:
        name, path = made
        with open_recording(path) as recording:
            told = describe(recording)
        assert told.refusal is None
        assert told.format == ALL[name].format
        assert told.actions is not None
        assert told.alignment is not None
        assert told.rows == told.transitions + told.trajectories
        assert all(column.values is not None for column in told.columns if column.dtype in ("uint8", "float32"))

    def test_gives_columns_of_one_length(self, made: tuple[str, Path]) -> None:
        _, path = made
        with open_recording(path) as recording:
            rows = int(recording.lengths.sum())
            assert {column.shape[0] for column in recording.columns.values()} == {rows}
            np.testing.assert_array_equal(recording.offsets, np.cumsum(recording.lengths) - recording.lengths)
            for column in recording.columns.values():
                got = column[slice(None)]
                assert (got.shape, got.dtype) == (column.shape, column.dtype)

    @pytest.mark.parametrize("step", [1, 3, 7, 1000])
    def test_reads_in_pieces_what_it_reads_at_once(self, made: tuple[str, Path], step: int) -> None:
        _, path = made
        whole = read(path)
        with open_recording(path) as recording:
            for name, column in recording.columns.items():
                count = column.shape[0]
                starts = range(0, min(count, 40 * step), step)
                pieces = [column[slice(start, start + step)] for start in starts]
                np.testing.assert_array_equal(np.concatenate(pieces), whole[name][: 40 * step], name, strict=True)
                for start in (count - 1, count // 2, 0):  # backwards
                    np.testing.assert_array_equal(column[slice(start, start + step)], whole[name][start : start + step])
                assert column[slice(count, count + step)].shape == (0, *column.shape[1:])

    def test_reads_the_same_twice(self, made: tuple[str, Path]) -> None:
        assert_same(read(made[1]), read(made[1]))

    def test_gives_trajectories(self, made: tuple[str, Path]) -> None:
        _, path = made
        with open_recording(path) as recording:
            data = select(recording, DataConfig(path=path)).trajectories
            assert data.lengths.tolist() == recording.lengths.tolist()
            assert data.observation.shape[0] == data.action.shape[0] == recording.lengths.sum()

    def test_survives_conversion(self, made: tuple[str, Path], tmp_path: Path) -> None:
        """Every array of numbers, exactly; and what training gets of it."""
        _, path = made
        convert(path, tmp_path / "converted.h5")
        before, after = read(path), read(tmp_path / "converted.h5")
        with open_recording(path) as recording:
            actions = aligned(recording, choose(recording, None), "auto").action[slice(None)]
        numbers = {name: values for name, values in before.items() if values.dtype.kind in "biuf"}
        assert_same(numbers | {"action": actions}, after)
        assert_same(selected(path), selected(tmp_path / "converted.h5"))
        with open_recording(path) as one, open_recording(tmp_path / "converted.h5") as other:
            assert other.format == Canonical.name
            assert other.lengths.tolist() == one.lengths.tolist()
            assert (None if one.held_out is None else one.held_out.tolist()) == (
                None if other.held_out is None else other.held_out.tolist()
            )

    def test_does_not_change_what_it_reads(self, made: tuple[str, Path]) -> None:
        _, path = made
        files = format_of(path).files(path)
        before = {file: file.read_bytes() for file in files}
        read(path)
        assert format_of(path).files(path) == files
        assert {file: file.read_bytes() for file in files} == before

    def test_works_through_a_link(self, made: tuple[str, Path], tmp_path: Path) -> None:
        name, path = made
        link = tmp_path / f"link{path.suffix}"
        link.symlink_to(path)
        assert format_of(link).name == ALL[name].format
        assert_same(read(link), read(path))

    def test_works_in_a_place_of_any_name(self, made: tuple[str, Path], tmp_path: Path) -> None:
        name, path = made
        place = tmp_path / "ümlaut, blank #1%20 [x] *"
        place.mkdir()
        moved = place / f"data ü*{path.suffix}"
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, moved)
        assert format_of(moved).name == ALL[name].format
        assert_same(read(moved), read(path))


@pytest.mark.parametrize("name", SAMPLES)
def test_values_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    """Read shifted by a row, padded, transposed or mixed up between episodes, they would not be."""
    sample = SAMPLES[name]
    path = sample_at(name, tmp_path)
    got = read(path)
    np.testing.assert_array_equal(got["observation"], SEEN, strict=True)
    np.testing.assert_array_equal(got["action"][~LAST], ACTION[~LAST], strict=True)
    if "reward" in got:
        np.testing.assert_array_equal(got["reward"][~LAST], REWARD[~LAST])
    assert ("reward" in got) == (name != "DINO-WM")
    assert ("pixels" in got) == sample.pixels
    if sample.pixels:
        np.testing.assert_array_equal(got["pixels"], PIXELS, strict=True)
    with open_recording(path) as recording:
        assert recording.lengths.tolist() == list(LENGTHS)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Makes the samples' observations so wide that they are nearly all of a file; yields their bytes."""
    values = np.random.default_rng(0).normal(size=(ROWS, 50_000)).astype(np.float32)
    monkeypatch.setattr(written, "SEEN", values)
    return values.nbytes


@pytest.mark.skipif(not IO.exists(), reason="needs Linux' count of what a process has read")
@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in READS_ALL])
def test_opening_reads_no_column(name: str, wide: int, tmp_path: Path) -> None:
    def bytes_read() -> int:
        return int(IO.read_text().split()[1])

    path = sample_at(name, tmp_path)
    with open_recording(path):  # imports what it needs
        pass
    tracemalloc.start()
    before = bytes_read()
    with open_recording(path) as recording:
        opened, (_, most) = bytes_read() - before, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert max(opened, most) < wide / 4, (opened, most)
        assert recording.columns["observation"][slice(None)].nbytes == wide  # the control: it could be read
