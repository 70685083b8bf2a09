"""Ways to make a dataset bad: what `data/test_bad_inputs.py` gives to the commands is made by these.

Most take the path of a healthy dataset of `written` and return that of what became of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from helpers import written
from helpers.written import ACTION, LENGTHS, ROWS, SEEN

SECRET = Path("/etc/passwd")  # what an attacker would like to have read


def at(values: np.ndarray, row: int, value: Any) -> np.ndarray:
    """A copy with one row replaced."""
    changed = values.copy()
    changed[row] = value
    return changed


def cut(path: Path, keep: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def with_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def inside(made: Path, name: str, change: Callable[[Path], object]) -> Path:
    """A folder, one of its files changed."""
    change(made / name)
    return made


def each(made: Path, below: str, change: Callable[[Path], object]) -> Path:
    """A folder, all files of one inside changed."""
    for file in list((made / below).iterdir()):
        change(file)
    return made


def edited(path: Path, change: Callable[[h5py.File], object]) -> Path:
    """An HDF5 file, changed."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def instead(path: Path, name: str, put: Callable[[h5py.File], object]) -> Path:
    """An HDF5 file, one of its datasets replaced by something else."""

    def change(file: h5py.File) -> None:
        del file[name]
        put(file)

    return edited(path, change)


def replaced(path: Path, kind: Callable[[Path], object]) -> None:
    """Something else at the path of a file."""
    path.unlink()
    kind(path)


def pipe(path: Path) -> Path:
    """A named pipe without a writer: whoever opens it waits forever."""
    os.mkfifo(path)
    return path


def listening(path: Path) -> Path:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # the whole path may be longer than a socket's address can be
    return path


def link(path: Path, to: Path | str) -> Path:
    path.symlink_to(to)
    return path


def circle(folder: Path) -> Path:
    link(folder / "a", folder / "b")
    return link(folder / "b", folder / "a")


class Hostile:
    """Runs code when it is unpickled: makes a file `ran`."""

    def __init__(self, folder: Path) -> None:
        self._canary = folder / "ran"

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._canary,))


def npy(shape: tuple[int, ...], descr: str = "<f4", data: bytes = b"\0" * 64) -> bytes:
    """An npy file whose header may claim anything."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def zipped(path: Path, members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> Path:
    """An npz, written member by member: names may be anything, and come twice."""
    with zipfile.ZipFile(path, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that come twice
        for name, content in members:
            archive.writestr(name, content)
    return path


def member(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def forged(path: Path, field: int, value: int) -> Path:
    """A zip whose directory lies about its first member: field 20 is its size in the file, 24 its size when read."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02") + field
    content[entry : entry + 4] = value.to_bytes(4, "little")
    return with_bytes(path, content)


def encrypted(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + flags] |= 1
    return with_bytes(path, content)


def unknown_filter(path: Path) -> Path:
    """Rows that went through a filter that nobody has."""

    def put(file: h5py.File) -> None:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(SEEN.shape)
        made.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, ())
        rows = h5py.h5s.create_simple(SEEN.shape)
        dataset = h5py.h5d.create(file.id, b"observation", h5py.h5t.IEEE_F32LE, rows, made)
        dataset.write_direct_chunk((0, 0), SEEN.tobytes())

    return instead(path, "observation", put)


def many(name: str, shape: tuple[int, ...], dtype: str = "f4") -> Callable[[h5py.File], object]:
    """A dataset that claims rows of which none is stored."""
    return lambda file: file.create_dataset(name, shape=shape, dtype=dtype, chunks=(64, *shape[1:]))


def virtual(name: str) -> Callable[[h5py.File], object]:
    """A dataset whose rows are in another file."""
    layout = h5py.VirtualLayout(SEEN.shape, "f4")
    layout[:] = h5py.VirtualSource(str(SECRET), "x", SEEN.shape)
    return lambda file: file.create_virtual_dataset(name, layout)


def external(name: str, shape: tuple[int, ...], dtype: str) -> Callable[[h5py.File], object]:
    """A dataset whose bytes are those of another file."""
    return lambda file: file.create_dataset(name, shape, dtype, external=[(str(SECRET), 0, h5py.h5f.UNLIMITED)])


def elsewhere(path: Path, name: str) -> Path:
    """A dataset moved to another HDF5 file, to which a link leads."""
    with h5py.File(path, "r+") as file, h5py.File(path.with_name("other.h5"), "w") as other:
        file.copy(name, other)
        del file[name]
        file[name] = h5py.ExternalLink(str(path.with_name("other.h5")), name)
    return path


def ragged(values: np.ndarray) -> np.ndarray:
    """Rows of one, two, three numbers, as an array of Python objects."""
    out = np.empty(len(values), object)
    for row in range(len(values)):
        out[row] = np.ones(row % 3 + 1, np.float32)
    return out


def put_ragged(name: str) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset(name, data=ragged(ACTION), dtype=h5py.vlen_dtype(np.float32))


def jpeg_bomb() -> bytes:
    """A JPEG of a few hundred bytes that claims 65,500 x 65,500 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def about(made: Path, **changes: Any) -> Path:
    """A Minari dataset, its metadata changed."""
    file = made / "data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return made


def lerobot(folder: Path, **changes: Any) -> Path:
    """A LeRobot dataset, its information changed."""
    path = written.unzipped("lerobot", "vectors")(folder)
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def forged_storage(path: Path) -> Path:
    """A torch file whose tensors claim far more than the file holds."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    rows = struct.pack("<BB", ord("K"), ROWS - len(LENGTHS))  # a pickled small integer
    out = [(n, c.replace(rows, b"J" + struct.pack("<i", 2**31 - 1)) if n.endswith(".pkl") else c) for n, c in members]
    assert out != members
    return zipped(path, out, zipfile.ZIP_STORED)


def saved(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def actions_backwards() -> dict[str, Any]:
    """Many episodes in which action[t] plainly is the move that led to row t, not the one from it."""
    lengths = np.full(20, 12)
    action = np.random.default_rng(1).normal(size=(lengths.sum(), 2)).astype(np.float32)
    seen = np.concatenate([np.cumsum(part, axis=0) for part in np.split(action, 20)])
    return {
        "observation": seen, "action": action, "reward": None, "pixels": None,
        "ep_len": lengths.astype(np.int32), "ep_offset": np.cumsum(lengths) - lengths,
    }  # fmt: skip


def wraps() -> dict[str, Any]:
    """Lengths whose sum, in 64 bits, is right."""
    lengths = np.array([2**62, 2**62, 2**62, 2**62 + ROWS], np.int64)
    return {"ep_len": lengths, "ep_offset": np.cumsum(lengths) - lengths}


def val_beside(folder: Path, **changes: Any) -> Path:
    written.ogbench(folder, "ogbench-val.npz", **changes)
    return written.ogbench(folder)


def nan_everywhere(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.nan)
