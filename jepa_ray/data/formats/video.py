"""Videos as frames that belong to times: decoded forward, one file at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.peek import BROKEN, first_line
from jepa_ray.errors import DataError

TOLERANCE = 1e-4  # seconds between a time and its frame, as LeRobot's
FAR = 1.0  # seconds ahead from which on it is sought, not decoded up to


class Videos:
    """Frames of one camera by their times; whoever reads in order decodes each frame once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._colours: Any = None  # converts to RGB; made once, which is faster than once for each frame
        self._before: Any = None  # of the two frames around the time that was asked for last
        self._after: Any = None

    def shape(self, path: Path) -> tuple[int, int, int]:
        """(H, W, 3) by the file's own word; decodes nothing."""
        with self._legible(path):
            stream = self._opened(path)
            return stream.height, stream.width, 3

    def read(self, path: Path, times: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The frames (n, *shape) nearest to ascending `times`, in seconds. Raises `DataError` where none is near."""
        out = np.empty((len(times), *shape), np.uint8)
        with self._legible(path):
            self._seek(path, float(times[0]))
            for row, time in enumerate(times.tolist()):
                frame = self._nearest(time)
                if frame is None or abs(frame.time - time) > TOLERANCE:
                    near = "no frame" if frame is None else f"its nearest frame at {frame.time:.4f} s"
                    raise DataError(f"{path}: has {near} where one at {time:.4f} s must be")
                if frame.is_corrupt or (frame.height, frame.width) != shape[:2]:
                    size = f"of {frame.height} x {frame.width} pixels, or damaged"
                    raise DataError(f"{path}: its frame at {time:.4f} s is {size}, but must be whole and {shape}")
                out[row] = self._colours.reformat(frame, format="rgb24").to_ndarray()
        return out

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._path = self._container = self._before = self._after = None

    def _opened(self, path: Path) -> Any:
        """The stream of `path`, which becomes the file that is open."""
        if path != self._path:
            try:
                import av
                from av.video.reformatter import VideoReformatter
            except ImportError:
                raise DataError(f"{path}: needs video support: pip install 'jepa-ray[video]'") from None
            self.close()
            self._container = av.open(str(path), format="mp4")  # named, since playlists would open other files
            self._colours, self._path = self._colours or VideoReformatter(), path
        if not self._container.streams.video:
            raise DataError(f"{path}: holds no video")
        return self._container.streams.video[0]

    def _seek(self, path: Path, time: float) -> None:
        """Be where decoding forward leads to the frame at `time`: in place, or at the keyframe before it."""
        if path == self._path and self._before is not None:
            latest = self._after or self._before
            if self._before.time - TOLERANCE <= time <= latest.time + FAR:
                return
        stream = self._opened(path)
        self._before = self._after = None
        self._container.seek(round(time / stream.time_base) - 1, backward=True, any_frame=False, stream=stream)
        self._frames = (frame for frame in self._container.decode(stream) if frame.pts is not None)

    def _nearest(self, time: float) -> Any:
        """The frame nearest to `time`, decoding until one is past it; None if there is none."""
        if self._before is None:
            self._before, self._after = next(self._frames, None), next(self._frames, None)
        while self._after is not None and self._after.time <= time:
            self._before, self._after = self._after, next(self._frames, None)
        if self._before is None or self._after is None:
            return self._before
        return min(self._before, self._after, key=lambda frame: abs(frame.time - time))

    @contextmanager
    def _legible(self, path: Path) -> Iterator[None]:
        """Report whatever the decoder raises as what it is, a damaged file, and forget where decoding was."""
        try:
            yield
        except Exception as error:
            self.close()
            if isinstance(error, BROKEN) or type(error).__module__.startswith("av."):
                raise DataError(f"{path}: cannot be decoded ({first_line(error)})") from error
            raise
