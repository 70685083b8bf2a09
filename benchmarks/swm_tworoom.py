"""Two Rooms in the evaluation of stable-worldmodel: its data, its planner and its success rate.

Both commands need stable-worldmodel, in a separate environment, since it requires a newer torch:

    python3 -m venv .venv-swm
    .venv-swm/bin/pip install "stable-worldmodel==0.1.1" "torch==2.14.1" "torchvision==0.29.1" imageio h5py \\
        hdf5plugin pymunk pygame shapely opencv-python-headless pydantic pyyaml filelock

    .venv-swm/bin/python benchmarks/swm_tworoom.py collect outputs/swm_tworoom.h5
    .venv-swm/bin/python benchmarks/swm_tworoom.py collect outputs/swm_tworoom_eval.h5 --frameskip 1 --noise 2 \\
        --episodes 120 --seed 1000000
    .venv/bin/python -m jepa_ray.sweep sweeps/swm_tworoom.yaml
    PYTHONPATH=. .venv-swm/bin/python benchmarks/swm_tworoom.py evaluate \\
        outputs/sweeps/swm_tworoom/best_jepa_model.pt --data outputs/swm_tworoom_eval.h5 --seeds 0 1 2

The tasks come from episodes of the environment's expert with action noise 2, on which no model was trained.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ENV = "swm/TwoRoom-v1"
AHEAD = 25  # environment steps from the start to the goal in the recorded episode
BUDGET = 50  # environment steps in which the goal must be reached
BLOCK = 5  # actions of one planned step
HORIZON = 5  # planned steps
CEM = {"num_samples": 300, "n_steps": 30, "topk": 30}

Episode = Mapping[str, list[NDArray[Any]]]


class CanonicalWriter:
    """Writer for `World.collect`: keeps every `frameskip`-th row, and concatenates the actions from one to the next."""

    def __init__(self, frameskip: int) -> None:
        self.frameskip = frameskip
        self.episodes: list[dict[str, NDArray[Any]]] = []

    def __enter__(self) -> CanonicalWriter:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write_episodes(self, episodes: Iterable[Episode]) -> None:
        """Keep the episodes with at least two rows.

        Of each: pixels (L, H, W, C), state (L, 2), and action (L, frameskip * A), which leads from row t to row t + 1.
        """
        for episode in episodes:
            columns = {name: np.stack(episode[name]) for name in ("pixels", "action", "state")}
            if len(columns["action"]) > self.frameskip:
                self.episodes.append(skip_frames(columns, self.frameskip))

    def save(self, path: Path) -> None:
        """Write all episodes to one canonical HDF5 file, concatenated over time."""
        lengths = np.array([len(episode["action"]) for episode in self.episodes], np.int32)
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w", libver="latest") as file:
            for name in ("pixels", "action", "state"):
                rows = np.concatenate([episode[name] for episode in self.episodes])
                packed = {"compression": "gzip", "compression_opts": 1} if name == "pixels" else {}
                file.create_dataset(name, data=rows, **packed)
            file["ep_len"] = lengths
            file["ep_offset"] = np.cumsum(lengths, dtype=np.int64) - lengths
            file.attrs["frameskip"] = self.frameskip


def skip_frames(columns: Mapping[str, NDArray[Any]], frameskip: int) -> dict[str, NDArray[Any]]:
    """Every `frameskip`-th row of one episode. The last action, which has no next row, is NaN."""
    rows = (len(columns["action"]) - 1) // frameskip + 1
    moves = columns["action"][: (rows - 1) * frameskip].reshape(rows - 1, -1)
    no_action = np.full((1, moves.shape[1]), np.nan)
    kept = {name: columns[name][::frameskip] for name in ("pixels", "state")}
    return kept | {"action": np.concatenate([moves, no_action]).astype(np.float32)}


def make_world(envs: int, image: int, steps: int, wrappers: Sequence[Any] = ()) -> Any:
    """The `World` of stable-worldmodel, with its warnings suppressed."""
    warnings.filterwarnings("ignore", module="gymnasium|stable_worldmodel")
    import stable_worldmodel as swm

    return swm.World(
        ENV, num_envs=envs, image_shape=(image, image), max_episode_steps=steps, pre_wrappers=list(wrappers)
    )


def render_every(frameskip: int) -> Callable[[Any], Any]:
    """A wrapper that renders only the rows that `CanonicalWriter` keeps, since rendering takes most of the time."""
    import gymnasium

    class SparseRender(gymnasium.Wrapper):  # type: ignore[misc,type-arg]
        steps, frame = 0, None

        def reset(self, **settings: Any) -> Any:
            self.steps = 0
            return self.env.reset(**settings)

        def step(self, action: Any) -> Any:
            self.steps += 1
            return self.env.step(action)

        def render(self) -> Any:
            if self.frame is None or self.steps % frameskip == 1 % frameskip:
                self.frame = self.env.render()
            return self.frame

    return SparseRender


def collect(options: argparse.Namespace) -> None:
    """Record the environment's expert on its way to random targets, with the same number of episodes for each noise."""
    writer, started = CanonicalWriter(options.frameskip), time.perf_counter()
    world = make_world(options.envs, options.image, options.steps, [render_every(options.frameskip)])
    from stable_worldmodel.envs.two_room.expert_policy import ExpertPolicy

    for turn, noise in enumerate(options.noise):
        seed = options.seed + turn * options.episodes
        world.set_policy(ExpertPolicy(action_noise=noise, action_repeat_prob=0.05, seed=seed))
        world.collect(writer=writer, episodes=options.episodes // len(options.noise), seed=seed, progress=False)
    writer.save(options.path)
    rows = sum(len(episode["action"]) for episode in writer.episodes)
    print(f"{options.path}: {len(writer.episodes)} episodes, {rows} rows, {time.perf_counter() - started:.0f} s")


def evaluate(options: argparse.Namespace) -> None:
    """Print the success rates of a random policy and of the model in `World.evaluate`, on tasks from recordings."""
    import jepa_ray

    model = jepa_ray.load(options.checkpoint, options.device)
    tasks = [draw_tasks(options.data, options.episodes, seed) for seed in options.seeds]
    world = make_world(options.episodes, model.observation_shape[0], 2 * BUDGET)
    for name, policy in (("random", random_policy), ("jepa-ray", lambda seed: planner(model, world, options, seed))):
        started, wins = time.perf_counter(), []
        for seed, task in zip(options.seeds, tasks, strict=True):
            world.set_policy(policy(seed))
            wins.append(int(judge(world, options.data, task)["episode_successes"].sum()))
        print(f"{name:9} {summary(wins, options.episodes)}, {time.perf_counter() - started:.0f} s", flush=True)


def draw_tasks(path: Path, count: int, seed: int) -> dict[str, Any]:
    """`count` start states, each from another episode; the goal is the state `AHEAD` environment steps later."""
    with h5py.File(path, "r") as file:
        lengths, frameskip = file["ep_len"][()], int(file.attrs["frameskip"])
    ahead, rng = AHEAD // frameskip, np.random.default_rng(seed)
    episodes = rng.choice(np.flatnonzero(lengths > ahead), count, replace=False)
    starts = rng.integers(0, lengths[episodes] - ahead)
    return {"episodes_idx": episodes.tolist(), "start_steps": starts.tolist(), "goal_offset": ahead}


def judge(world: Any, path: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Run the library's evaluation: a success is an agent within 16 px of the goal (of 224 px) within the budget."""
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset

    setters = [
        {"method": f"_set_{key}", "args": {key: {"value": key, "in_dataset": True}}} for key in ("state", "goal_state")
    ]
    result: dict[str, Any] = world.evaluate(
        dataset=HDF5Dataset(path=path), eval_budget=BUDGET, callables=setters, **task
    )
    return result


def random_policy(seed: int) -> Any:
    from stable_worldmodel.policy import RandomPolicy

    return RandomPolicy(seed=seed)


def planner(model: Any, world: Any, options: argparse.Namespace, seed: int) -> Any:
    """The library's CEM planner with its published settings, and our model as its cost."""
    from stable_worldmodel.policy import PlanConfig, WorldModelPolicy
    from stable_worldmodel.solver import CEMSolver

    from jepa_ray.adapters.stable_worldmodel import CostModel

    space = world.envs.single_action_space
    cost = CostModel(model, action_bounds=(float(space.low.min()), float(space.high.max())))
    solver = CEMSolver(cost, batch_size=10, seed=seed, device=options.device, **CEM)
    return WorldModelPolicy(solver, PlanConfig(HORIZON, options.replan, action_block=BLOCK))


def summary(wins: Sequence[int], episodes: int) -> str:
    """The success rate over all seeds with its 95 % Wilson interval, and the rate of each seed."""
    from jepa_ray.planning.success import Rate

    low, high = Rate(sum(wins), episodes * len(wins)).interval
    each = "/".join(f"{100 * w / episodes:.0f}" for w in wins)
    return f"{100 * sum(wins) / (episodes * len(wins)):5.1f} % [{100 * low:.0f}, {100 * high:.0f}] (seeds: {each})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    collecting = commands.add_parser("collect", help="record episodes as a canonical HDF5 file")
    collecting.add_argument("path", type=Path)
    collecting.add_argument("--episodes", type=int, default=1800)
    collecting.add_argument("--steps", type=int, default=100, help="maximum environment steps of an episode")
    collecting.add_argument(
        "--noise", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="noise levels of the expert's actions"
    )
    collecting.add_argument("--frameskip", type=int, default=BLOCK)
    collecting.add_argument("--image", type=int, default=32, help="width and height of a frame in pixels")
    collecting.add_argument("--envs", type=int, default=8)
    collecting.add_argument("--seed", type=int, default=0)
    collecting.set_defaults(run=collect)
    judging = commands.add_parser("evaluate", help="plan with a checkpoint in stable-worldmodel's own evaluation")
    judging.add_argument("checkpoint", type=Path)
    judging.add_argument(
        "--data", type=Path, required=True, help="recorded episodes from which starts and goals are drawn"
    )
    judging.add_argument("--episodes", type=int, default=50)
    judging.add_argument("--seeds", type=int, nargs="+", default=[0])
    judging.add_argument(
        "--replan", type=int, default=HORIZON, help="planned steps that are executed before planning again"
    )
    judging.add_argument("--device", default="cpu")
    judging.set_defaults(run=evaluate)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
