"""Hyperparameter sweeps. `run` is the entry point: it runs Ray Tune over warm worker groups.

search/ decides what to try and when to stop it, `trial` trains it, `recorder` writes all results, storage/ keeps the
study and the files, output/ shows them, and remote/ submits sweeps to clusters.
"""

CHECKPOINTS = "checkpoints"  # folder of all trials' checkpoints in the sweep's storage


def trial_name(number: int) -> str:
    """A trial's name in tables, logs, MLflow and files. Its width is fixed, so that names sort by number."""
    return f"trial_{number:05d}"


def checkpoint_name(number: int) -> str:
    """The name of a trial's training checkpoint in the sweep's storage. It also holds the model of the best epoch."""
    return f"{CHECKPOINTS}/{trial_name(number)}.pt"


def epochs_folder(number: int) -> str:
    """The folder of a trial's periodic checkpoints in the sweep's storage."""
    return f"{CHECKPOINTS}/{trial_name(number)}"
