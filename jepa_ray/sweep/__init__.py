"""The sweep: what decides (space, search, scheduler), what executes (trial), what shows (view, results).

`run` builds them from a spec and runs Ray Tune over warm worker groups.
"""

CHECKPOINTS = "checkpoints"


def trial_name(number: int) -> str:
    """A trial's name in tables, logs, MLflow and files: of fixed width, so that names sort."""
    return f"trial_{number:05d}"


def checkpoint_name(number: int) -> str:
    """A trial's training checkpoint in the sweep's storage: of its last epoch, with the weights of its best one."""
    return f"{CHECKPOINTS}/{trial_name(number)}.pt"
