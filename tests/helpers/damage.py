"""Functions that make datasets invalid, for `data/test_bad_inputs.py`.

Most of them take the path of a valid dataset, made by `written`, and return the path of the changed dataset.
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

SECRET = Path("/etc/passwd")  # a file that an attacker might want to read


def replace_row(values: np.ndarray, row: int, value: Any) -> np.ndarray:
    """A copy with one row replaced."""
    changed = values.copy()
    changed[row] = value
    return changed


def truncate(path: Path, keep: float = 0.5) -> Path:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def change_file(made: Path, name: str, change: Callable[[Path], object]) -> Path:
    """Change one file of a folder."""
    change(made / name)
    return made


def change_each_file(made: Path, below: str, change: Callable[[Path], object]) -> Path:
    """Change all files in a subfolder of a folder."""
    for file in list((made / below).iterdir()):
        change(file)
    return made


def edit_hdf5(path: Path, change: Callable[[h5py.File], object]) -> Path:
    """Change an HDF5 file."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace_dataset(path: Path, name: str, put: Callable[[h5py.File], object]) -> Path:
    """Replace a dataset of an HDF5 file by another object."""

    def change(file: h5py.File) -> None:
        del file[name]
        put(file)

    return edit_hdf5(path, change)


def replace_file(path: Path, kind: Callable[[Path], object]) -> None:
    """Replace a file by another object, such as a pipe."""
    path.unlink()
    kind(path)


def make_pipe(path: Path) -> Path:
    """Create a named pipe without a writer: opening it waits forever."""
    os.mkfifo(path)
    return path


def make_socket(path: Path) -> Path:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # the full path may be longer than the address of a socket may be
    return path


def make_link(path: Path, to: Path | str) -> Path:
    path.symlink_to(to)
    return path


def make_link_cycle(folder: Path) -> Path:
    make_link(folder / "a", folder / "b")
    return make_link(folder / "b", folder / "a")


class Hostile:
    """Runs code when it is unpickled: creates a file `ran`."""

    def __init__(self, folder: Path) -> None:
        self._canary = folder / "ran"

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._canary,))


def npy_bytes(shape: tuple[int, ...], descr: str = "<f4", data: bytes = b"\0" * 64) -> bytes:
    """An npy file whose header may claim anything."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def open_header() -> bytes:
    """An npy file whose header has a bracket that is never closed."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3L\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def write_zip(path: Path, members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip file member by member; names may be invalid or duplicate."""
    with zipfile.ZipFile(path, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the warning about duplicate names
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy_member(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def forge_zip_size(path: Path, field: int, value: int) -> Path:
    """Forge a size of the first member in a zip's directory: field 20 is the compressed, 24 the uncompressed size."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02") + field
    content[entry : entry + 4] = value.to_bytes(4, "little")
    return write_bytes(path, content)


def encrypt_zip(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + flags] |= 1
    return write_bytes(path, content)


def use_unknown_filter(path: Path) -> Path:
    """Store the observations with an HDF5 filter that does not exist."""

    def put(file: h5py.File) -> None:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(SEEN.shape)
        made.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, ())
        rows = h5py.h5s.create_simple(SEEN.shape)
        dataset = h5py.h5d.create(file.id, b"observation", h5py.h5t.IEEE_F32LE, rows, made)
        dataset.write_direct_chunk((0, 0), SEEN.tobytes())

    return replace_dataset(path, "observation", put)


def unstored_rows(name: str, shape: tuple[int, ...], dtype: str = "f4") -> Callable[[h5py.File], object]:
    """A dataset that claims rows, but stores no rows."""
    return lambda file: file.create_dataset(name, shape=shape, dtype=dtype, chunks=(64, *shape[1:]))


def virtual_dataset(name: str) -> Callable[[h5py.File], object]:
    """A virtual dataset whose rows are in another file."""
    layout = h5py.VirtualLayout(SEEN.shape, "f4")
    layout[:] = h5py.VirtualSource(str(SECRET), "x", SEEN.shape)
    return lambda file: file.create_virtual_dataset(name, layout)


def external_dataset(name: str, shape: tuple[int, ...], dtype: str) -> Callable[[h5py.File], object]:
    """A dataset whose bytes are the content of another file."""
    return lambda file: file.create_dataset(name, shape, dtype, external=[(str(SECRET), 0, h5py.h5f.UNLIMITED)])


def move_to_other_file(path: Path, name: str) -> Path:
    """Move a dataset to another HDF5 file, and link to it."""
    with h5py.File(path, "r+") as file, h5py.File(path.with_name("other.h5"), "w") as other:
        file.copy(name, other)
        del file[name]
        file[name] = h5py.ExternalLink(str(path.with_name("other.h5")), name)
    return path


def ragged_rows(values: np.ndarray) -> np.ndarray:
    """Rows of one, two or three numbers, as an array of Python objects."""
    out = np.empty(len(values), object)
    for row in range(len(values)):
        out[row] = np.ones(row % 3 + 1, np.float32)
    return out


def ragged_dataset(name: str) -> Callable[[h5py.File], object]:
    return lambda file: file.create_dataset(name, data=ragged_rows(ACTION), dtype=h5py.vlen_dtype(np.float32))


def jpeg_bomb() -> bytes:
    """A JPEG of a few hundred bytes that claims 65,500 x 65,500 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    size = content.index(b"\xff\xc0") + 5
    content[size : size + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def change_minari_metadata(made: Path, **changes: Any) -> Path:
    """Change the metadata of a Minari dataset."""
    file = made / "data/metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return made


def make_lerobot(folder: Path, **changes: Any) -> Path:
    """Make a LeRobot dataset with changed metadata."""
    path = written.unzipped("lerobot", "vectors")(folder)
    file = path / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def forge_tensor_size(path: Path) -> Path:
    """Change a torch file so that its tensors claim far more data than it contains."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    rows = struct.pack("<BB", ord("K"), ROWS - len(LENGTHS))  # a pickled small integer
    out = [(n, c.replace(rows, b"J" + struct.pack("<i", 2**31 - 1)) if n.endswith(".pkl") else c) for n, c in members]
    assert out != members
    return write_zip(path, out, zipfile.ZIP_STORED)


def save_torch(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def previous_actions() -> dict[str, Any]:
    """Episodes in which action[t] is clearly the move that led to row t, not the move from row t."""
    lengths = np.full(20, 12)
    action = np.random.default_rng(1).normal(size=(lengths.sum(), 2)).astype(np.float32)
    seen = np.concatenate([np.cumsum(part, axis=0) for part in np.split(action, 20)])
    return {
        "observation": seen, "action": action, "reward": None, "pixels": None,
        "ep_len": lengths.astype(np.int32), "ep_offset": np.cumsum(lengths) - lengths,
    }  # fmt: skip


def overflowing_lengths() -> dict[str, Any]:
    """Lengths whose sum overflows in 64 bits to the right number of rows."""
    lengths = np.array([2**62, 2**62, 2**62, 2**62 + ROWS], np.int64)
    return {"ep_len": lengths, "ep_offset": np.cumsum(lengths) - lengths}


def ogbench_with_validation(folder: Path, **changes: Any) -> Path:
    written.ogbench(folder, "ogbench-val.npz", **changes)
    return written.ogbench(folder)


def nan_like(values: np.ndarray) -> np.ndarray:
    return np.full_like(values, np.nan)
