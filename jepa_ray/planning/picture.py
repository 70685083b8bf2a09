"""Pictures of planned episodes: a still image (PNG) with all paths, or an animation (GIF)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jepa_ray.errors import ConfigError
from jepa_ray.files import write_atomically
from jepa_ray.planning.success import EpisodeRecording

TILE = 160  # side of an episode's tile, in pixels
GAP = 8
CAPTION = 20
COLUMNS = 5
SUPERSAMPLE = 3  # Pillow draws lines without anti-aliasing: tiles are drawn larger by this factor, then shrunk
SECONDS_PER_FRAME = 0.12
LAST_FRAME_SECONDS = 1.5

PAPER = (255, 255, 255)
INK = (60, 60, 60)
FLOOR, LIGHT = np.array([244, 244, 241]), np.array([64, 68, 76])
REACHED, MISSED, START, GOAL = (24, 119, 84), (200, 55, 45), (70, 110, 190), (225, 150, 20)


def save_picture(recordings: Sequence[EpisodeRecording], path: Path) -> None:
    """Write a picture of episodes: start (blue), goal (amber) and path, green for success and red for failure.

    The file name extension decides the format: `.png` is a still image, `.gif` an animation. Raises `ConfigError` for
    another extension.
    """
    if not recordings:
        raise ConfigError("a picture needs at least one recorded episode: set record to 1 or more")
    check_ending(path)
    write_atomically(path, _png(recordings) if path.suffix == ".png" else _gif(recordings))


def check_ending(path: Path) -> None:
    """Raise `ConfigError` unless `save_picture` can write a file with this extension."""
    if path.suffix not in (".png", ".gif"):
        raise ConfigError(f"{path}: a picture of planned episodes must end in .png or .gif")


def _png(recordings: Sequence[EpisodeRecording]) -> bytes:
    buffer = io.BytesIO()
    _sheet(recordings, max(len(r.path) for r in recordings)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _gif(recordings: Sequence[EpisodeRecording]) -> bytes:
    steps = max(len(r.path) for r in recordings)
    sheets = [_sheet(recordings, shown) for shown in range(1, steps + 1)]
    palette = _stacked(sheets[0], sheets[-1]).quantize(128)  # one palette for all frames: otherwise colours flicker
    frames = [sheet.quantize(palette=palette, dither=Image.Dither.NONE) for sheet in sheets]
    duration = [round(1000 * SECONDS_PER_FRAME)] * (steps - 1) + [round(1000 * LAST_FRAME_SECONDS)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


def _stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    both = Image.new("RGB", (above.width, 2 * above.height))
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    return both


def _sheet(recordings: Sequence[EpisodeRecording], shown: int) -> Image.Image:
    """All episodes, each with its first `shown` states."""
    columns = min(COLUMNS, len(recordings))
    rows = -(-len(recordings) // columns)
    width, height = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12)
    for i, recording in enumerate(recordings):
        x, y = GAP + i % columns * width, GAP + i // columns * height
        sheet.paste(_tile(recording, shown), (x, y))
        text, colour = _caption(recording, shown)
        draw.text((x + TILE / 2, y + TILE + CAPTION / 2), text, fill=colour, font=font, anchor="mm")
    return sheet


def _caption(recording: EpisodeRecording, shown: int) -> tuple[str, tuple[int, int, int]]:
    step = min(shown, len(recording.path)) - 1
    if shown < len(recording.path):
        return f"step {step}", INK
    return (f"reached in {step} steps", REACHED) if recording.outcome.success else (f"missed in {step} steps", MISSED)


def _tile(recording: EpisodeRecording, shown: int) -> Image.Image:
    side = TILE * SUPERSAMPLE
    tile = Image.fromarray(_scenery(recording)).resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(tile)
    ended = shown >= len(recording.path)
    colour = INK if not ended else REACHED if recording.outcome.success else MISSED
    points = [tuple(point) for point in (recording.path[:shown] * side).tolist()]
    _ring(draw, tuple((recording.goal * side).tolist()), side / 22, GOAL)
    draw.line(points, fill=colour, width=side // 70, joint="curve")
    for point in points[1:]:
        _disc(draw, point, side / 110, colour)
    _disc(draw, points[0], side / 36, START)
    _disc(draw, points[-1], side / 36, colour)
    draw.rectangle((0, 0, side - 1, side - 1), outline=colour if ended else (200, 200, 200), width=2 * SUPERSAMPLE)
    return tile.resize((TILE, TILE), Image.Resampling.LANCZOS)


def _scenery(recording: EpisodeRecording) -> NDArray[np.uint8]:
    """The static background (H, W, 3) in light colours: the minimum of each pixel over time removes the moving dot."""
    still = recording.frames.min(0).astype(np.float64) / 255
    share = still.max(-1, keepdims=True)
    return ((1 - share) * FLOOR + share * LIGHT).astype(np.uint8)


def _disc(draw: ImageDraw.ImageDraw, centre: tuple[float, ...], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _ring(draw: ImageDraw.ImageDraw, centre: tuple[float, ...], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=round(radius / 3))
