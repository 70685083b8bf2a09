"""DINO-WM's folders: states.pth (E, T, S), actions.pth (E, T, A), and frames in obses/, one file per episode.

`action[t]` leads from row t to row t + 1. Actions are read as stored; the scales and statistics of the DINO-WM
repository are not applied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, Concatenated, SideBySide
from jepa_ray.data.formats import torch_files
from jepa_ray.data.formats.peek import Peek, explain_pickle_refusal, files_below
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

ACTIONS = ("rel_actions.pth", "actions.pth", "abs_actions.pth")  # in order of preference, as in the DINO-WM repository
PARTS = ("train", "val")
CHANNELS = (1, 3, 4)

Episodes = dict[str, list[Column]]  # column name -> one part per episode


class DinoWM:
    """A folder of episodes, or a folder with such folders named train and val."""

    name = "DINO-WM folder"

    def recognises(self, seen: Peek) -> bool:
        if seen.kind != "folder":
            return False
        return seen.has("states.pth") or (seen.path / "train" / "states.pth").is_file()

    def files(self, path: Path) -> list[Path]:
        return files_below(path)

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        folders = [path] if (path / "states.pth").is_file() else [path / p for p in PARTS if (path / p).is_dir()]
        videos = _Videos()
        try:
            yield self._recording(path, folders, videos)
        finally:
            videos.close()

    def _recording(self, path: Path, folders: list[Path], videos: _Videos) -> Recording:
        parts = [_read_episodes(folder, videos) for folder in folders]
        lengths = np.concatenate([part_lengths for part_lengths, _ in parts])
        held = [np.full(len(part[0]), folder.name == "val") for folder, part in zip(folders, parts, strict=True)]
        shared = set.intersection(*(set(columns) for _, columns in parts))
        columns: dict[str, Column] = {
            name: Concatenated([c for _, part in parts for c in part[name]], lengths) for name in sorted(shared)
        }
        columns["observation"] = columns["state"]
        notes = [_action_note(folder) for folder in folders]
        for folder, (_, part) in zip(folders, parts, strict=True):
            notes += [f"{name} is not read: only {folder.name}/ has it" for name in sorted(set(part) - shared)]
        return Recording.consecutive(
            str(path), self.name, columns, lengths, held_out=np.concatenate(held) if len(folders) > 1 else None,
            notes=tuple(dict.fromkeys(filter(None, notes))),
        )  # fmt: skip


def _read_episodes(folder: Path, videos: _Videos) -> tuple[NDArray[np.int64], Episodes]:
    """Lengths (E,), and the parts of all columns, one per episode."""
    action_file = _action_files(folder)[0]
    states, actions = [_read_padded(folder / "states.pth")], [_read_padded(action_file)]
    names = [action_file.name]  # of the tables that must have the episodes and rows of states.pth
    if (folder / "velocities.pth").is_file():  # of the agent; the DINO-WM repository appends them to the state
        states.append(_read_padded(folder / "velocities.pth"))
        names.append("velocities.pth")
    episodes, rows = states[0].shape[:2]
    for name, table in zip(names, (*actions, *states[1:]), strict=True):
        if table.shape[:2] != (episodes, rows):
            raise DataError(
                f"{folder / name}: has {table.shape[:2]} episodes and rows, but must have {(episodes, rows)}, as"
                " states.pth"
            )
    lengths = _read_lengths(folder, episodes, rows)
    columns: Episodes = {
        name: [SideBySide([table[e, :n] for table in tables]) for e, n in enumerate(lengths)]
        for name, tables in (("state", states), ("action", actions))
    }
    if (folder / "obses").is_dir():
        columns["pixels"] = _find_frames(folder, lengths, videos)
    return lengths, columns


def _action_files(folder: Path) -> list[Path]:
    """The existing files of actions; the first of them is read."""
    found = [folder / name for name in ACTIONS if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder}: lacks the actions: it must have one of {', '.join(ACTIONS)}")
    return found


def _action_note(folder: Path) -> str:
    first, *others = (file.name for file in _action_files(folder))
    return f"the actions are read from {first}, not from {', '.join(others)}" if others else ""


def _read_padded(path: Path) -> NDArray[Any]:
    """A padded table (E, T, K); particles (E, T, P, D) are flattened to vectors."""
    table = torch_files.tensor(path)
    if table.ndim == 4:
        table = table.reshape(*table.shape[:2], -1)
    if table.ndim != 3 or not table.size or not np.issubdtype(table.dtype, np.floating):
        raise DataError(
            f"{path}: has shape {table.shape} and dtype {table.dtype}, but must be floats (episodes, rows, width)"
        )
    return table


def _read_lengths(folder: Path, episodes: int, rows: int) -> NDArray[np.int64]:
    """Rows per episode (E,), from seq_lengths.pth; without that file, all episodes have all rows."""
    path, pickled = folder / "seq_lengths.pth", folder / "seq_lengths.pkl"
    if not path.is_file():
        if pickled.is_file():
            raise DataError(explain_pickle_refusal(pickled))
        return np.full(episodes, rows, np.int64)
    lengths = torch_files.tensor(path)
    if lengths.shape != (episodes,) or not np.issubdtype(lengths.dtype, np.integer):
        raise DataError(
            f"{path}: has shape {lengths.shape} and dtype {lengths.dtype}, but must be integers ({episodes},)"
        )
    if lengths.min() < 1 or lengths.max() > rows:
        raise DataError(f"{path}: has lengths outside 1 to {rows}, the number of rows in states.pth")
    return lengths.astype(np.int64)


class _Frames:
    """The frames (T, H, W, C) of an episode; the file is opened anew for each slice, to keep few files open."""

    def __init__(self, path: Path, shape: tuple[int, ...], read: Callable[[Path, int, int], NDArray[Any]]) -> None:
        self._path, self._read = path, read
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        if stop <= start:
            return np.empty((0, *self.shape[1:]), self.dtype)
        frames = self._read(self._path, start, stop)
        if frames.shape != (stop - start, *self.shape[1:]):
            raise DataError(
                f"{self._path}: has frames of shape {frames.shape} in rows {start} to {stop},"
                f" but must have {(stop - start, *self.shape[1:])}"
            )
        return frames


def _find_frames(folder: Path, lengths: NDArray[np.int64], videos: _Videos) -> list[Column]:
    """The frames of all episodes. All files must exist; only the first is opened here, to get the size of frames."""
    names = {file.name for file in (folder / "obses").iterdir()}
    suffix = ".pth" if "episode_000.pth" in names else ".mp4"
    paths = [folder / "obses" / f"episode_{episode:03d}{suffix}" for episode in range(len(lengths))]
    missing = next((path for path in paths if path.name not in names), None)
    if missing:
        raise DataError(f"{missing}: is missing, but each of the {len(lengths)} episodes must have its frames")
    read = _tensor_frames if suffix == ".pth" else videos.read
    tail = read(paths[0], 0, 1).shape[1:]
    return [_Frames(path, (int(n), *tail), read) for path, n in zip(paths, lengths, strict=True)]


def _tensor_frames(path: Path, start: int, stop: int) -> NDArray[Any]:
    """Rows `start` to `stop` of a file of frames; fewer if the file has fewer."""
    whole = torch_files.tensor(path)
    if whole.ndim == 4 and whole.shape[3] not in CHANNELS and whole.shape[1] in CHANNELS:
        raise DataError(
            f"{path}: has frames of shape {whole.shape}, channels first: save them as frames.permute(0, 2, 3, 1)"
        )
    if whole.ndim != 4 or whole.dtype != np.uint8 or not whole.size:
        raise DataError(f"{path}: has shape {whole.shape} and dtype {whole.dtype}, but must be uint8 (T, H, W, C)")
    return np.array(whole[start:stop])


class _Videos:
    """Decodes one video at a time, forward; reading in order decodes each frame only once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._next = 0  # the row of the frame that is decoded next

    def read(self, path: Path, start: int, stop: int) -> NDArray[Any]:
        """Frames (stop - start, H, W, 3), of rows `start` to `stop`. Raises `DataError` if the video is shorter."""
        if path != self._path or start < self._next:
            self._restart(path)
        wanted = []
        while self._next < stop:
            frame = next(self._frames, None)
            if frame is None:
                raise DataError(f"{path}: has {self._next} frames, but its episode has at least {stop} rows")
            if self._next >= start:
                wanted.append(frame.to_ndarray(format="rgb24"))
            self._next += 1
        return np.stack(wanted)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._path = self._container = None

    def _restart(self, path: Path) -> None:
        try:
            import av
        except ImportError:
            raise DataError(f"{path}: reading videos needs PyAV: pip install 'jepa-ray[video]'") from None
        self.close()
        # The format is fixed, because others, such as playlists, can open further files.
        self._container = av.open(str(path), format="mp4")
        self._frames, self._next, self._path = self._container.decode(video=0), 0, path
