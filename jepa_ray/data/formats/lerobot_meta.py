"""The metadata of a LeRobot dataset of version 3: meta/info.json and meta/episodes, checked for consistency.

Data and videos are not opened here. A `Template` gives their paths; it cannot lead out of the dataset's folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.parquet import number_type, numbers, open_file, read_footer
from jepa_ray.data.formats.peek import readable
from jepa_ray.errors import DataError

INFO = "meta/info.json"
MAX_INFO_BYTES = 16 << 20  # maximum size of the info file in bytes
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PLACEHOLDER = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
CONVERSION = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=USER/NAME --push-to-hub=false --root="
FRAMES = ("image", "video")
ROW_COLUMNS = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
FILE_COLUMNS = ("chunk_index", "file_index")
MAX_OVERLAP = 0.01  # seconds by which two episodes may overlap in a video, due to rounding

Ints = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Feature:
    """A column, as described in `info.json`."""

    key: str
    dtype: str
    shape: Shape
    depth: bool = False  # whether the frames are depth maps

    def check_frames(self, file: Path, shape: Shape) -> None:
        """Raise `DataError` unless frames (H, W, C) have the described shape; channels may come first or last in it."""
        if self.shape not in (shape, (shape[2], *shape[:2])):
            raise DataError(f"{file}: {self.key} has frames of shape {shape}, but by {INFO} must have {self.shape}")


@dataclass(frozen=True)
class Template:
    """A pattern for the paths of files, from `info.json`."""

    root: Path
    text: str

    def file(self, **values: int | str) -> Path:
        """The path for these values. Raises `DataError` unless the file exists and no folder of its path is a link."""
        path = Path(PLACEHOLDER.sub(lambda found: str(values[found[1]]).zfill(int(found[2] or 0)), self.text))
        for folder in path.parents[:-1]:
            # `LeRobot.files` does not list the files behind a link, so changes would go unnoticed.
            if (self.root / folder).is_symlink():
                raise DataError(f"{self.root / folder}: is a link to another folder, which is not followed")
        if not (self.root / path).is_file():
            raise DataError(f"{self.root / path}: is missing, or is a broken link")
        return self.root / path


@dataclass(frozen=True)
class Episodes:
    """E consecutive episodes."""

    columns: Mapping[str, NDArray[Any]]  # columns (E,) of meta/episodes, by their names there

    @property
    def lengths(self) -> Ints:
        """(E,) rows of each episode."""
        return self.columns["length"]

    @property
    def offsets(self) -> Ints:
        """(E,) first row of each episode."""
        return self.columns["dataset_from_index"]

    def file_indices(self, of: str) -> Ints:
        """(E, 2) chunk and file index of each episode, for `data` or `videos/KEY`."""
        return np.column_stack([self.columns[f"{of}/{name}"] for name in FILE_COLUMNS])

    def spans(self, of: str) -> NDArray[np.float64]:
        """(E, 2) start and end of each episode in its video, in seconds."""
        return np.column_stack([self.columns[f"{of}/{end}_timestamp"] for end in ("from", "to")])


def read_info(path: Path) -> dict[str, Any]:
    """Read `info.json`. Raises `DataError` for versions other than 3."""
    file = path / INFO
    if file.stat().st_size > MAX_INFO_BYTES:
        raise DataError(f"{file}: has {file.stat().st_size:,} bytes, but must have at most {MAX_INFO_BYTES:,}")
    with readable(file, "JSON file"):
        info = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(info, dict):
        raise DataError(f"{file}: contains a {type(info).__name__}, but must contain an object")
    version = _require(file, info, "codebase_version", str)
    if not version.startswith("v3."):
        remedy = f": convert it in place with LeRobot 0.5.1 or later: {CONVERSION}{path}" if version == "v2.1" else ""
        raise DataError(f"{file}: codebase_version is {_shorten(version)}, but must be v3.0{remedy}")
    return info


def read_features(path: Path, info: Mapping[str, Any]) -> dict[str, Feature]:
    """All features by their keys. Raises `DataError` for an invalid description."""
    file = path / INFO
    features = {}
    for key, about in _require(file, info, "features", dict).items():
        if not isinstance(about, dict) or not key.isprintable():
            raise DataError(
                f"{file}: the feature {_shorten(key)} is {_shorten(about)}, but must be an object with a printable name"
            )
        dtype, shape = _require(file, about, "dtype", str), _require(file, about, "shape", list)
        if not dtype.isprintable():
            raise DataError(f"{file}: {key} has dtype {_shorten(dtype)}, but that must be a printable name")
        if not shape or any(type(side) is not int or side < 1 for side in shape):
            raise DataError(
                f"{file}: {key} has shape {_shorten(shape)}, but that must be a list of integers of at least 1"
            )
        if dtype in FRAMES and len(shape) != 3:
            raise DataError(f"{file}: {key} has shape {_shorten(shape)}, but the shape of frames must have three axes")
        features[key] = Feature(key, dtype, tuple(shape), _is_depth(about))
    return features


def read_template(path: Path, info: Mapping[str, Any], key: str, usual: str) -> Template:
    """Read a template. Raises `DataError` if it leads out of the folder, or lacks a placeholder of `usual`."""
    text = _require(path / INFO, info, key, str)
    wanted, found = ({match[1] for match in PLACEHOLDER.finditer(one)} for one in (usual, text))
    rest = PLACEHOLDER.sub("0", text)
    outside = any(part == "" or part.startswith(".") for part in rest.split("/"))
    if found != wanted or outside or not rest.isprintable() or any(sign in rest for sign in "{}\\:"):
        raise DataError(
            f"{path / INFO}: {key} is {_shorten(text)}, but must be a path inside the dataset's folder, such as {usual}"
        )
    return Template(path, text)


def read_episodes(path: Path, info: Mapping[str, Any], cameras: list[str]) -> Episodes:
    """Read all tables of episodes. Raises `DataError` if they are inconsistent, or differ from `info.json`."""
    at = path / "meta" / "episodes"
    files = sorted(at.glob("chunk-*/file-*.parquet"), key=_file_number)
    if not files:
        raise DataError(f"{at}: lacks the files chunk-*/file-*.parquet")
    videos = [f"videos/{key}" for key in cameras]
    file_indices = [f"{of}/{name}" for of in ("data", *videos) for name in FILE_COLUMNS]
    names: dict[str, np.dtype[Any]] = dict.fromkeys((*ROW_COLUMNS, *file_indices), np.dtype(np.int64))
    names |= {f"{of}/{end}_timestamp": np.dtype(np.float64) for of in videos for end in ("from", "to")}
    parts = [_read_columns(file, names) for file in files]
    episodes = Episodes({name: np.concatenate([part[name] for part in parts]) for name in names})
    _check_totals(path, info, episodes)
    _check_rows(at, episodes)
    for of in videos:
        _check_spans(at, of, episodes)
    return episodes


def _require(file: Path, about: Mapping[str, Any], key: str, kind: type) -> Any:
    value = about.get(key)
    if type(value) is not kind:
        must = {str: "text", int: "an integer", dict: "an object", list: "a list"}[kind]
        raise DataError(
            f"{file}: {f'{key} is {_shorten(value)}, but' if key in about else f'lacks {key}, which'} must be {must}"
        )
    return value


def _shorten(value: object) -> str:
    return repr(value)[:80]


def _is_depth(about: Mapping[str, Any]) -> bool:
    """Whether a feature is marked as depth; versions of LeRobot store the mark in different places."""
    sections = [section for name in ("info", "video_info") if isinstance(section := about.get(name), dict)]
    return any(section.get(name) for section in sections for name in ("is_depth_map", "video.is_depth_map"))


def _file_number(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", f"{file.parent.name}/{file.name}")]


def _read_columns(file: Path, names: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    """The columns `names` of one table of episodes, as integers or floats."""
    about = read_footer(file)
    for name, dtype in names.items():
        depth, found = number_type(about.kind(name))
        if depth or found is None or found.kind not in ("iu" if dtype.kind == "i" else "iuf"):
            raise DataError(f"{file}: {name} has type {about.kind(name)}, but must be {dtype}")
        about.check_claimed_size(name, dtype.itemsize)
    with open_file(file) as opened:
        read = opened.read(columns=list(names))
        return {name: numbers(read.column(name).combine_chunks(), ()).astype(dtype) for name, dtype in names.items()}


def _check_totals(path: Path, info: Mapping[str, Any], episodes: Episodes) -> None:
    for key, found in (("total_episodes", len(episodes.lengths)), ("total_frames", int(episodes.lengths.sum()))):
        if _require(path / INFO, info, key, int) != found:
            raise DataError(f"{path / INFO}: {key} is {_shorten(info[key])}, but meta/episodes has {found}")
    if not len(episodes.lengths):
        raise DataError(f"{path}: contains no episodes, but must have at least 2")


def _check_rows(at: Path, episodes: Episodes) -> None:
    """Raise `DataError` unless episodes are consecutive without gaps, and all file indices are valid."""
    lengths, columns = episodes.lengths, episodes.columns
    expected = {
        "length": np.maximum(lengths, 1),
        "episode_index": np.arange(len(lengths)),
        "dataset_from_index": np.cumsum(lengths) - lengths,
        "dataset_to_index": np.cumsum(lengths),
        **{name: np.maximum(column, 0) for name, column in columns.items() if name.endswith(FILE_COLUMNS)},
    }
    for name, wanted in expected.items():
        wrong = np.flatnonzero(columns[name] != wanted)
        if len(wrong):
            row = wrong[0]
            raise DataError(f"{at}: {name} of episode {row} is {columns[name][row]}, but must be {wanted[row]}")


def _check_spans(at: Path, of: str, episodes: Episodes) -> None:
    """Raise `DataError` for episodes without any time in their video, or that overlap."""
    start, end = episodes.spans(of).T
    wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{at}: {of} of episode {row} is from {start[row]} to {end[row]} s, but must end after its start"
        )
    file_indices = episodes.file_indices(of)
    order = np.lexsort((start, *file_indices.T))
    same = (np.diff(file_indices[order], axis=0) == 0).all(axis=1)
    wrong = np.flatnonzero(same & (start[order][1:] < end[order][:-1] - MAX_OVERLAP))
    if len(wrong):
        one, other = order[wrong[0]], order[wrong[0] + 1]
        raise DataError(
            f"{at}: {of} of episodes {one} and {other} overlap at {start[other]} s, but must not share frames"
        )
