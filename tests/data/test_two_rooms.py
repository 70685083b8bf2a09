from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from jepa_ray.config import TwoRoomsConfig
from jepa_ray.data.two_rooms import (
    DOOR_HALF,
    MARGIN,
    MAX_STEP,
    SIDE,
    WALL_HALF,
    Rooms,
    TwoRoomsEpisodes,
    simulate,
)

TOLERANCE = 1e-3  # of float32 positions, in pixels of a 32-px frame
WALLS = pytest.mark.parametrize("wall", ["fixed", "random"])


def one_room(wall_x: float = 16.0, door_y: float = 10.0) -> Rooms:
    return Rooms(np.array([wall_x], np.float32), np.array([door_y], np.float32))


def push(rooms: Rooms, start: tuple[float, float], action: tuple[float, float]) -> list[float]:
    """The position of a dot after one action from `start`."""
    moved = rooms.step(np.array([start], np.float32), np.array([action], np.float32))
    return list(moved[0].astype(float))


def walk(wall: str, steps: int = 150, episodes: int = 600) -> Iterator[tuple[Rooms, np.ndarray, np.ndarray]]:
    """Yield layouts, and positions before and after each step, for strong actions that often meet the wall."""
    rng = np.random.default_rng(7)
    rooms = Rooms.sample(episodes, wall, rng)
    before = rooms.starts(rng)
    direction = rng.uniform(-1, 1, before.shape)
    for _ in range(steps):
        direction = 0.9 * direction + 0.5 * rng.normal(size=before.shape)
        after = rooms.step(before, np.clip(direction, -1, 1).astype(np.float32))
        yield rooms, before.astype(float), after.astype(float)
        before = after


# ------------------------------------------------------------------------------------- determinism


