"""Collects from an environment whose observations contain the episode and step, so that every row can be checked."""

from pathlib import Path

import h5py
import numpy as np
import pytest

gym = pytest.importorskip("gymnasium")

from jepa_ray.data.commands.collect import collect  # noqa: E402
from jepa_ray.errors import DataError  # noqa: E402


class Counting(gym.Env):
    """Episode e has 2 + e % 3 steps; observations are (episode, step, last action), the reward is 10 e + step."""

    def __init__(self, actions=None, fail_at=None, error=RuntimeError):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space = actions or gym.spaces.Discrete(3, start=5)
        self.episode, self.fail_at, self.error = -1, fail_at, error

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.t = 0
        return self._see(-1), {}

    def step(self, action):
        self.t += 1
        if self.episode == self.fail_at:
            raise self.error("boom\nline")
        return self._see(np.ravel(action)[0]), 10 * self.episode + self.t, self.t == 2 + self.episode % 3, False, {}

    def _see(self, action):
        return np.array([self.episode, self.t, action], np.float64)


class Nested(Counting):
    def __init__(self):
        super().__init__()
        s = gym.spaces
        self.observation_space = s.Dict({"a": s.Discrete(3, start=1), "b": s.Box(-9, 99, (3,)), "text": s.Text(5)})

    def _see(self, action):
        return {"a": 2, "b": super()._see(action).astype(np.float32), "text": "hi"}


gym.register("Counting-v0", Counting, disable_env_checker=True)
gym.register("Nested-v0", Nested, disable_env_checker=True)
gym.register("Multi-v0", lambda: Counting(gym.spaces.MultiDiscrete([3, 4], start=[2, 0])), disable_env_checker=True)
gym.register("Box-v0", lambda: Counting(gym.spaces.Box(-1, 1, (2, 2))), disable_env_checker=True)
gym.register("Failing-v0", lambda: Counting(fail_at=1), disable_env_checker=True)
gym.register("Interrupted-v0", lambda: Counting(fail_at=1, error=KeyboardInterrupt), disable_env_checker=True)


def columns(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}


def made(tmp_path, env, **kwargs):
    collect(env, tmp_path / "x.h5", **{"episodes": 4} | kwargs)
    return columns(tmp_path / "x.h5")


def check_rows(data, episodes):
    """Compare with the expected content, computed independently."""
    seen, at = data["observation"], 0
    assert data["ep_len"].tolist() == [3 + e % 3 for e in episodes]
    for e, rows, offset in zip(episodes, data["ep_len"], data["ep_offset"], strict=True):
        assert offset == at
        own = seen[at : at + rows]
        assert own[:, 0].tolist() == [e] * rows
        assert own[:, 1].tolist() == list(range(rows))
        np.testing.assert_array_equal(data["action"][at : at + rows - 1] + 5, own[1:, 2])
        assert data["reward"][at : at + rows].tolist() == [10 * e + t for t in range(1, rows)] + [0]
        at += rows
        assert data["action"][at - 1] == 0
    assert len(seen) == at


def test_rows_actions_and_rewards_of_one_environment(tmp_path):
    data = made(tmp_path, "Counting-v0")
    check_rows(data, [0, 1, 2, 3])
    assert data["action"].dtype == np.int64
    assert data["observation"].dtype == np.float32


def test_parallel_environments_share_the_episodes(tmp_path):
    data = made(tmp_path, "Counting-v0", episodes=5, num_envs=2)
    check_rows(data, [0, 0, 1, 1, 2])


def test_content_depends_on_the_seed_only(tmp_path):
    one, two, other = (made(tmp_path, "Counting-v0", seed=seed)["action"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_multi_discrete_actions_are_numbered_from_0(tmp_path):
    data = made(tmp_path, "Multi-v0")
    assert data["action"].shape[1:] == (2,)
    inner = data["observation"][1:, 1] > 0
    np.testing.assert_array_equal(data["action"][:-1, 0][inner] + 2, data["observation"][1:, 2][inner])


def test_last_box_action_of_an_episode_is_nan(tmp_path):
    data = made(tmp_path, "Box-v0")
    assert data["action"].shape[1:] == (4,)
    last = data["ep_offset"] + data["ep_len"] - 1
    assert np.flatnonzero(np.isnan(data["action"]).any(1)).tolist() == last.tolist()


def test_dict_observation_omits_texts_and_key_selects_one_entry(tmp_path):
    whole = made(tmp_path, "Nested-v0")["observation"]
    assert whole.shape[1] == 6
    assert whole[0].tolist() == [0, 1, 0, 0, 0, -1]
    check_rows(made(tmp_path, "Nested-v0", key="b"), [0, 1, 2, 3])


def test_max_steps_limits_episodes(tmp_path):
    assert made(tmp_path, "Counting-v0", max_steps=2)["ep_len"].tolist() == [3] * 4


@pytest.mark.parametrize(
    ("env", "kwargs", "says"),
    [
        ("Failing-v0", {}, "Failing-v0: RuntimeError: boom line"),
        ("Absent-v0", {}, "Absent-v0: NameNotFound"),
        ("Counting-v0", {"observe": "pixels"}, "has no render mode rgb_array"),
        ("Counting-v0", {"policy": "nowhere:fn"}, "--policy is nowhere:fn, but must be random or MODULE:FN"),
        ("Nested-v0", {"key": "c"}, "has no key c"),
    ],
)
def test_errors_are_one_line_and_leave_no_files(tmp_path, env, kwargs, says):
    with pytest.raises(DataError, match=says) as error:
        made(tmp_path, env, **kwargs)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_interrupt_leaves_no_files(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "Interrupted-v0")
    assert not list(tmp_path.iterdir())
