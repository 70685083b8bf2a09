from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jepa_ray.config import DataConfig
from jepa_ray.data.alignment import MARGIN, gather_evidence
from jepa_ray.data.formats import open_recording
from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import select
from jepa_ray.errors import DataError

SWM = Path(__file__).parent / "files" / "swm_tworoom.h5"
EPISODES, ROWS = 20, 30


def walk(alignment: str, *, momentum: float = 0.8, seed: int = 0) -> Recording:
    """Positions moved by actions; successive actions are correlated, so both readings explain some variance."""
    rng = np.random.default_rng(seed)
    push = rng.normal(size=(EPISODES, ROWS, 2))
    for t in range(1, ROWS):
        push[:, t] = momentum * push[:, t - 1] + np.sqrt(1 - momentum**2) * push[:, t]
    moved = push[:, :-1] + 0.1 * rng.normal(size=(EPISODES, ROWS - 1, 2))
    position = np.concatenate([np.zeros((EPISODES, 1, 2)), moved.cumsum(1)], axis=1)
    stored = push if alignment == "next" else np.roll(push, 1, axis=1)
    columns = {"observation": position.reshape(-1, 2), "action": stored.reshape(-1, 2)}
    return Recording.consecutive("walk", "a test's", columns, np.full(EPISODES, ROWS))


def config(**settings: object) -> DataConfig:
    return DataConfig.model_validate({"path": "walk", **settings})


def training_actions(recording: Recording, **settings: object) -> np.ndarray:
    chosen = select(recording, config(**settings)).trajectories
    return chosen.action[slice(0, EPISODES * ROWS)].reshape(EPISODES, ROWS, 2)[:, :-1]


@pytest.mark.parametrize("alignment", ["next", "previous"])
def test_alignment_of_actions_with_momentum_is_detected(alignment: str) -> None:
    recording = walk(alignment)
    evidence = gather_evidence(recording, recording.columns["action"], recording.columns["observation"])
    assert evidence.verdict == alignment
    assert evidence.next is not None
    assert evidence.previous is not None
    assert min(evidence.next, evidence.previous) > MARGIN  # the wrong reading explains much of the change too


def test_unrelated_actions_give_no_verdict() -> None:
    recording = walk("next")
    noise = np.random.default_rng(1).normal(size=recording.columns["action"].shape)
    assert gather_evidence(recording, noise, recording.columns["observation"]).verdict is None


def test_nan_actions_decide_without_reading_the_observations() -> None:
    """Observations may be videos, which are slow to decode."""

    class Unread:
        shape, dtype = (EPISODES * ROWS, 2), np.dtype(np.float64)

        def __getitem__(self, rows: slice, /) -> np.ndarray:
            raise AssertionError("was read")

    recording = walk("previous")
    action = recording.columns["action"][:].copy()
    action[recording.offsets] = np.nan
    assert gather_evidence(recording, action, Unread()).verdict == "previous"


def test_data_that_contradicts_the_format_is_refused_unless_the_alignment_is_set() -> None:
    shifted = walk("previous")
    with pytest.raises(
        DataError,
        match=r"walk: by the format \(a test's\) .*, but in the data .*"
        r" set data.action_alignment \(convert: --action-alignment\) to previous, or to n",
    ):
        select(shifted, config())
    right = training_actions(walk("next"))
    np.testing.assert_array_equal(training_actions(shifted, action_alignment="previous"), right)
    np.testing.assert_array_equal(training_actions(walk("next"), action_alignment="auto"), right)
    assert not np.array_equal(training_actions(shifted, action_alignment="next"), right)


@pytest.mark.parametrize(("end", "alignment"), [(0, "previous"), (-1, "next")])
def test_nan_at_one_end_of_all_episodes_decides(end: int, alignment: str) -> None:
    recording = walk(alignment)
    action = np.array(recording.columns["action"][slice(None)]).reshape(EPISODES, ROWS, 2)
    action[:, end] = np.nan
    evidence = gather_evidence(recording, action.reshape(-1, 2), recording.columns["observation"])
    assert evidence.nan == evidence.verdict == alignment


def test_nan_in_some_episodes_does_not_decide() -> None:
    recording = walk("next")
    action = np.array(recording.columns["action"][slice(None)]).reshape(EPISODES, ROWS, 2)
    action[1:, 0] = np.nan
    assert gather_evidence(recording, action.reshape(-1, 2), recording.columns["observation"]).nan is None


def test_alignment_of_discrete_actions_is_detected() -> None:
    rng = np.random.default_rng(0)
    action = rng.integers(0, 3, (EPISODES, ROWS))
    position = np.zeros((EPISODES, ROWS, 1))
    position[:, 1:] = np.cumsum(action[:, :-1] == 1, axis=1)[..., None]
    flat = {"observation": position.reshape(-1, 1), "action": action.reshape(-1)}
    recording = Recording.consecutive("grid", "a test's", flat, np.full(EPISODES, ROWS))
    assert gather_evidence(recording, flat["action"], flat["observation"]).verdict == "next"


@pytest.mark.parametrize("seen", ["state", "pixels"])
def test_stable_worldmodel_file_is_aligned_as_next(seen: str) -> None:
    with open_recording(SWM) as recording:
        evidence = gather_evidence(recording, recording.columns["action"], recording.columns[seen])
    assert evidence.next is not None
    assert evidence.previous is not None
    assert evidence.next > evidence.previous
    assert evidence.verdict == "next"


def test_few_episodes_give_no_verdict(canonical_h5: Callable[..., Path]) -> None:
    with open_recording(canonical_h5(observation="vector", columns={"action": np.zeros((22, 2))})) as recording:
        assert gather_evidence(recording, recording.columns["action"], recording.columns["observation"]).verdict is None
