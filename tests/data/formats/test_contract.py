"""The contract of all readers: one class of tests, run on a sample of every format.

`SAMPLES` are written by the tests and contain known episodes; `REAL` were written by the formats' own libraries. A test
fails if a format in `FORMATS` has no sample.
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
from jepa_ray.data.selection import align_actions, choose_columns, select

FILES = Path(__file__).parents[1] / "files"
IO = Path("/proc/self/io")  # Linux: number of bytes that this process has read


def ogbench(folder: Path) -> Path:
    with np.load(FILES / "ogbench_expected.npz") as kept:
        arrays = {name.removeprefix("file_"): kept[name] for name in kept if name.startswith("file_")}
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def stored(name: str) -> Callable[[Path], Path]:
    return lambda folder: FILES / name


REAL: dict[str, Sample] = {
    "real swm HDF5": Sample("canonical HDF5", stored("swm_tworoom.h5")),
    "real swm folder": Sample("stable-worldmodel folder", stored("swm_folder")),
    "real Lance": Sample("Lance table", stored("swm_small.lance"), needs="lance"),
    "real OGBench": Sample("OGBench", ogbench),
    "real Minari HDF5": Sample("Minari", unzipped("minari", "pendulum_hdf5")),
    "real Minari Arrow, images": Sample("Minari", unzipped("minari", "sights_arrow_jpeg"), needs="pyarrow"),
    "real Minari HDF5, images": Sample("Minari", unzipped("minari", "sights_hdf5_jpeg")),
    "real LeRobot": Sample("LeRobot v3", unzipped("lerobot", "vectors"), needs="pyarrow"),
    "real LeRobot, images": Sample("LeRobot v3", unzipped("lerobot", "images"), needs="pyarrow"),
    "real LeRobot, videos": Sample("LeRobot v3", unzipped("lerobot", "videos"), needs="av"),
}
ALL = SAMPLES | REAL

# These readers read all states to find the ends of episodes. (Mapped pages of Arrow files do not count as reads.)
READS_ALL = {"transitions h5", "transitions pt"}


def sample_at(name: str, folder: Path) -> Path:
    """Write the dataset to its own folder. Skips the test if a library is missing."""
    needed = ALL[name].needs
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    return ALL[name].write(folder)


@pytest.fixture(scope="module", params=ALL)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and path of a sample; tests must not change it."""
    return request.param, sample_at(request.param, tmp_path_factory.mktemp("sample"))


def read(path: Path) -> dict[str, np.ndarray]:
    with open_recording(path) as recording:
        return {name: column[slice(None)] for name, column in recording.columns.items()}


