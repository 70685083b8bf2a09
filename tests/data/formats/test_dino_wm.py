"""DINO-WM's folders, written in the layout that its repository reads."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_ray.data.formats.dino_wm import DinoWM
from jepa_ray.data.formats.peek import peek
from jepa_ray.errors import DataError

LENGTHS = (5, 3, 4)
ROWS = 5


def write(folder: Path, seed: int = 0, actions: str = "actions.pth", frames: bool = True) -> dict[str, Any]:
    """Write three episodes padded to `ROWS`; returns the columns without padding."""
    make = torch.Generator().manual_seed(seed)
    table = {"states.pth": torch.rand(3, ROWS, 4, generator=make), actions: torch.rand(3, ROWS, 2, generator=make)}
    (folder / "obses").mkdir(parents=True)
    for name, value in table.items():
        torch.save(value, folder / name)
    torch.save(torch.tensor(LENGTHS), folder / "seq_lengths.pth")
    pixels = [torch.randint(0, 256, (n, 6, 8, 3), generator=make, dtype=torch.uint8) for n in LENGTHS]
    for episode, value in enumerate(pixels):
        torch.save(value, folder / "obses" / f"episode_{episode:03d}.pth")
    if not frames:
        shutil.rmtree(folder / "obses")
    used = {name: torch.cat([v[e, :n] for e, n in enumerate(LENGTHS)]) for name, v in table.items()}
    return {"state": used["states.pth"].numpy(), "action": used[actions].numpy(), "pixels": torch.cat(pixels).numpy()}


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message), DinoWM().open(folder):
        pass


@pytest.mark.parametrize("actions", ["actions.pth", "rel_actions.pth"])
def test_read_values_equal_the_written_values(tmp_path: Path, actions: str) -> None:
    written = write(tmp_path, actions=actions)
    assert DinoWM().recognises(peek(tmp_path))
    assert len(DinoWM().files(tmp_path)) == 6
    with DinoWM().open(tmp_path) as got:
        assert got.lengths.tolist() == list(LENGTHS)
        assert got.held_out is None
        assert got.notes == ()
        for name, expected in (written | {"observation": written["state"]}).items():
            assert got.columns[name].shape == expected.shape
            for rows in (slice(None), slice(3, 9), slice(8, 12), slice(4, 4)):
                np.testing.assert_array_equal(got.columns[name][rows], expected[rows], strict=True)


def test_velocities_join_the_state_and_relative_actions_are_preferred(tmp_path: Path) -> None:
    written = write(tmp_path, actions="rel_actions.pth")
    torch.save(torch.zeros(3, ROWS, 2), tmp_path / "abs_actions.pth")
    torch.save(torch.full((3, ROWS, 2), 7.0), tmp_path / "velocities.pth")
    with DinoWM().open(tmp_path) as got:
        state = got.columns["state"][:]
        np.testing.assert_array_equal(state[:, :4], written["state"])
        assert (state[:, 4:] == 7).all()
        assert state.shape == (12, 6)
        np.testing.assert_array_equal(got.columns["action"][:], written["action"])
        assert got.notes == ("the actions are read from rel_actions.pth, not from abs_actions.pth",)


def test_without_lengths_all_rows_are_used_and_particles_become_vectors(tmp_path: Path) -> None:
    write(tmp_path, frames=False)
    (tmp_path / "seq_lengths.pth").unlink()
    particles = torch.rand(3, ROWS, 7, 3)
    torch.save(particles, tmp_path / "states.pth")
    with DinoWM().open(tmp_path) as got:
        assert got.lengths.tolist() == [ROWS] * 3
        np.testing.assert_array_equal(got.columns["observation"][:], particles.reshape(15, 21).numpy())


def test_val_folder_is_held_out(tmp_path: Path) -> None:
    parts = [write(tmp_path / name, seed) for seed, name in enumerate(("train", "val"))]
    assert DinoWM().recognises(peek(tmp_path))
    with DinoWM().open(tmp_path) as got:
        assert got.held_out is not None
        assert got.held_out.tolist() == [False] * 3 + [True] * 3
        for name in parts[0]:
            np.testing.assert_array_equal(got.columns[name][:], np.concatenate([part[name] for part in parts]))


@pytest.mark.parametrize(("train", "val", "only"), [(True, False, "train"), (False, True, "val")])
def test_column_of_only_one_part_is_noted(tmp_path: Path, train: bool, val: bool, only: str) -> None:
    write(tmp_path / "train", frames=train)
    write(tmp_path / "val", frames=val)
    with DinoWM().open(tmp_path) as got:
        assert "pixels" not in got.columns
        assert got.notes == (f"pixels is not read: only {only}/ has it",)


def test_pickled_lengths_are_refused_and_their_code_does_not_run(tmp_path: Path) -> None:
    write(tmp_path)
    canary, path = tmp_path / "ran", tmp_path / "seq_lengths.pkl"
    (tmp_path / "seq_lengths.pth").unlink()

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    path.write_bytes(pickle.dumps(Hostile()))
    assert_refused(tmp_path, "python -c .*torch.save.*seq_lengths.pth")
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # control: the code runs when the pickle is loaded
    assert canary.exists()


def test_command_in_the_error_converts_pickled_lengths(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "seq_lengths.pth").unlink()
    (tmp_path / "seq_lengths.pkl").write_bytes(pickle.dumps(list(LENGTHS)))
    with pytest.raises(DataError) as error, DinoWM().open(tmp_path):
        pass
    exec(str(error.value).split('"')[1])
    with DinoWM().open(tmp_path) as got:
        assert got.lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("states.pth", torch.zeros(3, ROWS), "must be floats"),
        ("states.pth", torch.zeros(0, ROWS, 4), "must be floats"),
        ("states.pth", [torch.zeros(3, ROWS, 4)], "dense tensor"),
        (
            "actions.pth",
            torch.zeros(3, ROWS + 1, 2),
            r"actions.pth: has \(3, 6\) episodes and rows, but must have \(3, 5\)",
        ),
        (
            "actions.pth",
            torch.zeros(2, ROWS, 2),
            r"actions.pth: has \(2, 5\) episodes and rows, but must have \(3, 5\)",
        ),
        ("velocities.pth", torch.zeros(2, ROWS, 2), r"velocities.pth: has \(2, 5\) episodes and rows, but must have"),
        ("seq_lengths.pth", torch.tensor([5, 3]), "integers"),
        ("seq_lengths.pth", torch.tensor([5.0, 3, 4]), "integers"),
        ("seq_lengths.pth", torch.tensor([5, 0, 4]), "outside 1 to 5"),
        ("seq_lengths.pth", torch.tensor([6, 3, 4]), "outside 1 to 5"),
        ("obses/episode_000.pth", torch.zeros(5, 3, 6, 8, dtype=torch.uint8), "channels first"),
        ("obses/episode_000.pth", torch.zeros(5, 6, 8, 3), "must be uint8"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    write(tmp_path)
    torch.save(content, tmp_path / name)
    assert_refused(tmp_path, message)


@pytest.mark.parametrize(
    ("name", "message"), [("actions.pth", "lacks the actions"), ("obses/episode_001.pth", "is missing")]
)
def test_missing_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    assert_refused(tmp_path, message)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (3, 6, 9, 3), (3, 3, 6, 8)])
def test_invalid_frames_of_a_later_episode_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write(tmp_path)
    torch.save(torch.zeros(shape, dtype=torch.uint8), tmp_path / "obses" / "episode_001.pth")
    with DinoWM().open(tmp_path) as got, pytest.raises(DataError, match="episode_001"):
        got.columns["pixels"][:]


@pytest.mark.parametrize("name", ["states.pth", "obses/episode_000.pth"])
def test_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    assert_refused(tmp_path, "readable|damaged")


def video(path: Path, frames: int) -> None:
    """Write an mp4 of grey frames; each is 20 brighter than the one before."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for row in range(frames):
            image = np.full((16, 32, 3), 20 * row + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_videos_are_read_in_any_order(tmp_path: Path) -> None:
    write(tmp_path, frames=False)
    (tmp_path / "obses").mkdir()
    for episode, length in enumerate(LENGTHS):
        video(tmp_path / "obses" / f"episode_{episode:03d}.mp4", length)
    expected = np.concatenate([20 * np.arange(n) + 20 for n in LENGTHS])
    with DinoWM().open(tmp_path) as got:
        pixels = got.columns["pixels"]
        assert (pixels.shape, pixels.dtype) == ((12, 16, 32, 3), np.uint8)
        for rows in (slice(None), slice(1, 3), slice(4, 9), slice(2, 5), slice(11, 12)):
            np.testing.assert_allclose(pixels[rows].mean(axis=(1, 2, 3)), expected[rows], atol=4)
    video(tmp_path / "obses" / "episode_001.mp4", 2)
    with DinoWM().open(tmp_path) as got, pytest.raises(DataError, match="has 2 frames"):
        got.columns["pixels"][:]
