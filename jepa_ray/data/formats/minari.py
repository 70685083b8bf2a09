"""Minari datasets: `data/metadata.json` and HDF5 or Arrow files; T + 1 observations and T actions per episode."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_ray.data.columns import Column, Concatenated, Mapped
from jepa_ray.data.formats.hdf5 import DatasetColumn, open_file
from jepa_ray.data.formats.peek import PARSER_ERRORS, Peek, files_below, readable, short_reason
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

JPEG = b"\xff\xd8\xff"  # first bytes of every JPEG file
MAIN = "main_data.hdf5"
PART = "part-0.arrow"
Space = dict[str, Any]


@dataclass(frozen=True)
class Leaf:
    """One array, which exists in every episode."""

    key: str  # Minari's name on disk: observations, actions or rewards
    at: tuple[str, ...] = ()  # path in nested Dict and Tuple spaces: keys and indices as on disk
    kind: str = "Reward"  # the type of its space
    tail: tuple[int, ...] = ()  # shape of a row, according to its space
    image: bool = False  # whether a row is an image, according to its space
    jpeg: bool = False  # whether it may be stored as a JPEG file; Minari does not encode small images


Reader = Callable[[int, Leaf], Column]  # (episode, leaf) -> its (T,) or (T + 1,) rows


class Minari:
    """Minari datasets, read without the Minari library; `action[t]` leads from row t to t + 1."""

    name = "Minari"

    def recognises(self, seen: Peek) -> bool:
        if seen.kind != "folder":
            return False
        inside = not seen.names.isdisjoint((MAIN, "0"))  # other formats have a metadata.json too
        return (seen.path / "data" / "metadata.json").is_file() or (seen.has("metadata.json") and inside)

    def files(self, path: Path) -> list[Path]:
        return files_below(_data_folder(path))

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        folder = _data_folder(path)
        about = _read_metadata(folder / "metadata.json")
        count, kind = about.get("total_episodes"), about.get("data_format", "hdf5")
        if type(count) is not int or count < 1:
            raise DataError(f"{path}: total_episodes in metadata.json is {count!r}, but must be a positive integer")
        if kind == "hdf5":
            with open_file(_require_file(folder / MAIN)) as file:
                _check_episodes(path, count, (name for name in file if name.startswith("episode_")), "episode_")
                yield _recording(
                    path, count, _all_leaves(path, about, "_index_"), partial(_hdf5_column, file, folder / MAIN)
                )
        elif kind == "arrow":
            _check_episodes(path, count, (entry.name for entry in folder.iterdir() if entry.name.isdecimal()), "")
            yield _recording(path, count, _all_leaves(path, about, ""), partial(_arrow_column, folder))
        else:
            raise DataError(f"{path}: data_format in metadata.json is {kind!r}, but must be hdf5 or arrow")


def _data_folder(path: Path) -> Path:
    return path / "data" if (path / "data" / "metadata.json").is_file() else path


def _read_metadata(path: Path) -> dict[str, Any]:
    with readable(path, "JSON file"):
        about = json.loads(path.read_text())
    if not isinstance(about, dict):
        raise DataError(f"{path}: contains a {type(about).__name__}, but must contain an object")
    return about


def _require_file(path: Path) -> Path:
    """`path` if it is a regular file or a link to one; else raises `DataError`: opening a pipe would wait forever."""
    if not path.is_file():
        raise DataError(f"{path}: is missing, or is a broken link")
    return path


def _check_episodes(path: Path, count: int, names: Iterable[str], prefix: str) -> None:
    """Compare metadata.json with the existing episodes; time and memory depend only on the latter."""
    found = set(names)
    missing = next((episode for episode in range(count) if f"{prefix}{episode}" not in found), None)
    if missing is not None:
        raise DataError(f"{path}: lacks episode_{missing}, but total_episodes in metadata.json is {count}")
    if len(found) > count:
        raise DataError(f"{path}: has {len(found)} episodes, but total_episodes in metadata.json is {count}")


def _all_leaves(path: Path, about: dict[str, Any], index: str) -> list[Leaf]:
    """All leaves of both spaces, observations first; `index` is the prefix of a Tuple's index on disk."""
    leaves = []
    for key in ("observation", "action"):
        if f"{key}_space" not in about:
            raise DataError(
                f"{path}: metadata.json lacks {key}_space: convert the dataset with a newer version of Minari"
            )
        leaves += list(_leaves(f"{key}s", json.loads(about[f"{key}_space"]), index))
    jpeg = about.get("jpeg_encoding", True) is not False
    return [replace(leaf, jpeg=leaf.image and jpeg) for leaf in leaves]


