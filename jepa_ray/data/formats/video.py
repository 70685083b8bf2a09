"""Videos as frames at given times; one file at a time is decoded, forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.peek import PARSER_ERRORS, short_reason
from jepa_ray.errors import DataError

TOLERANCE = 1e-4  # maximum difference in seconds between a time and its frame, as in LeRobot
SEEK_DISTANCE = 1.0  # frames more than this many seconds ahead are reached by seeking, not by decoding


class Videos:
    """Frames of one camera by their times; reading in order decodes each frame only once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._colours: Any = None  # converter to RGB; created once, because creating it per frame is slower
        self._before: Any = None  # the last decoded frame before or at the requested time
        self._after: Any = None  # the first decoded frame after it

    def shape(self, path: Path) -> tuple[int, int, int]:
        """(H, W, 3) from the header of the video; decodes no frame."""
        with self._report_damage(path):
            stream = self._open_stream(path)
            return stream.height, stream.width, 3

    def read(self, path: Path, times: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The frames (n, *shape) nearest to ascending `times`, in seconds. Raises `DataError` if one is missing."""
        out = np.empty((len(times), *shape), np.uint8)
        with self._report_damage(path):
            self._seek(path, float(times[0]))
            for row, time in enumerate(times.tolist()):
                frame = self._nearest(time)
                if frame is None or abs(frame.time - time) > TOLERANCE:
                    near = "it has none" if frame is None else f"its nearest frame is at {frame.time:.4f} s"
                    raise DataError(f"{path}: must have a frame at {time:.4f} s, but {near}")
                if frame.is_corrupt or (frame.height, frame.width) != shape[:2]:
                    size = f"is damaged or has {frame.height} x {frame.width} pixels"
                    raise DataError(
                        f"{path}: the frame at {time:.4f} s {size}, but must be intact and have shape {shape}"
                    )
                out[row] = self._colours.reformat(frame, format="rgb24").to_ndarray()
        return out

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        self._path = self._container = self._before = self._after = None

    def _open_stream(self, path: Path) -> Any:
        """The video stream of `path`; opens the file if it is not the open one."""
        if path != self._path:
            try:
                import av
                from av.video.reformatter import VideoReformatter
            except ImportError:
                raise DataError(f"{path}: reading videos needs PyAV: pip install 'jepa-ray[video]'") from None
            self.close()
            # The format is fixed, because others, such as playlists, can open further files.
            self._container = av.open(str(path), format="mp4")
            self._colours, self._path = self._colours or VideoReformatter(), path
        if not self._container.streams.video:
            raise DataError(f"{path}: contains no video stream, but must have one")
        return self._container.streams.video[0]

    def _seek(self, path: Path, time: float) -> None:
        """Move so that decoding forward reaches the frame at `time`: stay, or seek to the keyframe before it."""
        if path == self._path and self._before is not None:
            latest = self._after or self._before
            if self._before.time - TOLERANCE <= time <= latest.time + SEEK_DISTANCE:
                return
        stream = self._open_stream(path)
        self._before = self._after = None
        self._container.seek(round(time / stream.time_base) - 1, backward=True, any_frame=False, stream=stream)
        self._frames = (frame for frame in self._container.decode(stream) if frame.pts is not None)

    def _nearest(self, time: float) -> Any:
        """The frame nearest to `time`, found by decoding until a frame is later; None if there is no frame."""
        if self._before is None:
            self._before, self._after = next(self._frames, None), next(self._frames, None)
        while self._after is not None and self._after.time <= time:
            self._before, self._after = self._after, next(self._frames, None)
        if self._before is None or self._after is None:
            return self._before
        return min(self._before, self._after, key=lambda frame: abs(frame.time - time))

    @contextmanager
    def _report_damage(self, path: Path) -> Iterator[None]:
        """Raise the errors of the decoder as `DataError`, and reset the position, which is then unknown."""
        try:
            yield
        except Exception as error:
            self.close()
            if isinstance(error, PARSER_ERRORS) or type(error).__module__.startswith("av."):
                raise DataError(f"{path}: cannot be decoded ({short_reason(error)})") from error
            raise
