"""LeRobot datasets of version 3: parquet and mp4 files, each with many episodes. Read without the LeRobot library.

This module makes the columns; `lerobot_meta` reads the metadata.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_ray.data.columns import CHUNK_BYTES, Column, Concatenated, Mapped, SideBySide, chunks
from jepa_ray.data.formats.lerobot_meta import (
    DATA_PATH,
    FRAMES,
    INFO,
    VIDEO_PATH,
    Episodes,
    Feature,
    Shape,
    Template,
    read_episodes,
    read_features,
    read_info,
    read_template,
)  # fmt: skip
from jepa_ray.data.formats.parquet import ForwardReader, Table, number_type, numbers, read_footer
from jepa_ray.data.formats.peek import PARSER_ERRORS, Peek, files_below, short_reason
from jepa_ray.data.formats.video import TOLERANCE, Videos
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

NAMES = {"observation.state": "state", "next.reward": "reward", "actions": "action"}
VECTORS = ("action", "state")  # in these columns, single floats become vectors of width 1
ENVIRONMENT = "observation.environment_state"
COUNTERS = ("index", "episode_index", "frame_index")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's image mode, by number of channels
UINT8 = np.dtype(np.uint8)


class LeRobot:
    """LeRobot v3; `action[t]` is the action taken at observation t, which leads from row t to t + 1."""

    name = "LeRobot v3"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "folder" and (seen.path / INFO).is_file()

    def files(self, path: Path) -> list[Path]:
        return [file for file in files_below(path) if not file.relative_to(path).parts[0].startswith(".")]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        info = read_info(path)
        features = read_features(path, info)
        kept, notes = _select_features(features)
        episodes = read_episodes(path, info, [feature.key for feature in kept if feature.dtype == "video"])
        with ExitStack() as stack:
            source = _Source(path, _read_tables(path, info, episodes), episodes, stack)
            source.check_rows()
            columns: dict[str, Column] = {}
            for feature in kept:
                if feature.dtype == "video":
                    template = read_template(path, info, "video_path", VIDEO_PATH)
                    column = source.video(feature, template, features.get("timestamp"))
                else:
                    column = source.images(feature) if feature.dtype == "image" else source.numbers(feature)
                columns[_column_name(feature, kept)] = column
            yield Recording.consecutive(str(path), self.name, _add_observation(columns), episodes.lengths, notes=notes)


def _select_features(features: Mapping[str, Feature]) -> tuple[list[Feature], tuple[str, ...]]:
    """The features that become columns, and notes on the others."""
    kept, notes = [], []
    for key, feature in features.items():
        if feature.depth or not (feature.dtype in FRAMES or _is_number(feature.dtype)):
            notes.append(f"{key} is not read: it has type {'depth' if feature.depth else feature.dtype}")
        elif key not in COUNTERS:
            kept.append(feature)
    cameras = [feature.key for feature in kept if feature.dtype in FRAMES]
    if len(cameras) > 1 and "pixels" not in features:
        notes.append(
            f"pixels is {cameras[0]}; to use another camera, set data.observation to one of {', '.join(cameras[1:])}"
        )
    return kept, tuple(notes)


def _is_number(dtype: str) -> bool:
    with suppress(TypeError, ValueError, SyntaxError):
        return np.dtype(dtype).kind in "biuf"
    return False


def _column_name(feature: Feature, kept: list[Feature]) -> str:
    """The name of a column: the name of its role, unless another feature has that name."""
    first = next((other for other in kept if other.dtype in FRAMES), None)
    name = "pixels" if feature is first else NAMES.get(feature.key, feature.key)
    return feature.key if any(other.key == name for other in kept) else name


def _add_observation(columns: dict[str, Column]) -> dict[str, Column]:
    """Make `action` and `state` vectors, and add the robot's and the environment's state as `observation`."""
    for name in VECTORS:
        column = columns.get(name)
        if column is not None and len(column.shape) == 1 and column.dtype.kind == "f":
            columns[name] = Mapped(column, lambda block: block[:, None], (1,), column.dtype)
    parts = [columns[name] for name in ("state", ENVIRONMENT) if name in columns]
    if parts and "observation" not in columns:
        columns["observation"] = parts[0] if len(parts) == 1 and len(parts[0].shape) == 2 else SideBySide(parts)
    return columns


def _read_tables(path: Path, info: Mapping[str, Any], episodes: Episodes) -> list[Table]:
    """The data files in the order of their episodes. Raises `DataError` unless their rows match the episodes."""
    template = read_template(path, info, "data_path", DATA_PATH)
    file_indices = episodes.file_indices("data")
    starts = np.flatnonzero(np.append(True, (np.diff(file_indices, axis=0) != 0).any(axis=1)))
    if len(np.unique(file_indices[starts], axis=0)) < len(starts):
        raise DataError(f"{path}: meta/episodes returns to an earlier data file, but must list the files in order")
    tables = []
    for (chunk, file), rows in zip(
        file_indices[starts].tolist(), np.add.reduceat(episodes.lengths, starts), strict=True
    ):
        tables.append(read_footer(template.file(chunk_index=chunk, file_index=file)))
        if tables[-1].rows != rows:
            raise DataError(f"{tables[-1].path}: has {tables[-1].rows} rows, but by meta/episodes must have {rows}")
    return tables


class _Source:
    """Makes columns from tables and videos; files that they open are closed with `stack`."""

    def __init__(self, path: Path, tables: list[Table], episodes: Episodes, stack: ExitStack) -> None:
        self._path, self._tables, self._episodes, self._stack = path, tables, episodes, stack

    def check_rows(self) -> None:
        """Raise `DataError` unless the row, episode and frame numbers match meta/episodes."""
        offsets = self._episodes.offsets
        for name in COUNTERS:
            column = self.numbers(Feature(name, "int64", (1,)))
            for rows in chunks(column):
                row = np.arange(rows.start, rows.stop)
                episode = np.searchsorted(offsets, row, side="right") - 1
                expected = {"index": row, "episode_index": episode, "frame_index": row - offsets[episode]}[name]
                found = column[rows]
                if (found != expected).any():
                    at = int(np.argmax(found != expected))
                    must = f"must be {expected[at]} by meta/episodes"
                    raise DataError(f"{self._path}: {name} of row {row[at]} is {found[at]}, but {must}")

    def numbers(self, feature: Feature) -> Column:
        """A numeric column (N, *shape), or (N,) for single numbers."""
        dtype, single = np.dtype(feature.dtype), feature.shape == (1,)
        row_bytes = math.prod(feature.shape) * dtype.itemsize
        forward = self._forward(feature, max(1, min(1 << 16, CHUNK_BYTES // row_bytes)))
        parts: list[Column] = []
        for table in self._tables:
            depth, found = number_type(table.kind(feature.key))
            if found != dtype or (depth != len(feature.shape) and not (single and depth == 0)):
                must = f"by {INFO} must be {feature.dtype} {feature.shape}"
                raise DataError(f"{table.path}: {feature.key} has type {table.kind(feature.key)}, but {must}")
            table.check_claimed_size(feature.key, row_bytes)
            convert = partial(numbers, lists=feature.shape if depth else ())
            parts.append(_FilePart(feature.key, table, forward, convert, () if single else feature.shape, dtype))
        return self._joined(parts)

    def images(self, feature: Feature) -> Column:
        """Images (N, H, W, C) uint8, all of the size of the first one."""
        for table in self._tables:
            if not re.match(r"struct<(.*[<, ])?bytes: (large_)?binary", str(table.kind(feature.key))):
                raise DataError(
                    f"{table.path}: {feature.key} has type {table.kind(feature.key)}, but by {INFO} must be images"
                )
            table.check_claimed_size(feature.key, 1)
        first, forward = self._tables[0], self._forward(feature, 64)
        head = _FilePart(feature.key, first, forward, _image_shape, (3,), np.dtype(np.int64))
        shape = tuple(head[slice(0, 1)][0].tolist())
        feature.check_frames(first.path, shape)
        decode = partial(_decode_images, shape=shape)
        return self._joined([_FilePart(feature.key, table, forward, decode, shape, UINT8) for table in self._tables])

    def video(self, feature: Feature, template: Template, time: Feature | None) -> Column:
        """Frames (N, H, W, 3) uint8, decoded when they are read. All files must exist."""
        if time is None or time.shape != (1,) or not _is_number(time.dtype):
            raise DataError(
                f"{self._path / INFO}: lacks the numeric feature timestamp, which reading {feature.key} needs"
            )
        of, key = f"videos/{feature.key}", feature.key
        file_indices = [tuple(place) for place in self._episodes.file_indices(of).tolist()]
        files = {
            (c, f): template.file(video_key=key, chunk_index=c, file_index=f) for c, f in sorted(set(file_indices))
        }
        videos, times = Videos(), self.numbers(time)
        self._stack.callback(videos.close)
        shape = videos.shape(files[file_indices[0]])
        feature.check_frames(files[file_indices[0]], shape)
        spans = zip(self._episodes.offsets, self._episodes.lengths, self._episodes.spans(of).tolist(), strict=True)
        parts = [
            _VideoEpisode(videos, files[place], times, int(offset), (int(rows), *shape), start, end)
            for place, (offset, rows, (start, end)) in zip(file_indices, spans, strict=True)
        ]
        return Concatenated(parts, self._episodes.lengths)

    def _forward(self, feature: Feature, batch_rows: int) -> ForwardReader:
        forward = ForwardReader(feature.key, batch_rows)
        self._stack.callback(forward.close)
        return forward

    def _joined(self, parts: list[Column]) -> Column:
        return Concatenated(parts, np.array([table.rows for table in self._tables], np.int64))


@dataclass(frozen=True)
class _FilePart:
    """The rows of a column in one file."""

    key: str
    table: Table
    forward: ForwardReader
    convert: Callable[[Any], NDArray[Any]]  # converts an Arrow array to n rows of shape `tail`
    tail: Shape
    dtype: np.dtype[Any]

    @property
    def shape(self) -> Shape:
        return (self.table.rows, *self.tail)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.table.rows)
        out = np.empty((max(0, stop - start), *self.tail), self.dtype)
        try:
            done = 0
            for piece in self.forward.read(self.table, start, stop):
                out[done : done + len(piece)] = self.convert(piece).reshape(len(piece), *self.tail)
                done += len(piece)
        except (*PARSER_ERRORS, Image.DecompressionBombError) as error:
            raise DataError(f"{self.table.path}: {self.key} cannot be read ({short_reason(error)})") from error
        return out


@dataclass(frozen=True)
class _VideoEpisode:
    """The frames of an episode in a video."""

    videos: Videos
    file: Path
    times: Column  # (N,) for all rows of the dataset: seconds since the start of the episode
    offset: int  # the episode's first row
    shape: Shape
    start: float  # start of the episode, in seconds of the video
    end: float  # end of the episode, in seconds of the video

    @property
    def dtype(self) -> np.dtype[Any]:
        return UINT8

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        if start >= stop:
            return np.empty((0, *self.shape[1:]), UINT8)
        times = self.start + self.times[slice(self.offset + start, self.offset + stop)].astype(np.float64)
        inside = (times >= self.start - TOLERANCE) & (times <= self.end + TOLERANCE)
        if not inside.all() or (np.diff(times) <= 0).any():
            at = f"timestamp of rows {self.offset + start} to {self.offset + stop}"
            raise DataError(
                f"{self.file}: {at} does not increase within the {self.end - self.start:.4f} s of their episode"
            )
        return self.videos.read(self.file, times, self.shape[1:])


def _image_shape(values: Any) -> NDArray[np.int64]:
    """(n, 3) height, width and channels, from the headers of the images."""
    shapes = []
    for file in _image_files(values):
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as image:
            shapes.append((image.height, image.width, len(image.getbands())))
    return np.array(shapes, np.int64).reshape(-1, 3)


def _decode_images(values: Any, shape: Shape) -> NDArray[np.uint8]:
    """Decode images to (n, *shape). Raises `ValueError` for an image of another shape, before decoding it."""
    out = np.empty((len(values), *shape), np.uint8)
    for row, file in enumerate(_image_files(values)):
        with Image.open(io.BytesIO(file), formats=("PNG", "JPEG")) as image:
            if (image.height, image.width) != shape[:2] or image.mode != MODES.get(shape[2]):
                raise ValueError(
                    f"has an image of {image.height} x {image.width} pixels and mode {image.mode}, not of shape {shape}"
                )
            out[row] = np.asarray(image).reshape(shape)
    return out


def _image_files(values: Any) -> list[bytes]:
    """The image files in an Arrow array, as LeRobot embeds them."""
    files = values.field("bytes")
    if values.null_count or files.null_count:
        raise ValueError("has an image that is stored in another file, but must be embedded")
    return list(files.to_pylist())
