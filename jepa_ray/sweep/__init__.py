"""The sweep: what decides (space, search, scheduler), what executes (trial), what shows (view, results).

`run` builds them from a spec and runs Ray Tune over warm worker groups.
"""

from pathlib import Path


def trial_name(number: int) -> str:
    """A trial's name in tables, logs, MLflow and files: of fixed width, so that names sort."""
    return f"trial_{number:05d}"


def checkpoint_path(folder: Path, number: int) -> Path:
    """A trial's training checkpoint, of its last epoch, with the weights of its best one; `folder`: the sweep's."""
    return folder / "checkpoints" / f"{trial_name(number)}.pt"
