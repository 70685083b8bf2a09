"""Makes datasets.zip with the Minari library: pip install 'minari[hdf5,arrow]==0.5.4', then python make.py.

Each dataset has its own folder. `<name>.npz` contains the values that the library reads from it, under the names
`<episode>/<observations, actions or rewards>/<path in the space>`. It is zipped because HDF5's chunks are mostly empty.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

HERE = Path(__file__).parent


class Sights(gym.Env[dict[str, Any], Any]):
    """`image` is too small for Minari to store it as JPEG, `camera` is not."""

    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (16, 16, 3), np.uint8),
        camera=spaces.Box(0, 255, (40, 32, 3), np.uint8),
        vector=spaces.Box(-1, 1, (2,), np.float32),
        mission=spaces.Text(20),
    )
    action_space = spaces.MultiDiscrete([3, 4])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._seen(), float(action.sum()) / 4, self._steps > 4, False, {}

    def _seen(self) -> dict[str, Any]:
        colours, place = self.np_random.integers(0, 256, (2, 3), np.uint8), self.np_random.uniform(-1, 1, 2)
        image = self.np_random.integers(0, 256, (16, 16, 3), np.uint8)
        camera = np.repeat(np.repeat(colours, [15, 25], axis=0)[:, None], 32, axis=1)
        return {"image": image, "camera": camera, "vector": place.astype(np.float32), "mission": f"go{self._steps}"}


def make(name: str, env: gym.Env[Any, Any], episodes: int, **options: Any) -> None:
    import minari

    env.action_space.seed(0)
    collector = minari.DataCollector(env, **options)
    for episode in range(episodes):
        collector.reset(seed=episode)
        over = False
        # episodes of different lengths, so that mixing up episodes is detected
        for _ in range(5 + episode % 4):
            if not over:
                _, _, terminated, truncated, _ = collector.step(env.action_space.sample())
                over = bool(terminated or truncated)
    collector.create_dataset(f"{name}-v0")
    arrays = {}
    for episode in minari.load_dataset(f"{name}-v0").iterate_episodes():
        for key in ("observations", "actions", "rewards"):
            for path, values in leaves(getattr(episode, key), key):
                arrays[f"{episode.id}/{path}"] = np.asarray(values)
    home = Path(os.environ["MINARI_DATASETS_PATH"])
    np.savez_compressed(home / f"{name}.npz", **arrays)
    (home / f"{name}-v0").rename(home / name)


def leaves(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield path, values
        return
    for key, below in values.items():
        yield from leaves(below, f"{path}/{key}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        for kind in ("hdf5", "arrow"):
            pendulum = gym.wrappers.TimeLimit(gym.make("Pendulum-v1").unwrapped, 8)
            make(f"pendulum_{kind}", pendulum, 12, data_format=kind)
            for jpeg in (True, False):
                make(f"sights_{kind}{'_jpeg' * jpeg}", Sights(), 3, data_format=kind, jpeg_encoding=jpeg)
        with zipfile.ZipFile(HERE / "datasets.zip", "w", zipfile.ZIP_LZMA) as archive:
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(folder))
