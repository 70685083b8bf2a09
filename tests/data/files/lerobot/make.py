"""Makes datasets.zip with the LeRobot library: pip install lerobot==0.4.4, then python make.py.

Each dataset has its own folder. `<name>.npz` contains the values that the library returns for its rows, `ds[i]`: one
array per key, frames as uint8 (N, H, W, C).

LeRobot 0.4.4 decodes videos with torchcodec, or with a part of torchvision that has been removed since. If neither is
installed, videos are decoded with PyAV as in LeRobot 0.6.1: for each row, decoding starts at the keyframe before it and
takes the frame nearest in time.
"""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import av
import datasets
import numpy as np
import torch
from lerobot.datasets import lerobot_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset

HERE = Path(__file__).parent
LENGTHS = (6, 4, 7, 5, 3)
SIDES = (64, 80)  # height and width; video encoders need at least 64 pixels


def nearest(path: Path | str, timestamps: list[float], tolerance_s: float, backend: str) -> torch.Tensor:
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(round(min(timestamps) / stream.time_base) - 1, backward=True, any_frame=False, stream=stream)
        for frame in container.decode(stream):
            frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
            times.append(float(frame.pts * stream.time_base))
            if times[-1] >= max(timestamps):
                break
    distance, which = (torch.tensor(timestamps)[:, None] - torch.tensor(times)).abs().min(1)
    assert (distance < tolerance_s).all(), (path, timestamps, times)
    return torch.stack([frames[i] for i in which]).float() / 255


if importlib.util.find_spec("torchcodec") is None:
    lerobot_dataset.decode_video_frames = nearest


encode = datasets.Value.encode_example


def encode_one(self: Any, value: Any) -> Any:
    """Convert an array of one number to that number; NumPy no longer does this implicitly."""
    return encode(self, value.item() if isinstance(value, np.ndarray) and value.size == 1 else value)


datasets.Value.encode_example = encode_one


def vector(width: int, dtype: str = "float32", shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or (width,), "names": None}


def camera(dtype: str, sides: tuple[int, int], first: bool) -> dict[str, Any]:
    """The description of a camera whose shape has the channels first or last; datasets have both."""
    names = ["channels", "height", "width"] if first else ["height", "width", "channels"]
    return {"dtype": dtype, "shape": (3, *sides) if first else (*sides, 3), "names": names}


NUMBERS = {"observation.state": vector(3), "action": vector(2), "next.reward": vector(1)}
KINDS: dict[str, dict[str, Any]] = {
    "vectors": NUMBERS
    | {
        "observation.environment_state": vector(4, "float64"),
        "next.done": vector(1, "bool"),
        "grid": vector(0, "int32", (2, 3)),
        "mood": vector(1, "string"),
    },
    "images": NUMBERS
    | {
        "observation.images.top": camera("image", (12, 16), first=True),
        "observation.images.wrist": camera("image", (8, 8), first=False),
    },
    "videos": NUMBERS
    | {
        "observation.images.top": camera("video", SIDES, first=False),
        "observation.images.wrist": camera("video", SIDES, first=True),
    },
    "h264": NUMBERS | {"observation.image": camera("video", SIDES, first=False)},
}


def value(feature: dict[str, Any], rng: np.random.Generator, episode: int, step: int) -> Any:
    if feature["dtype"] == "string":
        return f"mood {step}"
    if feature["dtype"] == "bool":
        return rng.random(feature["shape"]) < 0.5
    if feature["dtype"] in ("image", "video"):
        return picture(feature, episode, step)
    return (10 * rng.normal(size=feature["shape"])).astype(feature["dtype"])


def picture(feature: dict[str, Any], episode: int, step: int) -> np.ndarray:
    """A square whose position depends on the step and whose colour on the episode; recognizable after lossy coding."""
    first = feature["names"][0] == "channels"
    height, width = feature["shape"][first : 2 + first]
    frame = np.full((height, width, 3), 30 * episode + 20, np.uint8)
    size = height // 4
    row, column = (step % 3) * size, (step // 3) * size
    frame[row : row + size, column : column + size] = np.roll((250, 120, 10), episode)
    return frame[::-1] if first else frame  # flipped, so that the two cameras differ


def make(folder: Path, name: str, file_mb: float, **options: Any) -> None:
    features, rng = KINDS[name], np.random.default_rng(len(name))
    dataset = LeRobotDataset.create(
        f"made/{name}", 10, features, folder / name, use_videos=name in ("videos", "h264"), **options
    )
    dataset.meta.info |= {"data_files_size_in_mb": file_mb, "video_files_size_in_mb": file_mb, "chunks_size": 2}
    for episode, length in enumerate(LENGTHS):
        for step in range(length):
            frame = {key: value(feature, rng, episode, step) for key, feature in features.items()}
            dataset.add_frame(frame | {"task": f"task {episode % 2}"})
        dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    np.savez_compressed(folder / f"{name}.npz", **returned(f"made/{name}", folder / name))


def returned(name: str, root: Path) -> dict[str, np.ndarray]:
    """The values that LeRobot reads from disk."""
    dataset = LeRobotDataset(
        name, root, video_backend="torchcodec" if importlib.util.find_spec("torchcodec") else "pyav"
    )
    rows = [dataset[i] for i in range(len(dataset))]
    arrays = {}
    for key in rows[0]:
        if isinstance(rows[0][key], torch.Tensor):
            arrays[key] = np.stack([row[key].numpy() for row in rows])
            if key in dataset.meta.camera_keys:
                frames = arrays[key] * 255
                assert np.abs(frames - frames.round()).max() < 1e-3
                arrays[key] = frames.round().astype(np.uint8).transpose(0, 2, 3, 1)
    return arrays


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, "vectors", 0.004)
        make(folder, "images", 0.004)
        make(folder, "videos", 0.003)
        make(folder, "h264", 100, vcodec="h264")
        with zipfile.ZipFile(HERE / "datasets.zip", "w", zipfile.ZIP_LZMA) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))
