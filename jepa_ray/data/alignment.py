"""Which row an action belongs to: established, not assumed.

Most of the field stores at row t the action that leads to row t + 1 (`next`); some files store the one that led
to row t (`previous`). Read the wrong way, a dataset trains without complaint and teaches nothing. Three
things tell: the layout's rule, on which end of the episodes actions are NaN, and which of the two readings explains
how the rows change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, chunks
from jepa_ray.data.recording import Alignment, Recording
from jepa_ray.errors import DataError

EPISODES = 200  # looked at, evenly spaced
ROWS = 200  # of an episode, from its start
RESAMPLES = 200  # of the episodes, for the interval of the difference
MARGIN = 0.1  # of explained variance by which one reading must beat the other
MIN_EPISODES = 5  # fewer say nothing about chance

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What the data itself says about its actions."""

    nan: Alignment | None  # by the end at which every episode of 2 rows or more has a NaN action, and none at the other
    next: float | None  # share of the change t -> t + 1 that action[t] explains, in the dimension it explains best
    previous: float | None  # the same of action[t + 1]
    interval: tuple[float, float] | None  # 98 % of next - previous, over episodes

    @property
    def verdict(self) -> Alignment | None:
        """What follows: NaNs are certain, explained variance needs a margin and an interval without 0."""
        if self.nan or self.next is None or self.previous is None or self.interval is None:
            return self.nan
        if self.next - self.previous > MARGIN and self.interval[0] > 0:
            return "next"
        return "previous" if self.previous - self.next > MARGIN and self.interval[1] < 0 else None

    def __str__(self) -> str:
        if self.nan:
            return f"every episode's {'last' if self.nan == 'next' else 'first'} action is NaN"
        if self.next is None or self.previous is None:
            return "nothing to tell it by"
        return (
            f"action[t] explains {self.next:.0%} of the change from row t to t + 1, action[t + 1] {self.previous:.0%}"
        )


def establish(
    recording: Recording, action: Column, seen: Column, setting: Literal["auto", "next", "previous"]
) -> Alignment:
    """How `action` is aligned: as `setting` says, or by the layout and the evidence together.

    Args:
        recording: whose episodes and layout's rule count.
        action: its actions.
        seen: what actions change: state labels, vectors or pixels.
        setting: of `data.action_alignment`.

    Raises `DataError` where layout and evidence disagree.
    """
    if setting != "auto":
        return setting
    evidence = gather(recording, action, seen)
    if evidence.nan:
        return evidence.nan
    verdict = evidence.verdict
    if verdict is not None and verdict != recording.alignment:
        raise DataError(
            f"{recording.source}: {_SAYS[recording.alignment]} by the layout ({recording.format}), but in the data"
            f" {evidence}: set data.action_alignment to {verdict} or, if the layout is right, to {recording.alignment}"
        )
    return recording.alignment


_SAYS = {"next": "action[t] leads from row t to t + 1", "previous": "action[t] led from row t - 1 to t"}


def gather(recording: Recording, action: Column, seen: Column) -> Evidence:
    """The evidence of up to `EPISODES` episodes; reads no more than `ROWS` rows of each."""
    long = np.flatnonzero(recording.lengths >= 3)
    picked = long[np.unique(np.linspace(0, len(long) - 1, min(len(long), EPISODES)).astype(int))] if len(long) else long
    nan = _nan_end(recording, action)
    moments = []
    for episode in picked:
        start = int(recording.offsets[episode])
        rows = slice(start, start + min(int(recording.lengths[episode]), ROWS))
        moved, acts = _features(seen[rows]), _numbers(action[rows])
        change = moved[1:-1] - moved[:-2]  # row t to t + 1, where both readings have an action
        both = np.concatenate([acts[:-2], acts[1:-1]], axis=1)
        whole = np.isfinite(both).all(1) & np.isfinite(change).all(1)
        moments.append((both[whole], change[whole]))
    if nan or len(moments) < MIN_EPISODES:
        return Evidence(nan, None, None, None)
    return _compare(moments)


def _nan_end(recording: Recording, action: Column) -> Alignment | None:
    if not np.issubdtype(action.dtype, np.floating):
        return None
    width = int(np.prod(action.shape[1:]))
    longer = recording.lengths >= 2  # of a single row, the first action is the last
    if not longer.any():
        return None
    bad = np.concatenate([np.isnan(action[rows]).reshape(-1, width).any(1) for rows in chunks(action)])
    first = recording.offsets[longer]
    last = first + recording.lengths[longer] - 1
    if bad[first].all() and not bad[last].any():
        return "previous"
    return "next" if bad[last].all() and not bad[first].any() else None


def _numbers(action: NDArray[np.generic]) -> Floats:
    """(n, A) of actions; discrete ones by their values, as far as 16 of them."""
    if action.ndim == 1:
        return (action[:, None] == np.arange(16)).astype(np.float64)
    return action.astype(np.float64)


def _features(rows: NDArray[np.generic]) -> Floats:
    """(n, D) coordinates in which an action's effect may be linear; of pixels, where things are that moved."""
    if rows.ndim == 2:
        return rows.astype(np.float64)
    frames = rows.astype(np.float32)
    weight = np.abs(frames - np.median(frames, axis=0))  # (n, H, W, C): what stands out of the background
    total = weight.sum((1, 2)) + 1e-6
    down, across = (np.arange(size, dtype=np.float32) for size in frames.shape[1:3])
    y = (weight.sum(2) * down[:, None]).sum(1) / total
    x = (weight.sum(1) * across[:, None]).sum(1) / total
    return np.concatenate([y, x], axis=1).astype(np.float64)


def _compare(moments: list[tuple[Floats, Floats]]) -> Evidence:
    """Explained variance under both readings, and the difference's interval over resampled episodes."""
    grams = np.stack([_gram(acts, change) for acts, change in moments])
    actions, dims = moments[0][0].shape[1] // 2, moments[0][1].shape[1]
    ahead, behind = _explained(grams.sum(0), actions, dims)
    best = int(np.argmax(np.maximum(ahead, behind)))
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(grams), np.full(len(grams), 1 / len(grams)), RESAMPLES)
    resampled = [_explained(np.tensordot(count, grams, 1), actions, dims) for count in counts]
    low, high = np.quantile([one[best] - other[best] for one, other in resampled], [0.01, 0.99])
    return Evidence(None, float(ahead[best]), float(behind[best]), (float(low), float(high)))


def _gram(acts: Floats, change: Floats) -> Floats:
    """Second moments of [1, action[t], action[t + 1], change], (1 + 2 A + D) squared: all that a regression needs."""
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
