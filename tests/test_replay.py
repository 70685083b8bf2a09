"""The replay of recorded curves: what it plays must be what a sweep would train."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from jepa_ray.config import load_sweep_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def replay() -> ModuleType:
    found = importlib.util.spec_from_file_location("replay", ROOT / "benchmarks/replay.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["replay"] = module
    found.loader.exec_module(module)
    return module


def test_the_table_holds_the_grid_of_the_spec(replay: ModuleType) -> None:
    curves = replay.read_curves()
    assert (len(curves.rows), curves.epochs) == (81, 405)
    assert {len(rows) for rows in curves.rows.values()} == {5}


def test_the_grid_trains_every_epoch_once_in_virtual_time(replay: ModuleType) -> None:
    """Four groups take points 0-3 first: their first epochs, then their second ones, and so on."""
    curves = replay.read_curves()
    spec = load_sweep_config(replay.SPEC, [*replay.ALL, "search.algorithm=grid", replay.NEVER])
    best = replay.replay(replay.Sweep(spec), curves, 81)
    shown = [
        curves.rows[point][epoch]["val_rollout_mrr"]
        for first in range(0, 81, 4)
        for epoch in range(5)
        for point in sorted(curves.rows)[first : first + 4]
    ]
    assert best.tolist() == np.maximum.accumulate(shown).tolist()
    assert best[-1] == curves.best


def test_a_long_epoch_delays_only_its_own_group(replay: ModuleType) -> None:
    """Group 0 takes 100 s for an epoch: the others have trained everything else before its first value."""
    spec = load_sweep_config(replay.SPEC, [*replay.ALL, "search.algorithm=grid", replay.NEVER])
    rows = {p: [{"val_rollout_mrr": 0.1, "epoch_s": 1.0}] * 2 for p in replay.read_curves().rows}
    slow = min(rows)
    rows[slow] = [{"val_rollout_mrr": 0.9, "epoch_s": 100.0}] * 2
    best = replay.replay(replay.Sweep(spec), replay.Curves(rows), 81, seconds=True)
    assert (len(best), int(np.argmax(best == 0.9))) == (162, 160)


@pytest.mark.parametrize("build", ["Sweep", "rays_own"])
def test_a_pair_stops_trials_and_spends_less(replay: ModuleType, build: str) -> None:
    spec = load_sweep_config(replay.SPEC, ["search.num_trials=20"])
    best = replay.replay(getattr(replay, build)(spec), replay.read_curves(), 20)
    assert 20 <= len(best) < 100
