"""The result of a reader: a dataset as stored on disk, with the same column names for every format.

Nothing is selected, changed or checked here: `selection` and `trajectories` do that.
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
    """E episodes as N consecutive rows.

    Columns have these names if the format has them: `pixels (N, H, W, C) uint8`, `observation (N, D)`,
    `state (N, S)` labels, `action (N, A)` or `(N,)`, `reward (N,)`; other columns keep their own names.
    """

    source: str  # for messages: the file or folder, or the name of a built-in dataset
    format: str  # for messages: the name of the format that it was read as
    columns: Mapping[str, Column]  # of N rows each
    lengths: NDArray[np.int64]  # (E,) rows per episode
    offsets: NDArray[np.int64]  # (E,) first row of each episode
    alignment: Alignment = "next"  # rule of the format: action[t] leads from t to t + 1, or led from t - 1 to t
    held_out: NDArray[np.bool_] | None = None  # (E,) episodes that the dataset reserves for validation
    notes: tuple[str, ...] = ()  # remarks for the user, which `info` prints

    @classmethod
    def consecutive(
        cls,
        source: str,
        format_name: str,
        columns: Mapping[str, Column],
        lengths: NDArray[Any],
        *,
        alignment: Alignment = "next",
        held_out: NDArray[np.bool_] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Recording:
        """A recording of consecutive episodes of `lengths` (E,) rows, without gaps."""
        lengths = np.asarray(lengths, np.int64)
        return cls(source, format_name, columns, lengths, np.cumsum(lengths) - lengths, alignment, held_out, notes)
