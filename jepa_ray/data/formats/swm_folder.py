"""stable-worldmodel's folders: an npz file per column, and images as `NAME/ep_E_step_T.jpeg`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_ray.data.columns import Column
from jepa_ray.data.formats.npz import NpzMember
from jepa_ray.data.formats.peek import PARSER_ERRORS, Peek, files_below, short_reason
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError


class SwmFolder:
    """A folder of stable-worldmodel; `action[t]` leads from row t to t + 1."""

    name = "stable-worldmodel folder"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "folder" and seen.has("ep_len.npz", "ep_offset.npz")

    def files(self, path: Path) -> list[Path]:
        return files_below(path)

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        columns: dict[str, Column] = {file.stem: NpzMember(file, "arr_0") for file in sorted(path.glob("*.npz"))}
        lengths, offsets = (_read_integers(columns.pop(name), path / f"{name}.npz") for name in ("ep_len", "ep_offset"))
        _check_episodes(lengths, offsets, path)
        for name, column in columns.items():
            if column.shape[0] != (rows := sum(lengths.tolist())):  # Python's sum, because numpy's may overflow
                raise DataError(
                    f"{path}: {name} has shape {column.shape}, but must have {rows} rows, the sum of ep_len"
                )
        for folder in sorted(file.parent for file in path.glob("*/ep_0_step_0.jpeg")):
            columns[folder.name] = _Images(folder, lengths, offsets)
        yield Recording(str(path), self.name, columns, lengths, offsets)


class _Images:
    """Images (N, H, W, 3) uint8, decoded when they are sliced."""

    def __init__(self, folder: Path, lengths: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        self._folder, self._offsets = folder, offsets
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = (int(lengths.sum()), *self._image(0).shape)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, stop - start), *self.shape[1:]), np.uint8)
        for row in range(start, stop):
            image = self._image(row)
            if image.shape != self.shape[1:]:
                raise DataError(
                    f"{self._folder}: row {row} has shape {image.shape}, but the first row has shape {self.shape[1:]}"
                )
            out[row - start] = image
        return out

    def _image(self, row: int) -> NDArray[np.uint8]:
        """The image (H, W, 3) of a row."""
        episode = int(np.searchsorted(self._offsets, row, side="right")) - 1
        file = self._folder / f"ep_{episode}_step_{row - int(self._offsets[episode])}.jpeg"
        try:
            # Some of Pillow's other formats start external programs.
            with Image.open(file, formats=("JPEG", "PNG")) as image:
                return np.asarray(image.convert("RGB"))
        except (*PARSER_ERRORS, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: cannot be read ({short_reason(error)})") from None


def _read_integers(column: Column, file: Path) -> NDArray[np.int64]:
    if not np.issubdtype(column.dtype, np.integer) or len(column.shape) != 1:
        raise DataError(f"{file}: has shape {column.shape} and dtype {column.dtype}, but must be (episodes,) integers")
    return np.asarray(column[:], np.int64)


def _check_episodes(lengths: NDArray[np.int64], offsets: NDArray[np.int64], path: Path) -> None:
    """Raise `DataError` unless episodes are consecutive: the file of an image is found from them."""
    if lengths.shape != offsets.shape or not len(lengths):
        raise DataError(
            f"{path}: ep_len has {len(lengths)} episodes and ep_offset {len(offsets)}, but both must have the same"
            " number, at least 1"
        )
    if (lengths < 1).any():
        bad = int(np.argmax(lengths < 1))
        raise DataError(f"{path}: ep_len[{bad}] is {lengths[bad]}, but must be 1 or more")
    expected = np.cumsum(lengths) - lengths
    wrong = offsets != expected
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise DataError(
            f"{path}: ep_offset[{bad}] is {offsets[bad]}, but must be {expected[bad]}: the sum of the lengths before"
        )
