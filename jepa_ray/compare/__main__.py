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
    config: Annotated[Path, typer.Option("--config", metavar="CONFIG.yaml", help="The train config; see configs/.")],
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs per objective; their seeds count up from experiment.seed.")
    ] = 3,
    minutes: Annotated[
        float, typer.Option("--minutes", help="Minutes of training per run; validation is not counted.")
    ] = 1.5,
    target_mrr: Annotated[float, typer.Option("--target-mrr", help="Measure the time to this val_rollout_mrr.")] = 0.5,
    plan_episodes: Annotated[
        int, typer.Option("--plan-episodes", min=0, help="Planning tasks per run; 0: none.")
    ] = 100,
    output: cli.Output = Path("outputs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old comparison's folder is renamed.")] = False,
    sets: cli.Sets = None,
) -> None:
    """Train JEPA and the generative baseline under equal conditions, and compare them.

    Finished runs are not repeated.
    """
    loaded = load_train_config(config, sets or ())
    from jepa_ray.compare.run import Settings, run_comparison

    settings = Settings(seeds=seeds, minutes=minutes, target_mrr=target_mrr, plan_episodes=plan_episodes)
    run_comparison(loaded, settings, output, cli.console(), fresh=fresh)


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.compare")
