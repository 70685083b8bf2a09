"""Plays episodes of a Gymnasium environment and writes them to one canonical HDF5 file.

Each environment runs together with its policy (`_Actor`), in its own process if there are several. So the policy sees
complete observations, including texts, and only the columns of the file are transferred. Only the unfinished episodes
are kept in memory.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.hdf5 import FILE_CHUNK_BYTES, new_column, new_file
from jepa_ray.errors import DataError

Policy = Callable[[Any, Any, np.random.Generator], Any]  # (observation, action space, rng) -> action
Row = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Task:
    """The settings that all environments of one collection share."""

    env_id: str
    policy: str
    observe: Literal["state", "pixels"]
    key: str | None
    image_size: int | None
    max_steps: int | None


def collect(
    env_id: str,
    out: Path,
    *,
    policy: str = "random",
    episodes: int,
    observe: Literal["state", "pixels"] = "state",
    key: str | None = None,
    image_size: int | None = None,
    num_envs: int = 1,
    max_steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Play episodes and write them to a file; the same arguments give the same content.

    Args:
        env_id: an environment ID for `gymnasium.make`; `MODULE:ENV_ID` is allowed.
        out: the HDF5 file to write.
        policy: `random`, or `MODULE:FN` for a function `fn(observation, action_space, rng) -> action`.
        episodes: number of episodes; T actions give T + 1 rows, and the last row has no action (NaN or 0).
        observe: `state`: vectors (N, D) float32; `pixels`: frames (N, H, W, C) uint8, and the observation as `state` if
            frames are rendered.
        key: key of a Dict observation to record; None: all keys except texts.
        image_size: side of the square frames, in pixels; None: as rendered.
        num_envs: number of parallel environments; each has its own process if there are several.
        max_steps: maximum steps of an episode, in addition to the environment's own limit.
        seed: random seed of environments and policies.
        progress: called with the number of finished episodes and of all episodes.

    Raises `DataError` for invalid arguments, an environment that fails, or a file that cannot be written.
    """
    if min(episodes, num_envs) < 1 or (max_steps is not None and max_steps < 1):
        raise DataError(
            f"episodes is {episodes}, num_envs {num_envs} and max_steps {max_steps}, but each must be at least 1"
        )
    gym = _import_gymnasium()
    task = _Task(env_id, policy, observe, key, image_size, max_steps)
    num = min(num_envs, episodes)
    # A fixed number of episodes per environment: taking the first to finish would favour short episodes.
    quotas = [episodes // num + (i < episodes % num) for i in range(num)]
    with _errors_of_environment(env_id):
        actors = [partial(_Actor, task, quota, seed, i) for i, quota in enumerate(quotas)]
        envs = gym.vector.SyncVectorEnv(actors) if num == 1 else gym.vector.AsyncVectorEnv(actors)
    done = False
    try:
        with _Writer.open(out) as writer:
            for count, episode in enumerate(_play(envs, env_id, quotas), 1):
                writer.append(episode)
                if progress:
                    progress(count, episodes)
        done = True
    finally:
        # A process that died or was interrupted does not respond to a regular close.
        envs.close(**({} if done or num == 1 else {"terminate": True}))


def _import_gymnasium() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # frames are read from memory; no window is needed
    try:
        importlib.import_module("gymnasium.vector")
        return importlib.import_module("gymnasium")
    except ModuleNotFoundError:
        raise DataError("collect needs Gymnasium: pip install 'jepa-ray[collect]'") from None


@contextlib.contextmanager
def _errors_of_environment(env_id: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # an environment is third-party code and may raise anything
        raise DataError(f"{env_id}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _play(envs: Any, env_id: str, quotas: list[int]) -> Iterator[Row]:
    """Yield each finished episode as a dict of columns."""
    left = list(quotas)
    rows: list[list[Row]] = [[] for _ in left]
    with _errors_of_environment(env_id):
        seen, _ = envs.reset()
    fresh, ended = np.ones(len(left), bool), np.zeros(len(left), bool)
    while True:
        for i in np.flatnonzero(left):
            row = {name: column[i].copy() for name, column in seen.items()}
            if not fresh[i]:  # the action that led to this row is stored in the row before
                rows[i][-1] |= {name: row[name] for name in ("action", "reward")}
            rows[i].append(row | {"action": _blank_action(row["action"]), "reward": np.zeros_like(row["reward"])})
        for i in np.flatnonzero(left):
            if not fresh[i] and ended[i]:
                yield {name: np.stack([row[name] for row in rows[i]]) for name in rows[i][0]}
                left[i], rows[i] = left[i] - 1, []
        if not any(left):
            return
        # The default autoreset mode (NEXT_STEP) makes the step after an end a reset, which returns a first row.
        fresh = np.array([not begun for begun in rows])
        with _errors_of_environment(env_id):
            seen, _, terminated, truncated, _ = envs.step(np.zeros(len(left), np.int64))
        ended = terminated | truncated


def _blank_action(action: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(action, np.nan if action.dtype == np.float32 else 0)


class _Actor:
    """An environment together with its policy; acts as an environment that ignores the actions it is given."""

    def __init__(self, task: _Task, quota: int, seed: int, index: int) -> None:
        gym = _import_gymnasium()
        self.task, self.left = task, quota
        self.policy = _load_policy(task.policy)
        env_seed, space_seed, policy_seed = (int(n) for n in np.random.SeedSequence([seed, index]).generate_state(3))
        self.seed: int | None = env_seed
        self.rng = np.random.default_rng(policy_seed)
        self.env, self.rendered = _make_environment(gym, task)
        self.env.action_space.seed(space_seed)
        self.encode_action, self.blank = _action_encoding(self.env.action_space, task.env_id)
        self.raw: Any = None
        self.steps = 0
        self.row: Row = {}
        self.metadata: dict[str, Any] = {}
        self.render_mode = self.spec = None
        self.reset()
        self.seed = env_seed  # the reset above only determined the shapes of rows; the first real reset is identical
        self.observation_space = gym.spaces.Dict({name: _box_space(gym, value) for name, value in self.row.items()})
        self.action_space = gym.spaces.Discrete(1)

    def reset(self, **_: Any) -> tuple[Row, dict[str, Any]]:
        """Start the next episode, if any are left, and return its first row."""
        if self.left:
            self.raw, _info = self.env.reset(seed=self.seed)
            self.seed, self.steps = None, 0
            self.row = self._row(self.blank, 0.0)
        return self.row, {}

    def step(self, _: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """Take one step of the policy; without episodes left, return the last row again."""
        if not self.left:
            return self.row, 0.0, False, False, {}
        space = self.env.action_space
        action = space.sample() if self.policy is None else self.policy(self.raw, space, self.rng)
        self.raw, reward, terminated, truncated, _info = self.env.step(action)
        self.steps += 1
        over = bool(terminated or truncated or self.steps == self.task.max_steps)
        self.left -= over
        self.row = self._row(self.encode_action(action), float(reward))
        return self.row, 0.0, over, False, {}

    def close(self) -> None:
        self.env.close()

    def _row(self, action: NDArray[Any], reward: float) -> Row:
        task, space, raw = self.task, self.env.observation_space, self.raw
        if task.key is not None:
            space, raw = space[task.key], raw[task.key]
        row = {"action": action, "reward": np.asarray(reward, np.float32)}
        if task.observe == "state":
            return row | {"observation": _to_vector(space, raw, task.env_id)}
        frame = np.asarray(self.env.render() if self.rendered else raw)
        row["pixels"] = _resize(frame, task.image_size)
        return row | ({"state": _to_vector(space, raw, task.env_id)} if self.rendered else {})


def _load_policy(name: str) -> Policy | None:
    if name == "random":
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"--policy is {name}, but must be random or MODULE:FN ({error})") from None
    if not callable(found):
        raise DataError(f"--policy is {name}, but that is not a function")
    return found


def _make_environment(gym: Any, task: _Task) -> tuple[Any, bool]:
    """The environment, and whether its pixels are rendered. Raises `DataError`."""
    env = gym.make(task.env_id)
    space = env.observation_space
    if task.key is not None:
        keys = list(getattr(space, "spaces", {}))
        if task.key not in keys:
            raise DataError(
                f"{task.env_id}: the observation has no key {task.key} (its keys are: {', '.join(keys) or 'none'})"
            )
        space = space[task.key]
    if task.observe == "state" or _is_image(space):
        return env, False
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise DataError(
            f"{task.env_id}: has no render mode rgb_array, which recording pixels needs: use --observe state"
        )
    env.close()
    return gym.make(task.env_id, render_mode="rgb_array"), True


def _is_image(space: Any) -> bool:
    return type(space).__name__ == "Box" and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] <= 4


def _box_space(gym: Any, value: NDArray[Any]) -> Any:
    low, high = (0, 255) if value.dtype == np.uint8 else (-np.inf, np.inf)
    if value.dtype == np.int64:
        low, high = 0, np.iinfo(np.int64).max
    return gym.spaces.Box(low, high, value.shape, value.dtype)


def _action_encoding(space: Any, env_id: str) -> tuple[Callable[[Any], NDArray[Any]], NDArray[Any]]:
    """The function that encodes an action for storage, and an encoded placeholder action."""
    kind = type(space).__name__
    if kind == "Discrete":
        return partial(_encode_discrete, start=space.start), np.zeros((), np.int64)
    if kind in ("MultiDiscrete", "MultiBinary"):
        start = np.ravel(getattr(space, "start", 0))
        return partial(_encode_discrete, start=start), np.zeros(int(np.prod(space.shape)), np.int64)
    if kind == "Box":
        return partial(_flatten, dtype=np.float32), np.zeros(int(np.prod(space.shape)), np.float32)
    raise DataError(
        f"{env_id}: the action space {kind} is not supported: it must be Discrete, MultiDiscrete, MultiBinary or Box"
    )


def _encode_discrete(action: Any, start: Any) -> NDArray[Any]:
    value = np.asarray(action, np.int64)
    return np.asarray((value.ravel() if np.ndim(start) else value) - start, np.int64)


def _flatten(value: Any, dtype: Any) -> NDArray[Any]:
    return np.asarray(value, dtype).ravel()


def _to_vector(space: Any, value: Any, env_id: str) -> NDArray[np.float32]:
    """An observation as a vector (D,): a Dict in key order without texts, a Discrete value as one-hot."""
    kind = type(space).__name__
    if kind == "Dict":
        leaves = [(leaf, value[key]) for key, leaf in space.spaces.items() if not _is_text(leaf)]
        return np.concatenate([np.zeros(0, np.float32), *(_to_vector(leaf, part, env_id) for leaf, part in leaves)])
    if kind == "Discrete":
        return (np.arange(space.n) == value - space.start).astype(np.float32)
    if kind in ("Box", "MultiBinary", "MultiDiscrete"):
        return _flatten(value, np.float32)
    raise DataError(
        f"{env_id}: the observation space {kind} is not supported:"
        " it must be Dict, Discrete, MultiDiscrete, MultiBinary or Box"
    )


def _is_text(space: Any) -> bool:
    """Whether the space holds text; MiniGrid's missions inherit from a text space."""
    return any(base.__name__ in ("Text", "MissionSpace") for base in type(space).__mro__)


def _resize(frame: NDArray[Any], size: int | None) -> NDArray[np.uint8]:
    if size is None or frame.shape[:2] == (size, size):
        return frame.astype(np.uint8)
    from PIL import Image

    planes = [Image.fromarray(np.ascontiguousarray(frame[..., c])) for c in range(frame.shape[2])]
    return np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


class _Writer:
    """Writes a canonical file episode by episode."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.lengths: list[int] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[_Writer]:
        """A writer of `path`; the file appears when everything is written, and a failure leaves no file."""
        with new_file(path) as file:
            writer = cls(file)
            yield writer
            lengths = np.asarray(writer.lengths, np.int64)
            file["ep_len"], file["ep_offset"] = lengths.astype(np.int32), np.cumsum(lengths) - lengths

    def append(self, episode: Row) -> None:
        for name, rows in episode.items():
            if name not in self.file:
                self._create(name, rows)
            column = self.file[name]
            column.resize(column.shape[0] + len(rows), axis=0)
            column[-len(rows) :] = rows
        self.lengths.append(len(episode["action"]))

    def _create(self, name: str, rows: NDArray[Any]) -> None:
        new_column(self.file, name, rows.dtype, rows.shape[1:], 0, max(1, FILE_CHUNK_BYTES // max(1, rows[0].nbytes)))
