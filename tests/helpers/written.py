"""Writes a small dataset in every format with numpy, h5py, torch, Pillow and Arrow, without any code of the package.

All datasets contain the same three episodes (`SEEN`, `ACTION`, `REWARD`), so the result of reading them is known.
Keyword arguments replace arrays, also by invalid ones; None leaves an array out.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

LENGTHS = (5, 7, 4)
ROWS = sum(LENGTHS)
ENDS = np.cumsum(LENGTHS)  # (E,) the row after each episode's last row
OFFSETS = ENDS - LENGTHS
LAST = np.isin(np.arange(ROWS), ENDS - 1)  # (N,) whether a row is an episode's last, whose action is not used
SPANS = [slice(start, start + length) for start, length in zip(OFFSETS, LENGTHS, strict=True)]

_rng = np.random.default_rng(0)
SEEN = _rng.normal(size=(ROWS, 3)).astype(np.float32)
ACTION = _rng.normal(size=(ROWS, 2)).astype(np.float32)
REWARD = _rng.normal(size=ROWS).astype(np.float32)
PIXELS = _rng.integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8)

Arrays = dict[str, Any]


def merged(usual: Mapping[str, Any], changes: Mapping[str, Any]) -> Arrays:
    return {name: values for name, values in {**usual, **changes}.items() if values is not None}


def hdf5(path: Path, arrays: Mapping[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def canonical(folder: Path, **changes: Any) -> Path:
    episodes = {"ep_len": np.array(LENGTHS, np.int32), "ep_offset": OFFSETS}
    arrays = {"observation": SEEN, "action": ACTION, "reward": REWARD, "pixels": PIXELS} | episodes
    return hdf5(folder / "canonical.h5", merged(arrays, changes))


def vectors(folder: Path, **changes: Any) -> Path:
    """Canonical HDF5 without pixels."""
    return canonical(folder, **({"pixels": None} | changes))


def d4rl(folder: Path, **changes: Any) -> Path:
    marks = {"terminals": LAST & (np.arange(ROWS) < 6), "timeouts": LAST & (np.arange(ROWS) > 6)}
    arrays = {"observations": SEEN, "actions": ACTION, "rewards": REWARD} | marks
    return hdf5(folder / "d4rl.hdf5", merged(arrays, changes))


def ogbench(folder: Path, name: str = "ogbench.npz", **changes: Any) -> Path:
    arrays = {"observations": SEEN, "actions": ACTION, "terminals": LAST.astype(np.float32), "reward": REWARD}
    np.savez_compressed(folder / name, **merged(arrays, changes))
    return folder / name


def arrays_npz(folder: Path, **changes: Any) -> Path:
    arrays = {"obs": SEEN, "actions": ACTION, "rewards": REWARD, "ep_len": np.array(LENGTHS)}
    np.savez(folder / "arrays.npz", **merged(arrays, changes))
    return folder / "arrays.npz"


def arrays_npy(folder: Path, **changes: Any) -> Path:
    """Batched (E, T, ...), padded to the longest episode."""
    path = folder / "arrays"
    path.mkdir()
    arrays = {"obs": padded(SEEN), "actions": padded(ACTION), "rewards": padded(REWARD), "lengths": np.array(LENGTHS)}
    for name, values in merged(arrays, changes).items():
        np.save(path / f"{name}.npy", values)
    return path


def padded(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (E, T, ...), padded with 7."""
    out = np.full((len(LENGTHS), max(LENGTHS), *values.shape[1:]), 7, values.dtype)
    for episode, span in enumerate(SPANS):
        out[episode, : LENGTHS[episode]] = values[span]
    return out


def played() -> Arrays:
    """All rows except the last row of each episode, as transitions."""
    rows = np.flatnonzero(~LAST)
    return {"state": SEEN[rows], "action": ACTION[rows], "next_state": SEEN[rows + 1], "reward": REWARD[rows]}


def transitions_h5(folder: Path, **changes: Any) -> Path:
    return hdf5(folder / "transitions.h5", merged(played(), changes))


def transitions_pt(folder: Path, **changes: Any) -> Path:
    import torch

    table = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in merged(played(), changes).items()}
    torch.save(table, folder / "transitions.pt")
    return folder / "transitions.pt"


def dino_wm(folder: Path, **changes: Any) -> Path:
    """`changes` are given by the stems of files; frames are `episode_000` and so on."""
    import torch

    path = folder / "dino_wm"
    (path / "obses").mkdir(parents=True)
    tables = {"states": padded(SEEN), "actions": padded(ACTION), "seq_lengths": np.array(LENGTHS)}
    frames = {f"episode_{episode:03}": PIXELS[span] for episode, span in enumerate(SPANS)}
    for name, values in merged(tables | frames, changes).items():
        tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
        torch.save(tensor, path / ("obses" if name.startswith("episode_") else "") / f"{name}.pth")
    return path


