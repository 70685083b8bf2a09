"""Pictures of planned episodes show success and failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_ray.errors import ConfigError
from jepa_ray.planning.picture import MISSED, REACHED, save_picture
from jepa_ray.planning.success import EpisodeRecording, Outcome


def recording(steps: int, success: bool) -> EpisodeRecording:
    path = np.linspace([0.2, 0.2], [0.7, 0.6], steps + 1, dtype=np.float32)
    frames = np.zeros((steps + 1, 16, 16, 3), np.uint8)
    frames[:, :, 8, 1] = 255
    outcome = Outcome(success, steps if success else None, 1.0)
    return EpisodeRecording(outcome, frames, path, np.array([0.7, 0.6], np.float32))


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return set(map(tuple, pixels.tolist()))


def near(wanted: tuple[int, ...], image: Image.Image) -> bool:
    """Whether the image has a colour, within the error of a palette of 128 colours."""
    return any(max(abs(a - b) for a, b in zip(wanted, seen, strict=True)) <= 12 for seen in colours(image))


@pytest.mark.parametrize(("success", "there", "missing"), [(True, REACHED, MISSED), (False, MISSED, REACHED)])
@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_shows_whether_the_goal_was_reached(
    tmp_path: Path, suffix: str, success: bool, there: tuple[int, ...], missing: tuple[int, ...]
) -> None:
    path = tmp_path / f"sub/plan{suffix}"
    save_picture([recording(4, success)], path)
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        assert near(there, image)
        assert not near(missing, image)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no partial file is left"


def test_an_animation_has_a_frame_per_state_and_starts_undecided(tmp_path: Path) -> None:
    save_picture([recording(4, True), recording(6, False)], tmp_path / "plan.gif")
    with Image.open(tmp_path / "plan.gif") as image:
        assert image.n_frames == 7
        assert not near(REACHED, image)
        assert not near(MISSED, image)


def test_a_sixth_episode_starts_a_new_row(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 5, 6):
        save_picture([recording(2, True)] * count, tmp_path / "plan.png")
        with Image.open(tmp_path / "plan.png") as image:
            sizes.append(image.size)
    (width, height), (wide, same), (as_wide, high) = sizes
    assert (wide, as_wide) == (5 * (width - 8) + 8, wide)
    assert (same, high) == (height, 2 * (height - 8) + 8)


@pytest.mark.parametrize(
    ("name", "count", "message"), [("a.jpg", 1, r"must end in \.png or \.gif"), ("a.png", 0, "set record to 1 or more")]
)
def test_invalid_pictures_are_refused(tmp_path: Path, name: str, count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        save_picture([recording(2, True)] * count, tmp_path / name)
