"""The results that a sweep leaves in its folder, each written completely or not at all, and the final printout."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.console import Console

from jepa_ray.config import SweepConfig, dump_yaml
from jepa_ray.files import RunFolder, write_atomically
from jepa_ray.formatting import format_duration
from jepa_ray.sweep.output.leaderboard import LEADERBOARD
from jepa_ray.sweep.output.reporting import REPORT
from jepa_ray.sweep.output.terminal_table import print_leaderboard
from jepa_ray.sweep.search import space
from jepa_ray.sweep.storage.records import TrialRecord
from jepa_ray.sweep.storage.study import StudyView
from jepa_ray.train.checkpoint import best_model, from_bytes, to_bytes

BEST_CONFIG, BEST_MODEL = "best_config.yaml", "best_jepa_model.pt"
FILES = (
    (REPORT, "the report: open it in a browser"),
    (LEADERBOARD, "all trials"),
    (BEST_CONFIG, "the best trial's config, for python -m jepa_ray.train"),
    (BEST_MODEL, "the model of the best trial's best epoch"),
    ("ray.log", "the output of Ray"),
)


def write_best(study: StudyView, best: TrialRecord, checkpoint: bytes, folder: Path) -> list[Path]:
    """Write `best_config.yaml`, which reproduces the best trial as a single run, and `best_jepa_model.pt`.

    Args:
        study: the sweep's study.
        best: the trial on rank 1.
        checkpoint: its training checkpoint.
        folder: the sweep's folder.
    """
    spec = study.spec
    config = spec.trial_config({**space.decode(spec.space, best.params), "experiment.name": f"{spec.name}-best"})
    config_path, model_path = folder / BEST_CONFIG, folder / BEST_MODEL
    header = f"# {best.trial_id} of sweep {spec.name}: {spec.objective.metric} {study.best_value(best)}\n"
    write_atomically(config_path, (header + dump_yaml(config.to_dict())).encode())
    write_atomically(model_path, to_bytes(best_model(from_bytes(checkpoint))))
    return [config_path, model_path]


def show_results(spec: SweepConfig, folder: RunFolder, console: Console, location: str | None = None) -> pd.DataFrame:
    """Print the leaderboard and the list of result files, and return the leaderboard.

    Args:
        spec: the sweep.
        folder: the sweep's folder on this machine.
        console: where to print.
        location: the location to name in place of `folder`, if the folder is only a copy.
    """
    frame = pd.read_csv(folder.path / LEADERBOARD)
    print_leaderboard(frame, spec, console)
    console.print(
        f"done in {format_duration(folder.seconds)}; all results are in {location or folder.path}", soft_wrap=True
    )
    for name, content in FILES:
        if (folder.path / name).exists():
            console.print(f"  {name:<20} {content}", highlight=False, soft_wrap=True)
    return frame
