"""The sweep: what decides (space, search, scheduler), what executes (trial), what shows (view, results).

`run` builds them from a spec and runs Ray Tune over warm worker groups.
"""


def trial_name(number: int) -> str:
    """A trial's name in tables, logs, MLflow and files: of fixed width, so that names sort."""
    return f"trial_{number:05d}"
