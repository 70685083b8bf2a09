"""Determines which row an action belongs to, instead of assuming it.

Most datasets store at row t the action that leads to row t + 1 (`next`); some store the action that led to row t
(`previous`). A dataset that is read with the wrong alignment trains without an error, but the model learns nothing
useful. There are three sources of evidence: the rule of the file format, the end of the episodes at which actions are
NaN, and the reading that explains the changes between rows better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, chunks
from jepa_ray.data.recording import Alignment, Recording
from jepa_ray.errors import DataError

MAX_EPISODES = 200  # episodes that are examined, evenly spaced over the dataset
MAX_ROWS = 200  # rows that are examined per episode, from its start
RESAMPLES = 200  # bootstrap samples of the episodes for the confidence interval
MARGIN = 0.1  # minimum difference in explained variance between the two readings
MIN_EPISODES = 5  # with fewer episodes, no confidence interval is computed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Evidence in the data about the alignment of its actions."""

    nan: Alignment | None  # set if all episodes of 2+ rows have a NaN action at this end, and no episode at the other
    next: float | None  # share of the change t -> t + 1 that action[t] explains, in its best-explained dimension
    previous: float | None  # the same for action[t + 1]
    interval: tuple[float, float] | None  # 98 % confidence interval of next - previous, over episodes

    @property
    def verdict(self) -> Alignment | None:
        """The alignment that the evidence supports: NaNs decide; else a margin and an interval without 0 are needed."""
        if self.nan or self.next is None or self.previous is None or self.interval is None:
            return self.nan
        if self.next - self.previous > MARGIN and self.interval[0] > 0:
            return "next"
        return "previous" if self.previous - self.next > MARGIN and self.interval[1] < 0 else None

    def __str__(self) -> str:
        if self.nan:
            return f"every episode's {'last' if self.nan == 'next' else 'first'} action is NaN"
        if self.next is None or self.previous is None:
            return "there are too few episodes to decide"
        return (
            f"action[t] explains {self.next:.0%} of the change from row t to t + 1, action[t + 1] {self.previous:.0%}"
        )


def determine_alignment(
    recording: Recording, action: Column, seen: Column, setting: Literal["auto", "next", "previous"]
) -> Alignment:
    """Determine the alignment of `action`: as `setting` says, or from the file format and the evidence together.

    Args:
        recording: the dataset, with its episodes and the alignment rule of its file format.
        action: its action column.
        seen: the column that actions change: state labels, vectors or pixels.
        setting: the value of `data.action_alignment`.

    NaN actions at one end of all episodes decide, even against the file format. Raises `DataError` if the file format
    and the other evidence disagree.
    """
    if setting != "auto":
        return setting
    evidence = gather_evidence(recording, action, seen)
    if evidence.nan:
        return evidence.nan
    verdict = evidence.verdict
    if verdict is not None and verdict != recording.alignment:
        raise DataError(
            f"{recording.source}: by the format ({recording.format}) {MEANINGS[recording.alignment]}, but in the data"
            f" {evidence}: set data.action_alignment (convert: --action-alignment) to {verdict}, or to"
            f" {recording.alignment} if the format is right"
        )
    return recording.alignment


MEANINGS = {"next": "action[t] leads from row t to t + 1", "previous": "action[t] led from row t - 1 to t"}


def gather_evidence(recording: Recording, action: Column, seen: Column) -> Evidence:
    """Gather evidence from up to `MAX_EPISODES` episodes, of which at most `MAX_ROWS` rows are read.

    Continuous actions are read completely, to find NaNs. If these decide, nothing else is read.
    """
    if nan := _nan_end(recording, action):
        return Evidence(nan, None, None, None)
    long = np.flatnonzero(recording.lengths >= 3)
    picked = (
        long[np.unique(np.linspace(0, len(long) - 1, min(len(long), MAX_EPISODES)).astype(int))] if len(long) else long
    )
    if len(picked) < MIN_EPISODES:
        return Evidence(None, None, None, None)
    samples = []
    for episode in picked:
        start = int(recording.offsets[episode])
        rows = slice(start, start + min(int(recording.lengths[episode]), MAX_ROWS))
        moved, acts = _features(seen[rows]), _action_vectors(action[rows])
        change = moved[1:-1] - moved[:-2]  # row t to t + 1, for the rows where both readings have an action
        both = np.concatenate([acts[:-2], acts[1:-1]], axis=1)
        whole = np.isfinite(both).all(1) & np.isfinite(change).all(1)
        samples.append((both[whole], change[whole]))
    return _compare(samples)


