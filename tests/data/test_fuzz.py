"""Damaged files and folders of every format are either read or refused in one line.

`JEPA_RAY_FUZZ=2000 pytest tests/data/test_fuzz.py` runs 2000 cases per sample. An incorrect reader would raise an error
that is not a `DataError` (such as a panic of Lance, which is not an `Exception`), hang, or be killed by a signal.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from helpers.written import SAMPLES, unzipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_ray.config import DataConfig
from jepa_ray.data.commands.info import describe
from jepa_ray.data.formats import open_recording
from jepa_ray.data.selection import select
from jepa_ray.errors import DataError

CASES = int(os.environ.get("JEPA_RAY_FUZZ", "15"))
SECONDS = 60  # time limit of a case; valid cases take a fraction of it, even on a busy machine

pytestmark = pytest.mark.timeout(0)  # the plugin uses SIGALRM, which `time_limit` needs


WRITERS: dict[str, Callable[[Path], Path]] = {
    **{name: sample.write for name, sample in SAMPLES.items()},
    **{f"LeRobot {name}": unzipped("lerobot", name) for name in ("vectors", "images", "videos")},
}
NEEDS = {name: sample.needs for name, sample in SAMPLES.items()} | {"LeRobot videos": "av"}
FOLDERS = ("arrays npy", "DINO-WM", "swm folder", "Lance", "Minari HDF5", "Minari Arrow", "LeRobot vectors",
           "LeRobot images", "LeRobot videos")  # fmt: skip
FILES = tuple(name for name in WRITERS if name not in FOLDERS)


class TimeLimitExceeded(BaseException):
    """A case takes too long. Not an `Exception`, so that no reader reports it as a damaged dataset."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `TimeLimitExceeded` after `SECONDS`."""
    alarms = []

    def ring(number: int, frame: FrameType | None) -> None:
        alarms.append(number)
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not alarms, "took too long, and the exception was caught"


def select_and_read(path: Path) -> None:
    with open_recording(path) as recording:
        selection = select(recording, DataConfig(path=path))
        for column in selection.trajectories.columns().values():
            assert len(column[slice(0, column.shape[0])]) == column.shape[0]


def describe_dataset(path: Path) -> None:
    with open_recording(path) as recording:
        describe(recording)


def assert_read_or_refused(path: Path) -> None:
    """Assert that a damaged dataset is read, or refused with one line that names its path."""
    for use in (select_and_read, describe_dataset):
        with time_limit():
            try:
                use(path)
            except DataError as error:
                message = str(error)
            else:
                continue
        assert "\n" not in message
        assert str(path) in message


def made(name: str, folder: Path) -> Path:
    needed = NEEDS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    path = WRITERS[name](folder)
    select_and_read(path)  # control: the undamaged dataset is read
    describe_dataset(path)
    return path


places = st.floats(0, 1, exclude_max=True)  # relative position in a file or in a list of files
bytewise = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)
keeps = st.one_of(st.just(1.0), st.floats(0, 1))
often = settings(deadline=None, max_examples=CASES, suppress_health_check=list(HealthCheck))


def damaged(content: bytes, changes: list[tuple[float, int]], keep: float) -> bytes:
    out = bytearray(content)
    for place, value in changes if content else []:
        out[int(place * len(out))] = value
    return bytes(out[: int(keep * len(out))])


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(request.param, tmp_path_factory.mktemp("fuzz"))


@often
@given(changes=bytewise, keep=keeps)
def test_damaged_file_is_read_or_refused(file: Path, changes: list[tuple[float, int]], keep: float) -> None:
    path = file.with_name(f"damaged-{file.name}")
    path.write_bytes(damaged(file.read_bytes(), changes, keep))
    assert_read_or_refused(path)


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(request.param, tmp_path_factory.mktemp("fuzz"))


@often
@given(
    what=st.sampled_from(["bytes", "bytes", "bytes", "bytes", "swap", "copy", "delete", "rename", "folder", "circle"]),
    which=places,
    other=places,
    changes=bytewise,
    keep=keeps,
)
def test_damaged_folder_is_read_or_refused(
    folder: Path, what: str, which: float, other: float, changes: list[tuple[float, int]], keep: float
) -> None:
    path = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder, path)
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    one, two = files[int(which * len(files))], files[int(other * len(files))]
    match what:
        case "bytes":
            one.write_bytes(damaged(one.read_bytes(), changes, keep))
        case "swap":
            content = one.read_bytes()
            one.write_bytes(two.read_bytes())
            two.write_bytes(content)
        case "copy":
            one.write_bytes(two.read_bytes())
        case "delete":
            one.unlink()
        case "rename":
            one.rename(one.with_name(f"{one.stem}{changes[0][1]}{one.suffix}"))
        case "folder":
            one.unlink()
            one.mkdir()
        case "circle":
            one.unlink()
            one.symlink_to(one)
    assert_read_or_refused(path)