def _leaves(key: str, space: Space, index: str, at: tuple[str, ...] = ()) -> Iterator[Leaf]:
    inner = space.get("subspaces")
    if inner is None:
        tail = _row_shape(space)
        yield Leaf(key, at, space["type"], tail, space.get("dtype") == "uint8" and len(tail) in (2, 3))
        return
    for name, below in inner.items() if isinstance(inner, dict) else ((f"{index}{i}", s) for i, s in enumerate(inner)):
        yield from _leaves(key, below, index, (*at, name))


def _row_shape(space: Space) -> tuple[int, ...]:
    """Shape of one value of `space`."""
    if space["type"] == "MultiDiscrete":
        return np.shape(space["nvec"])
    if space["type"] == "MultiBinary":
        return tuple(np.atleast_1d(space["n"]).tolist())
    return tuple(space["shape"]) if space["type"] == "Box" else ()


def _recording(path: Path, count: int, leaves: list[Leaf], read: Reader) -> Recording:
    rewards = [read(episode, Leaf("rewards")) for episode in range(count)]
    parts: dict[str, list[Column]] = {}
    notes = []
    for leaf in leaves:
        if leaf.kind not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary"):
            notes.append(f"{leaf.key} {'/'.join(leaf.at)} is not read: its space is {leaf.kind}")
            continue
        name = _column_name(leaf, parts)
        if name in parts:
            raise DataError(f"{path}: two arrays would both become the column {name}, but names must be unique")
        parts[name] = [read(episode, leaf) for episode in range(count)]
    parts["reward"] = rewards
    lengths = np.array([column.shape[0] for column in rewards], np.int64) + 1
    columns = {name: _concatenate(path, name, episodes, lengths) for name, episodes in parts.items()}
    return Recording.consecutive(str(path), Minari.name, columns, lengths, notes=tuple(notes))


def _concatenate(path: Path, name: str, episodes: list[Column], lengths: NDArray[np.int64]) -> Column:
    try:
        return Concatenated(episodes, lengths)
    except ValueError as error:
        raise DataError(f"{path}: {name} of {error}") from None


def _column_name(leaf: Leaf, taken: Iterable[str]) -> str:
    key = leaf.key.removesuffix("s")
    at = tuple(name.removeprefix("_index_") for name in leaf.at)  # so that HDF5 and Arrow files give the same name
    if key != "observation":
        return "/".join((key, *at))
    frames = len(leaf.tail) == 3 and leaf.image and (not at or at[-1] in ("image", "pixels"))
    if frames and "pixels" not in taken:
        return "pixels"
    name = "/".join(at)
    return f"observation/{name}" if name in ("action", "reward", *taken) else name or key


def _hdf5_column(file: h5py.File, path: Path, episode: int, leaf: Leaf) -> Column:
    name = "/".join((f"episode_{episode}", leaf.key, *leaf.at))
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise DataError(f"{path}: lacks {name}")
    if item.file.filename != file.filename:
        raise DataError(f"{path}: {name} is stored in another file, but must be in this one")
    column = DatasetColumn(item, path)
    if not column.shape:
        raise DataError(f"{path}: {name} is a single value, but must have one row per step")
    if leaf.jpeg and _holds_jpeg(column):
        return Mapped(column, partial(_decode_images, path, leaf.tail), leaf.tail, np.dtype("u1"))
    if column.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} has dtype {column.dtype}, but must be numbers")
    return column  # keeps its stored shape, as in Minari


def _holds_jpeg(column: DatasetColumn) -> bool:
    """Whether the rows are JPEG files: uint8 (N, L), or (N,) objects of any length, that begin as JPEG."""
    any_length = column.dtype.kind == "O" and len(column.shape) == 1
    if not any_length and not (column.dtype == np.uint8 and len(column.shape) == 2):
        return False
    return all(bytes(frame[:3]) == JPEG for frame in column[:1])


