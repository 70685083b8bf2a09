"""Policies for `collect` beside `random`, each `fn(observation, action_space, rng) -> action`; models for one's own."""

from __future__ import annotations

from typing import Any

import numpy as np


def walk(observation: Any, action_space: Any, rng: np.random.Generator) -> int:
    """Left, right or, mostly, forward in MiniGrid: an agent that gets about, where random actions keep it in place."""
    return int(rng.choice(3, p=[0.2, 0.2, 0.6]))
