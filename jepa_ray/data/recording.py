"""What a reader gives: a dataset as it lies on disk, its columns named alike whatever the format.

Nothing is chosen, changed or checked here; that is `selection`'s and `trajectories`' part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column

Alignment = Literal["next", "previous"]


@dataclass(frozen=True)
class Recording:
    """E episodes as N rows, one after another.

    Columns have these names where the format has such a thing: `pixels (N, H, W, C) uint8`, `observation (N, D)`,
    `state (N, S)` labels, `action (N, A)` or `(N,)`, `reward (N,)`; others keep their own.
    """

    source: str  # for messages: the file or folder, or the name of a built-in dataset
    format: str  # for people: what it was read as
    columns: Mapping[str, Column]  # of N rows each
    lengths: NDArray[np.int64]  # (E,) rows per episode
    offsets: NDArray[np.int64]  # (E,) first row of each episode
    alignment: Alignment = "next"  # the layout's rule: action[t] moves row t to t + 1, or moved t - 1 to t
    held_out: NDArray[np.bool_] | None = None  # (E,) what the dataset itself keeps for validation
    notes: tuple[str, ...] = ()  # what a person should know, for `info`

    @classmethod
    def consecutive(
        cls,
        source: str,
        layout: str,
        columns: Mapping[str, Column],
        lengths: NDArray[Any],
        *,
        alignment: Alignment = "next",
        held_out: NDArray[np.bool_] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Recording:
        """A recording whose episodes of `lengths` (E,) rows lie one after another, without gaps."""
        lengths = np.asarray(lengths, np.int64)
        return cls(source, layout, columns, lengths, np.cumsum(lengths) - lengths, alignment, held_out, notes)
