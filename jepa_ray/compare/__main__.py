"""python -m jepa_ray.compare --config CONFIG.yaml"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import load_train_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def compare(
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="What to train; see configs/.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs a side, from experiment.seed upwards.")] = 3,
    minutes: Annotated[float, typer.Option("--minutes", help="Training time of a run, validation left out.")] = 1.5,
    target_mrr: Annotated[float, typer.Option("--target-mrr", help="val_rollout_mrr to be reached, and when.")] = 0.5,
    plan_episodes: Annotated[int, typer.Option("--plan-episodes", min=0, help="Planned tasks a run; 0: none.")] = 100,
    output: cli.Output = Path("outputs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old comparison is kept aside.")] = False,
    sets: cli.Sets = None,
) -> None:
    """Train JEPA and the generative baseline alike, and compare what was measured; finished runs are used again."""
    loaded = load_train_config(config, sets or ())
    from jepa_ray.compare.run import Settings, run_comparison

    settings = Settings(seeds=seeds, minutes=minutes, target_mrr=target_mrr, plan_episodes=plan_episodes)
    run_comparison(loaded, settings, output, cli.console(), fresh=fresh)


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.compare")