def selected(path: Path) -> dict[str, np.ndarray]:
    """The data that training would use."""
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
    def test_format_is_detected_uniquely(self, made: tuple[str, Path]) -> None:
        """No other format recognises the sample, except canonical HDF5, which recognises every HDF5 file."""
        name, path = made
        seen = peek(path)
        matches = [known for known in FORMATS if known.recognises(seen)]
        assert matches[0].name == format_of(path).name == ALL[name].format
        assert all(isinstance(known, Canonical) for known in matches[1:])

    def test_lists_its_files(self, made: tuple[str, Path]) -> None:
        """All listed files exist, without duplicates and in a fixed order: the name of a cache depends on them."""
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
            description = describe(recording)
        assert description.refusal is None
        assert description.format == ALL[name].format
        assert description.actions is not None
        assert description.alignment is not None
        assert description.rows == description.transitions + description.trajectories
        assert all(column.values is not None for column in description.columns if column.dtype in ("uint8", "float32"))

    def test_columns_have_equal_lengths(self, made: tuple[str, Path]) -> None:
        _, path = made
        with open_recording(path) as recording:
            rows = int(recording.lengths.sum())
            assert {column.shape[0] for column in recording.columns.values()} == {rows}
            np.testing.assert_array_equal(recording.offsets, np.cumsum(recording.lengths) - recording.lengths)
            for column in recording.columns.values():
                got = column[slice(None)]
                assert (got.shape, got.dtype) == (column.shape, column.dtype)

    @pytest.mark.parametrize("step", [1, 3, 7, 1000])
    def test_slices_equal_the_whole_column(self, made: tuple[str, Path], step: int) -> None:
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

    def test_reading_twice_gives_the_same_values(self, made: tuple[str, Path]) -> None:
        assert_same(read(made[1]), read(made[1]))

    def test_can_be_selected_for_training(self, made: tuple[str, Path]) -> None:
        _, path = made
        with open_recording(path) as recording:
            data = select(recording, DataConfig(path=path)).trajectories
            assert data.lengths.tolist() == recording.lengths.tolist()
            assert data.observation.shape[0] == data.action.shape[0] == recording.lengths.sum()

    def test_conversion_keeps_all_values(self, made: tuple[str, Path], tmp_path: Path) -> None:
        """All numeric arrays are equal, and so is the data that training would use."""
        _, path = made
        convert(path, tmp_path / "converted.h5")
        before, after = read(path), read(tmp_path / "converted.h5")
        with open_recording(path) as recording:
            actions = align_actions(recording, choose_columns(recording, None), "auto").action[slice(None)]
        numbers = {name: values for name, values in before.items() if values.dtype.kind in "biuf"}
        assert_same(numbers | {"action": actions}, after)
        assert_same(selected(path), selected(tmp_path / "converted.h5"))
        with open_recording(path) as one, open_recording(tmp_path / "converted.h5") as other:
            assert other.format == Canonical.name
            assert other.lengths.tolist() == one.lengths.tolist()
            assert (None if one.held_out is None else one.held_out.tolist()) == (
                None if other.held_out is None else other.held_out.tolist()
            )

    def test_reading_does_not_change_the_files(self, made: tuple[str, Path]) -> None:
        _, path = made
        files = format_of(path).files(path)
        before = {file: file.read_bytes() for file in files}
        read(path)
        assert format_of(path).files(path) == files
        assert {file: file.read_bytes() for file in files} == before

    def test_link_to_the_dataset_is_read(self, made: tuple[str, Path], tmp_path: Path) -> None:
        name, path = made
        link = tmp_path / f"link{path.suffix}"
        link.symlink_to(path)
        assert format_of(link).name == ALL[name].format
        assert_same(read(link), read(path))

    def test_paths_with_special_characters_are_read(self, made: tuple[str, Path], tmp_path: Path) -> None:
        name, path = made
        place = tmp_path / "ümlaut, blank #1%20 [x] *"
        place.mkdir()
        moved = place / f"data ü*{path.suffix}"
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, moved)
        assert format_of(moved).name == ALL[name].format
        assert_same(read(moved), read(path))


@pytest.mark.parametrize("name", SAMPLES)
def test_values_equal_the_written_values(name: str, tmp_path: Path) -> None:
    """Fails for values that are shifted by a row, padded, transposed, or mixed up between episodes."""
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
def wide_observations(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the observations of the samples so wide that they dominate the size of a file; yields their bytes."""
    values = np.random.default_rng(0).normal(size=(ROWS, 50_000)).astype(np.float32)
    monkeypatch.setattr(written, "SEEN", values)
    return values.nbytes


@pytest.mark.skipif(not IO.exists(), reason="needs Linux, which counts the bytes that a process reads")
@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in READS_ALL])
def test_opening_a_dataset_reads_no_column(name: str, wide_observations: int, tmp_path: Path) -> None:
    def bytes_read() -> int:
        return int(IO.read_text().split()[1])

    path = sample_at(name, tmp_path)
    with open_recording(path):  # imports the needed modules
        pass
    tracemalloc.start()
    before = bytes_read()
    with open_recording(path) as recording:
        opened, (_, peak) = bytes_read() - before, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert max(opened, peak) < wide_observations / 4, (opened, peak)
        # Control: the column can be read.
        assert recording.columns["observation"][slice(None)].nbytes == wide_observations