@WALLS
def test_same_config_gives_the_same_bytes(wall: str) -> None:
    config = TwoRoomsConfig(trajectories=5, steps=6, wall=wall, seed=3)
    first, second = simulate(config), simulate(config)
    for name in ("pixels", "action", "state"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@WALLS
def test_different_seeds_give_different_data(wall: str) -> None:
    first, second = (simulate(TwoRoomsConfig(trajectories=5, steps=6, wall=wall, seed=seed)) for seed in (0, 1))
    for name in ("pixels", "action", "state"):
        assert not np.array_equal(getattr(first, name)[:, :-1], getattr(second, name)[:, :-1])


def test_episodes_of_one_seed_differ_from_each_other(rooms: TwoRoomsConfig) -> None:
    starts = simulate(rooms).state[:, 0]
    assert len(np.unique(starts, axis=0)) == rooms.trajectories


def test_frame_size_does_not_change_positions() -> None:
    small, large = (simulate(TwoRoomsConfig(trajectories=3, steps=4, image_size=size)) for size in (16, 48))
    assert np.array_equal(small.state, large.state)
    assert (small.pixels.shape, large.pixels.shape) == ((3, 5, 16, 16, 3), (3, 5, 48, 48, 3))


def test_only_a_fixed_wall_is_shared_by_all_episodes() -> None:
    def layouts(wall: str) -> np.ndarray:
        first_frames = simulate(TwoRoomsConfig(trajectories=12, steps=1, wall=wall)).pixels[:, 0, :, :, 1]
        return np.unique(first_frames.reshape(12, -1), axis=0)

    assert len(layouts("fixed")) == 1
    assert len(layouts("random")) > 6


# ----------------------------------------------------------------------------------------- actions


def test_only_the_last_action_is_nan(rooms: TwoRoomsConfig) -> None:
    action = simulate(rooms).action
    assert action.shape == (rooms.trajectories, rooms.steps + 1, 2)
    assert np.isnan(action[:, -1]).all()
    assert np.isfinite(action[:, :-1]).all()
    assert np.abs(action[:, :-1]).max() <= 1


def test_action_leads_from_its_row_to_the_next_row(rooms: TwoRoomsConfig) -> None:
    """In free space the displacement is MAX_STEP * action; storing the previous action instead would fail."""
    episodes = simulate(rooms)
    free = np.abs(episodes.state[:, :-1, 0] - SIDE / 2) > MAX_STEP + WALL_HALF
    free &= ((episodes.state[:, 1:] > MARGIN) & (episodes.state[:, 1:] < SIDE - MARGIN)).all(-1)
    moved = np.diff(episodes.state, axis=1)
    assert free.sum() > 50
    np.testing.assert_allclose(moved[free], MAX_STEP * episodes.action[:, :-1][free], atol=1e-4)


# ----------------------------------------------------------------------------------- walls and doors


@WALLS
def test_dot_stays_within_the_margin(wall: str) -> None:
    for _, _, after in walk(wall):
        assert after.min() >= MARGIN - TOLERANCE
        assert after.max() <= SIDE - MARGIN + TOLERANCE


@WALLS
def test_starts_are_outside_the_wall_and_in_both_rooms(wall: str) -> None:
    rng = np.random.default_rng(0)
    rooms = Rooms.sample(2000, wall, rng)
    offset = rooms.starts(rng)[:, 0] - rooms.wall_x
    assert np.abs(offset).min() >= WALL_HALF
    assert 0.2 < (offset > 0).mean() < 0.8


@WALLS
def test_wall_is_entered_only_through_the_door(wall: str) -> None:
    entered = 0
    for rooms, before, after in walk(wall):
        side = np.sign(before[:, 0] - rooms.wall_x)
        face = rooms.wall_x + side * WALL_HALF
        enters = (np.abs(before[:, 0] - rooms.wall_x) >= WALL_HALF) & ((after[:, 0] - face) * side < -TOLERANCE)
        height = before[enters, 1]  # it moves in x first, at its current height
        assert (np.abs(height - rooms.door_y[enters]) <= DOOR_HALF + TOLERANCE).all()
        entered += int(enters.sum())
    assert entered > 100, "the walk proves nothing if the dot never goes through the door"


@WALLS
def test_dot_changes_rooms_only_at_the_height_of_the_door(wall: str) -> None:
    changed = 0
    for rooms, before, after in walk(wall):
        changes = (before[:, 0] - rooms.wall_x) * (after[:, 0] - rooms.wall_x) < 0
        height = before[changes, 1]
        assert (np.abs(height - rooms.door_y[changes]) <= DOOR_HALF + TOLERANCE).all()
        changed += int(changes.sum())
    assert changed > 100


@WALLS
def test_dot_never_rests_inside_the_wall(wall: str) -> None:
    for rooms, _, after in walk(wall):
        in_wall = np.abs(after[:, 0] - rooms.wall_x) < WALL_HALF - TOLERANCE
        assert (np.abs(after[in_wall, 1] - rooms.door_y[in_wall]) <= DOOR_HALF + TOLERANCE).all()


def test_simulated_episodes_change_rooms_only_at_the_door_too() -> None:
    state = simulate(TwoRoomsConfig(trajectories=200, steps=50)).state.astype(float)
    before, after = state[:, :-1].reshape(-1, 2), state[:, 1:].reshape(-1, 2)
    outside = (np.abs(before[:, 0] - SIDE / 2) >= WALL_HALF) & (np.abs(after[:, 0] - SIDE / 2) >= WALL_HALF)
    changes = outside & ((before[:, 0] - SIDE / 2) * (after[:, 0] - SIDE / 2) < 0)
    height = before[changes, 1]
    assert changes.sum() > 20
    assert (np.abs(height - SIDE * 0.3) <= DOOR_HALF + TOLERANCE).all()


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((13.5, 20.0), (1.0, 0.0), (15.0, 20.0)),  # stopped by the wall from the left
        ((18.5, 20.0), (-1.0, 0.0), (17.0, 20.0)),  # stopped by the wall from the right
        ((13.5, 20.0), (1.0, 0.5), (15.0, 21.5)),  # slides along the wall
        ((15.0, 20.0), (1.0, 0.0), (15.0, 20.0)),  # already touches the wall
        ((15.0, 20.0), (-1.0, 0.0), (12.0, 20.0)),  # moves away from the wall
        ((14.5, 10.0), (1.0, 0.0), (17.5, 10.0)),  # through the door
        ((17.5, 10.0), (-1.0, 0.0), (14.5, 10.0)),  # back through the door
        ((14.5, 13.2), (1.0, 0.0), (15.0, 13.2)),  # just outside the door
        ((14.5, 12.8), (1.0, 0.0), (17.5, 12.8)),  # just inside the door
        # Meets the wall at y = 15, although it ends at the height of the door.
        ((14.0, 16.0), (1.0, -1.0), (15.0, 13.0)),
        ((3.0, 20.0), (-1.0, 0.0), (2.0, 20.0)),  # stopped by the border
        ((10.0, 29.0), (0.0, 1.0), (10.0, 30.0)),
        ((10.0, 20.0), (0.5, -0.25), (11.5, 19.25)),  # free space
    ],
)
def test_positions_after_pushes_equal_the_geometry(
    start: tuple[float, float], action: tuple[float, float], end: tuple[float, float]
) -> None:
    assert push(one_room(), start, action) == pytest.approx(end, abs=1e-4)