def swm_folder(folder: Path, **changes: Any) -> Path:
    path = folder / "swm_folder"
    (path / "pixels").mkdir(parents=True)
    episodes = {"ep_len": np.array(LENGTHS, np.int32), "ep_offset": OFFSETS}
    for name, values in merged({"observation": SEEN, "action": ACTION, "reward": REWARD} | episodes, changes).items():
        np.savez(path / f"{name}.npz", values)
    for episode, span in enumerate(SPANS):
        for step, frame in enumerate(PIXELS[span]):
            (path / f"pixels/ep_{episode}_step_{step}.jpeg").write_bytes(png(frame))
    return path


def png(frame: np.ndarray) -> bytes:
    """A PNG file, also for names that end in jpeg: its pixels are exact."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def lance(folder: Path, **changes: Any) -> Path:
    import lance as library
    import pyarrow as pa

    columns = {
        "episode_idx": np.repeat(np.arange(len(LENGTHS)), LENGTHS),
        "step_idx": np.concatenate([np.arange(length) for length in LENGTHS]),
        "observation": lists(SEEN),
        "action": lists(ACTION),
        "reward": REWARD,
        "pixels": [png(frame) for frame in PIXELS],
    }
    library.write_dataset(pa.table(merged(columns, changes)), str(folder / "table.lance"))
    return folder / "table.lance"


def lists(values: np.ndarray) -> Any:
    """(N, K) as Arrow lists of length K."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])


def space(width: int, dtype: str = "float32") -> Arrays:
    return {"type": "Box", "dtype": dtype, "shape": [width], "low": -9.0, "high": 9.0}


def minari(folder: Path, kind: str, **changes: Any) -> Path:
    """`changes` are changes of metadata.json."""
    path = folder / f"minari_{kind}"
    (path / "data").mkdir(parents=True)
    spaces = {"observation_space": json.dumps(space(SEEN.shape[1])), "action_space": json.dumps(space(2))}
    about = merged({"total_episodes": len(LENGTHS), "data_format": kind} | spaces, changes)
    (path / "data/metadata.json").write_text(json.dumps(about))
    for episode, span in enumerate(SPANS):
        arrays = {"observations": SEEN[span], "actions": ACTION[span][:-1], "rewards": REWARD[span][:-1]}
        if kind == "hdf5":
            with h5py.File(path / "data/main_data.hdf5", "a") as file:
                for name, values in arrays.items():
                    file[f"episode_{episode}/{name}"] = values
        else:
            arrow(path / f"data/{episode}/part-0.arrow", arrays)
    return path


def arrow(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write one episode; arrays that are one row shorter than the observations are padded, as in Minari."""
    import pyarrow as pa

    rows = len(arrays["observations"])
    whole = {name: np.resize(values, (rows, *values.shape[1:])) for name, values in arrays.items()}
    table = pa.table({name: lists(v) if v.ndim == 2 else v for name, v in whole.items()})
    path.parent.mkdir(parents=True)
    with pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table)


def minari_hdf5(folder: Path, **changes: Any) -> Path:
    return minari(folder, "hdf5", **changes)


def minari_arrow(folder: Path, **changes: Any) -> Path:
    return minari(folder, "arrow", **changes)


def unzipped(library: str, name: str) -> Callable[[Path], Path]:
    """A function that extracts a dataset, written by the library itself, from files/LIBRARY/datasets.zip."""

    def unzip(folder: Path) -> Path:
        with zipfile.ZipFile(Path(__file__).parents[1] / "data/files" / library / "datasets.zip") as archive:
            archive.extractall(folder, [member for member in archive.namelist() if member.startswith(f"{name}/")])
        return folder / name

    return unzip


@dataclass(frozen=True)
class Sample:
    """The writer of one format, and the properties of its dataset."""

    format: str  # name of the format that must be detected
    write: Callable[..., Path]  # (folder, **changes) -> path
    pixels: bool = False
    needs: str | None = None  # optional library that writing and reading need


SAMPLES: dict[str, Sample] = {
    "canonical": Sample("canonical HDF5", canonical, pixels=True),
    "canonical vectors": Sample("canonical HDF5", vectors),
    "D4RL": Sample("D4RL HDF5", d4rl),
    "OGBench": Sample("OGBench", ogbench),
    "arrays npz": Sample("plain arrays", arrays_npz),
    "arrays npy": Sample("plain arrays", arrays_npy),
    "transitions h5": Sample("transitions", transitions_h5),
    "transitions pt": Sample("transitions", transitions_pt),
    "DINO-WM": Sample("DINO-WM folder", dino_wm, pixels=True),
    "swm folder": Sample("stable-worldmodel folder", swm_folder, pixels=True),
    "Lance": Sample("Lance table", lance, pixels=True, needs="lance"),
    "Minari HDF5": Sample("Minari", minari_hdf5),
    "Minari Arrow": Sample("Minari", minari_arrow, needs="pyarrow"),
}