def _nan_end(recording: Recording, action: Column) -> Alignment | None:
    if not np.issubdtype(action.dtype, np.floating):
        return None
    width = int(np.prod(action.shape[1:]))
    longer = recording.lengths >= 2  # in an episode of one row, the first action is also the last
    if not longer.any():
        return None
    bad = np.concatenate([np.isnan(action[rows]).reshape(-1, width).any(1) for rows in chunks(action)])
    first = recording.offsets[longer]
    last = first + recording.lengths[longer] - 1
    if bad[first].all() and not bad[last].any():
        return "previous"
    return "next" if bad[last].all() and not bad[first].any() else None


def _action_vectors(action: NDArray[np.generic]) -> Floats:
    """Actions as (n, A) floats; discrete actions as one-hot vectors of their first 16 values."""
    if action.ndim == 1:
        return (action[:, None] == np.arange(16)).astype(np.float64)
    return action.astype(np.float64)


def _features(rows: NDArray[np.generic]) -> Floats:
    """(n, D) coordinates on which actions may have a linear effect; for pixels, the position of moving objects."""
    if rows.ndim == 2:
        return rows.astype(np.float64)
    frames = rows.astype(np.float32)
    weight = np.abs(frames - np.median(frames, axis=0))  # (n, H, W, C): difference from the background
    total = weight.sum((1, 2)) + 1e-6
    down, across = (np.arange(size, dtype=np.float32) for size in frames.shape[1:3])
    y = (weight.sum(2) * down[:, None]).sum(1) / total
    x = (weight.sum(1) * across[:, None]).sum(1) / total
    return np.concatenate([y, x], axis=1).astype(np.float64)


def _compare(samples: list[tuple[Floats, Floats]]) -> Evidence:
    """Explained variance under both readings, and a bootstrap interval of the difference over episodes."""
    grams = np.stack([_gram(acts, change) for acts, change in samples])
    actions, dims = samples[0][0].shape[1] // 2, samples[0][1].shape[1]
    ahead, behind = _explained(grams.sum(0), actions, dims)
    best = int(np.argmax(np.maximum(ahead, behind)))
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(grams), np.full(len(grams), 1 / len(grams)), RESAMPLES)
    resampled = [_explained(np.tensordot(count, grams, 1), actions, dims) for count in counts]
    low, high = np.quantile([one[best] - other[best] for one, other in resampled], [0.01, 0.99])
    return Evidence(None, float(ahead[best]), float(behind[best]), (float(low), float(high)))


def _gram(acts: Floats, change: Floats) -> Floats:
    """Second moments of [1, action[t], action[t + 1], change], (1 + 2 A + D) squared; enough for linear regression."""
    joined = np.concatenate([np.ones((len(acts), 1)), acts, change], axis=1)
    return joined.T @ joined


def _explained(gram: Floats, actions: int, dims: int) -> tuple[Floats, Floats]:
    """R2 (D,) of the change regressed on action[t], and on action[t + 1]."""
    centred = gram - np.outer(gram[:, 0], gram[0]) / max(1.0, gram[0, 0])
    target = slice(1 + 2 * actions, 1 + 2 * actions + dims)
    total = np.diag(centred)[target]
    shares = []
    for inputs in (slice(1, 1 + actions), slice(1 + actions, 1 + 2 * actions)):
        cross = centred[inputs, target]
        weights = np.linalg.lstsq(centred[inputs, inputs], cross, rcond=1e-9)[0]
        shares.append(np.where(total > 1e-12, (cross * weights).sum(0) / np.maximum(total, 1e-12), 0.0))
    return shares[0], shares[1]
