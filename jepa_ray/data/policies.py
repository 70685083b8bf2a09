"""Policies for `collect` besides `random`, each `fn(observation, action_space, rng) -> action`; useful as examples."""

from __future__ import annotations

from typing import Any

import numpy as np


def walk(observation: Any, action_space: Any, rng: np.random.Generator) -> int:
    """Turn left or right, or mostly go forward in MiniGrid: covers ground, unlike uniformly random actions."""
    return int(rng.choice(3, p=[0.2, 0.2, 0.6]))
