"""Weights & Biases, for who logs there: runs and trials a second time, beside MLflow. An extra: `jepa-ray[wandb]`.

Without a network, `WANDB_MODE=offline` keeps them in `wandb/` under the output root, for `wandb sync`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepa_ray.errors import ConfigError


class WandbMirror:
    """One W&B project. Used by one thread, the tracker's writer. Raises `ConfigError` if wandb is not installed."""

    def __init__(self, project: str, group: str, output: Path) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(f"tracking.wandb is {project}, but wandb is not installed: pip install 'jepa-ray[wandb]'")
        self._project, self._group, self._output = project, group, output
        self._runs: dict[str, Any] = {}

    def open(self, run_id: str, name: str, params: Mapping[str, Any]) -> None:
        """Begin a run, or continue the one of an earlier session: both have the MLflow run's id."""
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
            reinit="create_new",  # several trials are open at once
            settings=wandb.Settings(console="off", x_disable_stats=True),
        )

    def log(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """One epoch's metrics, stepped by epoch."""
        if run_id in self._runs:
            self._runs[run_id].log(dict(metrics), step=epoch)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """As the run's summary."""
        if run_id in self._runs:
            self._runs[run_id].summary.update(dict(tags))

    def close(self, run_id: str, *, failed: bool) -> None:
        """Finish a run."""
        if run := self._runs.pop(run_id, None):
            run.finish(exit_code=int(failed))

    def close_all(self) -> None:
        """Finish what an interruption left open."""
        for run_id in list(self._runs):
            self.close(run_id, failed=False)