def test_repeated_pushes_never_leak_through_the_wall() -> None:
    rooms, position = one_room(), np.array([[13.0, 25.0]], np.float32)
    for _ in range(50):
        position = rooms.step(position, np.array([[1.0, 0.0]], np.float32))
    assert position[0].tolist() == pytest.approx([15.0, 25.0])


# ------------------------------------------------------------------------------------------ pixels


@pytest.mark.parametrize("size", [16, 32, 64])
def test_brightest_pixel_contains_the_position(size: int) -> None:
    rng = np.random.default_rng(0)
    position = rng.uniform(MARGIN, SIDE - MARGIN, (50, 2)).astype(np.float32)
    rooms = Rooms.sample(50, "fixed", rng)
    red = rooms.render(position, size, 0.5)[..., 0].reshape(50, -1)
    y, x = np.unravel_index(red.argmax(1), (size, size))
    centre = (np.stack([x, y], 1) + 0.5) * (SIDE / size)  # x is the column, y the row
    assert np.abs(centre - position).max() <= SIDE / size / 2 + TOLERANCE


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_dot_is_a_gaussian_of_the_given_width(std: float) -> None:
    red = one_room().render(np.array([[8.5, 20.5]], np.float32), 32, std)[0, :, :, 0].astype(float) / 255
    columns, rows = np.meshgrid(np.arange(32), np.arange(32))
    expected = np.exp(-((columns - 8) ** 2 + (rows - 20) ** 2) / (2 * std**2))
    np.testing.assert_allclose(red, expected, atol=0.5 / 255 + 1e-6)


def test_dot_scales_with_the_frame() -> None:
    """A frame of twice the side has the same share of lit pixels."""
    position = np.array([[8.0, 20.0]], np.float32)
    small, large = (one_room().render(position, size, 2.0)[0, :, :, 0] > 127 for size in (32, 64))
    assert large.sum() == pytest.approx(4 * small.sum(), rel=0.1)


@pytest.mark.parametrize("size", [32, 64])
def test_drawn_wall_has_its_position_and_its_door(size: int) -> None:
    green = one_room(16.0, 10.0).render(np.array([[5.0, 5.0]], np.float32), size, 2.0)[0, :, :, 1]
    centres = (np.arange(size) + 0.5) * (SIDE / size)
    columns = np.abs(centres - 16) <= WALL_HALF
    closed = np.abs(centres - 10) > DOOR_HALF
    assert np.array_equal(green == 255, closed[:, None] & columns[None, :])
    assert set(np.unique(green)) == {0, 255}


def test_frames_show_the_states_of_their_rows(rooms: TwoRoomsConfig) -> None:
    episodes: TwoRoomsEpisodes = simulate(rooms.model_copy(update={"dot_std": 0.7}))
    red = episodes.pixels[..., 0].reshape(*episodes.state.shape[:2], -1)
    y, x = np.unravel_index(red.argmax(-1), episodes.pixels.shape[2:4])
    # Half a pixel, and the resolution of 8-bit brightness.
    assert np.abs(np.stack([x, y], -1) + 0.5 - episodes.state).max() <= 0.52