def _decode_images(path: Path, shape: tuple[int, ...], frames: Iterable[Any]) -> NDArray[np.uint8]:
    """Decode JPEG files, one per row, to (n, *shape)."""
    try:
        images = [_decode_image(bytes(frame), shape) for frame in frames]
    except (*PARSER_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: contains an image that cannot be decoded ({short_reason(error)})") from None
    return np.stack(images) if images else np.empty((0, *shape), np.uint8)


def _decode_image(frame: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(frame), formats=["JPEG"])
    if (image.height, image.width) != shape[:2]:  # checked before decoding, because the declared size may be huge
        raise ValueError(f"it has {image.height} x {image.width} pixels, but its space has shape {shape}")
    return np.asarray(image, np.uint8).reshape(shape)


def _arrow_column(folder: Path, episode: int, leaf: Leaf) -> Column:
    below = folder / str(episode)
    if below.is_symlink():  # its files are not listed by `Minari.files`, so changes would go unnoticed
        raise DataError(f"{below}: is a link to another folder, which is not followed")
    if (below / "part-1.arrow").exists():
        raise DataError(f"{below}: has several files, but must have only {PART}")
    return _ArrowColumn(_require_file(below / PART), leaf)


class _ArrowColumn:
    """One leaf of one episode; the file is mapped anew for each read, to keep few files open."""

    def __init__(self, path: Path, leaf: Leaf) -> None:
        self._path, self._leaf = path, leaf
        with self._mapped() as values:
            kind = values.type
            for name in leaf.at:
                kind = kind.field(name).type
            rows = len(values) - (leaf.key != "observations")  # the last row of actions and rewards is padding
            self._jpeg = leaf.jpeg and str(kind) == "binary"
            self.dtype: np.dtype[Any] = np.dtype("u1") if self._jpeg else self._numbers(kind)
        if rows < 0:
            raise DataError(f"{path}: {leaf.key} has no rows, but must have at least one")
        self.shape: tuple[int, ...] = (rows, *leaf.tail)

    def _numbers(self, kind: Any) -> np.dtype[Any]:
        """The dtype of stored numbers. Raises `DataError` unless the type matches the shape of the space."""
        import pyarrow as pa

        listed = pa.types.is_fixed_size_list(kind)
        dtype = np.dtype((kind.value_type if listed else kind).to_pandas_dtype())
        if dtype.kind not in "biuf" or (kind.list_size if listed else 1) != math.prod(self._leaf.tail):
            name = "/".join((self._leaf.key, *self._leaf.at))
            raise DataError(f"{self._path}: {name} is stored as {kind}, but its space has shape {self._leaf.tail}")
        return dtype

    @contextmanager
    def _mapped(self) -> Iterator[Any]:
        """The column in the memory-mapped file; only the parts that are used are read from disk."""
        import pyarrow as pa

        try:
            with pa.memory_map(str(self._path)) as file:
                yield pa.ipc.open_file(file).read_all().column(self._leaf.key)
        except (*PARSER_ERRORS, pa.ArrowException) as error:
            raise DataError(f"{self._path}: {self._leaf.key} cannot be read ({short_reason(error)})") from None

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        with self._mapped() as values:
            chunks = values.slice(start, max(0, stop - start)).chunks
            blocks = [self._block(chunk) for chunk in chunks if len(chunk)]
        return np.concatenate(blocks) if blocks else np.empty((0, *self.shape[1:]), self.dtype)

    def _block(self, values: Any) -> NDArray[Any]:
        """Convert an Arrow array of n rows to (n, *tail)."""
        values.validate()  # without this check, Arrow trusts the offsets in a file and may read past its end
        for name in self._leaf.at:
            values = values.field(name)
        values.validate(full=True)
        if self._jpeg:
            return _decode_images(self._path, self._leaf.tail, values.to_pylist())
        flat = values.flatten() if hasattr(values.type, "value_type") else values
        if flat.null_count:
            raise ValueError("has missing values")
        return np.asarray(flat.to_numpy(zero_copy_only=False), self.dtype).reshape(len(values), *self._leaf.tail)
