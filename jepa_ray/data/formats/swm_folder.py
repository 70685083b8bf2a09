"""stable-worldmodel's folder: an npz per column, images as `NAME/ep_E_step_T.jpeg`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_ray.data.columns import Column
from jepa_ray.data.formats.npz import Member
from jepa_ray.data.formats.peek import BROKEN, Peek, files_below, first_line
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError


class SwmFolder:
    """`action[t]` moves row t to t + 1."""

    name = "stable-worldmodel folder"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "folder" and seen.has("ep_len.npz", "ep_offset.npz")

    def files(self, path: Path) -> list[Path]:
        return files_below(path)

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        columns: dict[str, Column] = {file.stem: Member(file, "arr_0") for file in sorted(path.glob("*.npz"))}
        lengths, offsets = (_integers(columns.pop(name), path / f"{name}.npz") for name in ("ep_len", "ep_offset"))
        _check_episodes(lengths, offsets, path)
        for name, column in columns.items():
            if column.shape[0] != (rows := sum(lengths.tolist())):  # not numpy's sum, which may wrap around
                raise DataError(f"{path}: {name} has shape {column.shape}, but ep_len adds up to {rows} rows")
        for folder in sorted(file.parent for file in path.glob("*/ep_0_step_0.jpeg")):
            columns[folder.name] = _Images(folder, lengths, offsets)
        yield Recording(str(path), self.name, columns, lengths, offsets)


class _Images:
    """(N, H, W, 3) uint8, decoded as they are sliced."""

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
                raise DataError(f"{self._folder}: row {row} is {image.shape}, but the first {self.shape[1:]}")
            out[row - start] = image
        return out

    def _image(self, row: int) -> NDArray[np.uint8]:
        """(H, W, 3)."""
        episode = int(np.searchsorted(self._offsets, row, side="right")) - 1
        file = self._folder / f"ep_{episode}_step_{row - int(self._offsets[episode])}.jpeg"
        try:
            with Image.open(file, formats=("JPEG", "PNG")) as image:  # some of Pillow's others start programs
                return np.asarray(image.convert("RGB"))
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: cannot be read ({first_line(error)})") from None


def _integers(column: Column, file: Path) -> NDArray[np.int64]:
    if not np.issubdtype(column.dtype, np.integer) or len(column.shape) != 1:
        raise DataError(f"{file}: has shape {column.shape} and dtype {column.dtype}, but must be (episodes,) integers")
    return np.asarray(column[:], np.int64)


def _check_episodes(lengths: NDArray[np.int64], offsets: NDArray[np.int64], path: Path) -> None:
    """Raise `DataError` unless episodes lie one after another: a row's image is found by them."""
    if lengths.shape != offsets.shape or not len(lengths):
        raise DataError(f"{path}: ep_len tells of {len(lengths)} episodes and ep_offset of {len(offsets)}")
    if (lengths < 1).any():
        raise DataError(f"{path}: ep_len[{np.argmax(lengths < 1)}] is {lengths.min()}, but must be 1 or more")
    wrong = offsets != np.cumsum(lengths) - lengths
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise DataError(f"{path}: ep_offset[{bad}] is {offsets[bad]}, but the lengths before it add up to another row")
