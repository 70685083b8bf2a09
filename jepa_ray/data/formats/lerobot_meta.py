"""What a LeRobot dataset of version 3 says of itself: meta/info.json and meta/episodes, held against each other.

Data and videos are not opened here; where they lie is told by a `Template`, which does not lead out of the folder.
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
MAX_INFO_BYTES = 16 << 20  # bytes of it that are read
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PLACEHOLDER = re.compile(r"\{(\w+)(?::0(\d)d)?\}")
CONVERSION = "python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=USER/NAME --push-to-hub=false --root="
FRAMES = ("image", "video")
ROWS = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
PLACE = ("chunk_index", "file_index")
OVERLAP = 0.01  # seconds that two episodes may share of a video by rounding

Ints = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Feature:
    """A column, as `info.json` describes it."""

    key: str
    dtype: str
    shape: Shape
    depth: bool = False  # whether it is frames of distances

    def check_frames(self, file: Path, shape: Shape) -> None:
        """Raise `DataError` unless frames (H, W, C) are what is described, in whichever order of the axes."""
        if self.shape not in (shape, (shape[2], *shape[:2])):
            raise DataError(f"{file}: {self.key} has frames of shape {shape}, but {INFO} describes {self.shape}")


@dataclass(frozen=True)
class Template:
    """Where files lie, as `info.json` tells it."""

    root: Path
    text: str

    def file(self, **values: int | str) -> Path:
        """The file of these values. Raises `DataError` unless it is there, and not behind a link to a folder."""
        path = Path(PLACEHOLDER.sub(lambda found: str(values[found[1]]).zfill(int(found[2] or 0)), self.text))
        for folder in path.parents[:-1]:
            if (self.root / folder).is_symlink():  # its files would not be among those by which changes are noticed
                raise DataError(f"{self.root / folder}: is a link to another folder, which is not followed")
        if not (self.root / path).is_file():
            raise DataError(f"{self.root / path}: is missing, or is a link to nothing")
        return self.root / path


@dataclass(frozen=True)
class Episodes:
    """E episodes, one after another."""

    columns: Mapping[str, NDArray[Any]]  # (E,) each, as the tables name them

    @property
    def lengths(self) -> Ints:
        """(E,) rows of each."""
        return self.columns["length"]

    @property
    def offsets(self) -> Ints:
        """(E,) first row of each."""
        return self.columns["dataset_from_index"]

    def places(self, of: str) -> Ints:
        """(E, 2) chunk and file in which the episodes of `data` or `videos/KEY` lie."""
        return np.column_stack([self.columns[f"{of}/{name}"] for name in PLACE])

    def spans(self, of: str) -> NDArray[np.float64]:
        """(E, 2) seconds of the video from which and up to which an episode's frames are."""
        return np.column_stack([self.columns[f"{of}/{end}_timestamp"] for end in ("from", "to")])


def read_info(path: Path) -> dict[str, Any]:
    """`info.json`. Raises `DataError` for other versions than 3."""
    file = path / INFO
    if file.stat().st_size > MAX_INFO_BYTES:
        raise DataError(f"{file}: has {file.stat().st_size:,} bytes, but at most {MAX_INFO_BYTES:,} are read")
    with readable(file, "JSON file"):
        info = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(info, dict):
        raise DataError(f"{file}: holds a {type(info).__name__}, but must hold an object")
    version = _value(file, info, "codebase_version", str)
    if not version.startswith("v3."):
        remedy = f"; LeRobot 0.5.1 or later converts it in place: {CONVERSION}{path}" if version == "v2.1" else ""
        raise DataError(f"{file}: codebase_version is {_short(version)}, but must be v3.0{remedy}")
    return info


def read_features(path: Path, info: Mapping[str, Any]) -> dict[str, Feature]:
    """All columns by their keys."""
    file = path / INFO
    features = {}
    for key, about in _value(file, info, "features", dict).items():
        if not isinstance(about, dict) or not key.isprintable():
            raise DataError(
                f"{file}: the feature {_short(key)} is {_short(about)}, but must be an object of a plain name"
            )
        dtype, shape = _value(file, about, "dtype", str), _value(file, about, "shape", list)
        if not dtype.isprintable():
            raise DataError(f"{file}: {key} has the dtype {_short(dtype)}, but must have a plain name")
        if not shape or any(type(side) is not int or side < 1 for side in shape):
            raise DataError(f"{file}: {key} has the shape {_short(shape)}, but must have sides of 1 or more")
        if dtype in FRAMES and len(shape) != 3:
            raise DataError(f"{file}: {key} has the shape {_short(shape)}, but frames have three sides")
        features[key] = Feature(key, dtype, tuple(shape), _is_depth(about))
    return features


def read_template(path: Path, info: Mapping[str, Any], key: str, usual: str) -> Template:
    """Raises `DataError` for one that leads out of the folder, or lacks chunk, file or camera."""
    text = _value(path / INFO, info, key, str)
    wanted, found = ({match[1] for match in PLACEHOLDER.finditer(one)} for one in (usual, text))
    rest = PLACEHOLDER.sub("0", text)
    outside = any(part == "" or part.startswith(".") for part in rest.split("/"))
    if found != wanted or outside or not rest.isprintable() or any(sign in rest for sign in "{}\\:"):
        raise DataError(f"{path / INFO}: {key} is {_short(text)}, but must lie in the dataset's folder, as {usual}")
    return Template(path, text)


