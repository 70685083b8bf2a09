"""Runs and trials logged to Weights & Biases in addition to MLflow. Needs the extra `jepa-ray[wandb]`.

Without a network, `WANDB_MODE=offline` writes them to `wandb/` under the output root, for a later `wandb sync`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_ray.errors import ConfigError


class WandbMirror:
    """One W&B project. Only the tracker's writer thread uses it. Raises `ConfigError` if wandb is not installed.

    Args:
        project: its name.
        group: W&B's group of all runs.
        output: folder for W&B's own files.
    """

    def __init__(self, project: str, group: str, output: Path) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(f"tracking.wandb is {project}, but wandb is not installed: pip install 'jepa-ray[wandb]'")
        self._project, self._group, self._output = project, group, output
        self._runs: dict[str, Any] = {}

    def open(self, run_id: str, name: str, params: Mapping[str, Any]) -> None:
        """Start a run, or continue the run of an earlier session. Its id is that of the MLflow run."""
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self._runs[run_id] = wandb.init(
            project=self._project,
            group=self._group,
            id=run_id,
            name=name,
            config=dict(params),
            dir=self._output,
            resume="allow",
            reinit="create_new",  # several trials may be open at once
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )

    def log(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics, with the epoch as step."""
        if run_id in self._runs:
            self._runs[run_id].log(dict(metrics), step=epoch)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Store tags in the run's summary."""
        if run_id in self._runs:
            self._runs[run_id].summary.update(dict(tags))

    def close(self, run_id: str, *, failed: bool) -> None:
        """Finish a run."""
        if run := self._runs.pop(run_id, None):
            run.finish(exit_code=int(failed))

    def close_all(self) -> None:
        """Finish the runs that an interruption left open."""
        for run_id in list(self._runs):
            self.close(run_id, failed=False)
