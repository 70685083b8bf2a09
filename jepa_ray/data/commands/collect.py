"""Episodes of any Gymnasium environment, as one canonical HDF5 file.

Each environment acts in its own place (`_Actor`): the policy runs beside it, so that it sees whole observations, texts
included, and only the columns of the file travel. Memory holds the unfinished episodes, no more.
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

from jepa_ray.data.formats.hdf5 import CHUNK, new_column, new_file
from jepa_ray.errors import DataError

Policy = Callable[[Any, Any, np.random.Generator], Any]  # (observation, action space, rng) -> action
Row = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Task:
    """What every environment of a collection is told."""

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
    """Play episodes and write them; the same arguments give the same content.

    Args:
        env_id: as `gymnasium.make` takes it, `module:ENV_ID` too.
        out: the HDF5 file.
        policy: `random`, or `MODULE:FN` with `fn(observation, action_space, rng) -> action` for one environment.
        episodes: how many; T actions make T + 1 rows, of which the last has no action (NaN or 0).
        observe: `state`: vectors (N, D) float32; `pixels`: (N, H, W, C) uint8, and what else there is as `state`.
        key: the leaf of a Dict observation; None: all but texts.
        image_size: side of the square that frames are resized to.
        num_envs: environments at once, beyond one in processes of their own.
        max_steps: episodes are cut here, besides the environment's own limit.
        seed: of environments and policies.
        progress: called with episodes finished and wanted.

    Raises `DataError`.
    """
    if min(episodes, num_envs) < 1 or (max_steps is not None and max_steps < 1):
        raise DataError("episodes, num_envs and max_steps must be at least 1")
    gym = _gymnasium()
    task = _Task(env_id, policy, observe, key, image_size, max_steps)
    num = min(num_envs, episodes)
    # So many of each environment, not the first that finish: those would be the short ones.
    quotas = [episodes // num + (i < episodes % num) for i in range(num)]
    with _named_errors(env_id):
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
        # A process that died or was interrupted answers no polite request.
        envs.close(**({} if done or num == 1 else {"terminate": True}))


def _gymnasium() -> Any:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # frames are asked for, never a window
    try:
        importlib.import_module("gymnasium.vector")
        return importlib.import_module("gymnasium")
    except ModuleNotFoundError:
        raise DataError("collecting needs Gymnasium: pip install 'jepa-ray[collect]'") from None


@contextlib.contextmanager
def _named_errors(env_id: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # an environment is foreign code: whatever it raises is its own
        raise DataError(f"{env_id}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _play(envs: Any, env_id: str, quotas: list[int]) -> Iterator[Row]:
    """Finished episodes, as columns of their rows."""
    left = list(quotas)
    rows: list[list[Row]] = [[] for _ in left]
    with _named_errors(env_id):
        seen, _ = envs.reset()
    fresh, ended = np.ones(len(left), bool), np.zeros(len(left), bool)
    while True:
        for i in np.flatnonzero(left):
            row = {name: column[i].copy() for name, column in seen.items()}
            if not fresh[i]:  # the action that led here belongs to the row before
                rows[i][-1] |= {name: row[name] for name in ("action", "reward")}
            rows[i].append(row | {"action": _nothing(row["action"]), "reward": np.zeros_like(row["reward"])})
        for i in np.flatnonzero(left):
            if not fresh[i] and ended[i]:
                yield {name: np.stack([row[name] for row in rows[i]]) for name in rows[i][0]}
                left[i], rows[i] = left[i] - 1, []
        if not any(left):
            return
        # The default autoreset (NEXT_STEP): the step after an end is a reset, and what it gives is a first row.
        fresh = np.array([not begun for begun in rows])
        with _named_errors(env_id):
            seen, _, terminated, truncated, _ = envs.step(np.zeros(len(left), np.int64))
        ended = terminated | truncated


def _nothing(action: NDArray[Any]) -> NDArray[Any]:
    return np.full_like(action, np.nan if action.dtype == np.float32 else 0)


class _Actor:
    """One environment and its policy, to a vector environment: an environment without choices."""

    def __init__(self, task: _Task, quota: int, seed: int, index: int) -> None:
        gym = _gymnasium()
        self.task, self.left = task, quota
        self.policy = _policy(task.policy)
        env_seed, space_seed, policy_seed = (int(n) for n in np.random.SeedSequence([seed, index]).generate_state(3))
        self.seed: int | None = env_seed
        self.rng = np.random.default_rng(policy_seed)
        self.env, self.rendered = _make(gym, task)
        self.env.action_space.seed(space_seed)
        self.encode_action, self.blank = _action(self.env.action_space, task.env_id)
        self.raw: Any = None
        self.steps = 0
        self.row: Row = {}
        self.metadata: dict[str, Any] = {}
        self.render_mode = self.spec = None
        self.reset()
        self.seed = env_seed  # that was to see what rows look like: the real first reset is the same
        self.observation_space = gym.spaces.Dict({name: _space(gym, value) for name, value in self.row.items()})
        self.action_space = gym.spaces.Discrete(1)

    def reset(self, **_: Any) -> tuple[Row, dict[str, Any]]:
        """The first row of the next episode, if there is to be one."""
        if self.left:
            self.raw, _info = self.env.reset(seed=self.seed)
            self.seed, self.steps = None, 0
            self.row = self._row(self.blank, 0.0)
        return self.row, {}

    def step(self, _: Any) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """Act as the policy does; an actor with no episodes left stands still."""
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
            return row | {"observation": _vector(space, raw, task.env_id)}
        frame = np.asarray(self.env.render() if self.rendered else raw)
        row["pixels"] = _resize(frame, task.image_size)
        return row | ({"state": _vector(space, raw, task.env_id)} if self.rendered else {})


def _policy(name: str) -> Policy | None:
    if name == "random":
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"policy {name}: must be random or MODULE:FN ({error})") from None
    if not callable(found):
        raise DataError(f"policy {name}: is not a function")
    return found


def _make(gym: Any, task: _Task) -> tuple[Any, bool]:
    """The environment, and whether its pixels are rendered. Raises `DataError`."""
    env = gym.make(task.env_id)
    space = env.observation_space
    if task.key is not None:
        keys = list(getattr(space, "spaces", {}))
        if task.key not in keys:
            raise DataError(f"{task.env_id}: observation has no key {task.key} (it has {', '.join(keys) or 'none'})")
        space = space[task.key]
    if task.observe == "state" or _is_image(space):
        return env, False
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        raise DataError(f"{task.env_id}: has no rgb_array rendering, so no pixels")
    env.close()
    return gym.make(task.env_id, render_mode="rgb_array"), True


def _is_image(space: Any) -> bool:
    return type(space).__name__ == "Box" and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] <= 4


def _space(gym: Any, value: NDArray[Any]) -> Any:
    low, high = (0, 255) if value.dtype == np.uint8 else (-np.inf, np.inf)
    if value.dtype == np.int64:
        low, high = 0, np.iinfo(np.int64).max
    return gym.spaces.Box(low, high, value.shape, value.dtype)


def _action(space: Any, env_id: str) -> tuple[Callable[[Any], NDArray[Any]], NDArray[Any]]:
    """How an action is stored, and a blank one."""
    kind = type(space).__name__
    if kind == "Discrete":
        return partial(_counted, start=space.start), np.zeros((), np.int64)
    if kind in ("MultiDiscrete", "MultiBinary"):
        start = np.ravel(getattr(space, "start", 0))
        return partial(_counted, start=start), np.zeros(int(np.prod(space.shape)), np.int64)
    if kind == "Box":
        return partial(_flat, dtype=np.float32), np.zeros(int(np.prod(space.shape)), np.float32)
    raise DataError(f"{env_id}: actions of {kind} are not supported (Discrete, MultiDiscrete, MultiBinary and Box are)")


def _counted(action: Any, start: Any) -> NDArray[Any]:
    value = np.asarray(action, np.int64)
    return np.asarray((value.ravel() if np.ndim(start) else value) - start, np.int64)


def _flat(value: Any, dtype: Any) -> NDArray[Any]:
    return np.asarray(value, dtype).ravel()


def _vector(space: Any, value: Any, env_id: str) -> NDArray[np.float32]:
    """(D,) of an observation: Dicts in key order without texts, Discrete one-hot."""
    kind = type(space).__name__
    if kind == "Dict":
        leaves = [(leaf, value[key]) for key, leaf in space.spaces.items() if not _is_text(leaf)]
        return np.concatenate([np.zeros(0, np.float32), *(_vector(leaf, part, env_id) for leaf, part in leaves)])
    if kind == "Discrete":
        return (np.arange(space.n) == value - space.start).astype(np.float32)
    if kind in ("Box", "MultiBinary", "MultiDiscrete"):
        return _flat(value, np.float32)
    raise DataError(f"{env_id}: observations of {kind} are not supported")


def _is_text(space: Any) -> bool:
    """MiniGrid's missions are texts by inheritance."""
    return any(base.__name__ in ("Text", "MissionSpace") for base in type(space).__mro__)


def _resize(frame: NDArray[Any], size: int | None) -> NDArray[np.uint8]:
    if size is None or frame.shape[:2] == (size, size):
        return frame.astype(np.uint8)
    from PIL import Image

    planes = [Image.fromarray(np.ascontiguousarray(frame[..., c])) for c in range(frame.shape[2])]
    return np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes], axis=-1)


class _Writer:
    """A canonical file that grows by whole episodes."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.lengths: list[int] = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator[_Writer]:
        """A writer of `path`, which appears when all is written; nothing is left otherwise."""
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
        new_column(self.file, name, rows.dtype, rows.shape[1:], 0, max(1, CHUNK // max(1, rows[0].nbytes)))