def read_episodes(path: Path, info: Mapping[str, Any], cameras: list[str]) -> Episodes:
    """All tables of episodes as one, held against themselves and `info.json`."""
    at = path / "meta" / "episodes"
    files = sorted(at.glob("chunk-*/file-*.parquet"), key=_number)
    if not files:
        raise DataError(f"{at}: has no chunk-*/file-*.parquet")
    videos = [f"videos/{key}" for key in cameras]
    places = [f"{of}/{name}" for of in ("data", *videos) for name in PLACE]
    names: dict[str, np.dtype[Any]] = dict.fromkeys((*ROWS, *places), np.dtype(np.int64))
    names |= {f"{of}/{end}_timestamp": np.dtype(np.float64) for of in videos for end in ("from", "to")}
    parts = [_columns(file, names) for file in files]
    episodes = Episodes({name: np.concatenate([part[name] for part in parts]) for name in names})
    _check_totals(path, info, episodes)
    _check_rows(at, episodes)
    for of in videos:
        _check_spans(at, of, episodes)
    return episodes


def _value(file: Path, about: Mapping[str, Any], key: str, kind: type) -> Any:
    value = about.get(key)
    if type(value) is not kind:
        must = {str: "text", int: "an integer", dict: "an object", list: "a list"}[kind]
        raise DataError(
            f"{file}: {f'{key} is {_short(value)}' if key in about else f'lacks {key}'}, which must be {must}"
        )
    return value


def _short(value: object) -> str:
    return repr(value)[:80]


def _is_depth(about: Mapping[str, Any]) -> bool:
    """Whether a feature says so, at one of the places where versions of LeRobot wrote it."""
    tellers = [told for name in ("info", "video_info") if isinstance(told := about.get(name), dict)]
    return any(told.get(name) for told in tellers for name in ("is_depth_map", "video.is_depth_map"))


def _number(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", f"{file.parent.name}/{file.name}")]


def _columns(file: Path, names: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    """Columns of one table of episodes, as integers or floats."""
    about = read_footer(file)
    for name, dtype in names.items():
        depth, found = number_type(about.kind(name))
        if depth or found is None or found.kind not in ("iu" if dtype.kind == "i" else "iuf"):
            raise DataError(f"{file}: {name} is of type {about.kind(name)}, but must be {dtype}")
        about.check_claim(name, dtype.itemsize)
    with open_file(file) as opened:
        read = opened.read(columns=list(names))
        return {name: numbers(read.column(name).combine_chunks(), ()).astype(dtype) for name, dtype in names.items()}


def _check_totals(path: Path, info: Mapping[str, Any], episodes: Episodes) -> None:
    for key, found in (("total_episodes", len(episodes.lengths)), ("total_frames", int(episodes.lengths.sum()))):
        if _value(path / INFO, info, key, int) != found:
            raise DataError(f"{path / INFO}: {key} is {_short(info[key])}, but meta/episodes has {found}")
    if not len(episodes.lengths):
        raise DataError(f"{path}: has no episodes")


def _check_rows(at: Path, episodes: Episodes) -> None:
    """Raise `DataError` unless episodes follow one another without gaps, in files that can be."""
    lengths, columns = episodes.lengths, episodes.columns
    expected = {
        "length": np.maximum(lengths, 1),
        "episode_index": np.arange(len(lengths)),
        "dataset_from_index": np.cumsum(lengths) - lengths,
        "dataset_to_index": np.cumsum(lengths),
        **{name: np.maximum(column, 0) for name, column in columns.items() if name.endswith(PLACE)},
    }
    for name, wanted in expected.items():
        wrong = np.flatnonzero(columns[name] != wanted)
        if len(wrong):
            row = wrong[0]
            raise DataError(f"{at}: {name} of episode {row} is {columns[name][row]}, but must be {wanted[row]}")


def _check_spans(at: Path, of: str, episodes: Episodes) -> None:
    """Raise `DataError` for episodes without frames in their video, or that share them."""
    start, end = episodes.spans(of).T
    wrong = np.flatnonzero(~((start >= 0) & (end > start) & np.isfinite(end)))
    if len(wrong):
        row = wrong[0]
        raise DataError(f"{at}: {of} of episode {row} is from {start[row]} to {end[row]} s, which is no time")
    places = episodes.places(of)
    order = np.lexsort((start, *places.T))
    same = (np.diff(places[order], axis=0) == 0).all(axis=1)
    wrong = np.flatnonzero(same & (start[order][1:] < end[order][:-1] - OVERLAP))
    if len(wrong):
        one, other = order[wrong[0]], order[wrong[0] + 1]
        raise DataError(f"{at}: {of} of episodes {one} and {other} overlap, at {start[other]} s")
