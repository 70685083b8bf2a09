"""python -m jepa_ray.sweep SPEC.yaml"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.config import SweepConfig, dump_yaml, load_sweep_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to sweep; see sweeps/.")],
    output: cli.Output = Path("outputs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and start nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old sweep is kept aside.")] = False,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Look at the sweep that another process runs; touch nothing.")
    ] = False,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDR", help="An existing Ray cluster.")] = None,
    sets: cli.Sets = None,
) -> None:
    """Run a hyperparameter sweep; the same command resumes an unfinished one and shows a finished one."""
    config = load_sweep_config(spec, sets or ())
    if dry_run:
        _print_plan(config, output)
        return
    if watch_only:
        _watch(config, output)
        return
    from jepa_ray.sweep.run import run_sweep

    run_sweep(config, output, cli.console(), fresh=fresh, address=address)


def _watch(config: SweepConfig, output: Path) -> None:
    from jepa_ray.files import RunFolder
    from jepa_ray.sweep.watch import watch

    console, folder = cli.console(), RunFolder((output / "sweeps" / config.name).resolve(), "spec.yaml")
    if watch(config, folder, console):
        from jepa_ray.sweep.results import show  # with torch

        show(config, folder, console)
    else:
        console.print("nobody is running it now; the command continues it without --watch-only")


def _print_plan(config: SweepConfig, output: Path) -> None:
    from jepa_ray.machine import Machine
    from jepa_ray.sweep import space
    from jepa_ray.sweep.plan import plan
    from jepa_ray.sweep.warm_start import read_lessons

    machine = Machine.local()
    planned, lessons = plan(config, machine), read_lessons(config, output / "sweeps" / config.name)
    resources = config.resources
    points = "infinitely many" if planned.points is None else planned.points
    objectives = ", ".join(map(str, config.objectives))
    print(f"sweep {config.name}: {config.search.algorithm} search, {objectives}")
    if config.objective.warning:
        print(f"warning: {config.objective.warning}")
    print(f"space: {points} points")
    print("".join(f"  {line}\n" for line in dump_yaml(config.to_dict()["space"]).splitlines()), end="")
    if config.search.enqueue_base and space.base_point(config):
        print("tried first: the base config's own values")
    if config.search.enqueue:
        print(f"tried first: {len(config.search.enqueue)} enqueued configurations")
    for lesson in lessons:
        print(lesson)
    print(f"trials: {planned.trials}, at most {planned.max_epochs} epochs each, rungs at {planned.rungs or 'none'}")
    print(f"epochs in the worst case: {planned.worst_case_epochs}")
    print(
        f"groups: {planned.groups} at once, each {resources.workers_per_trial} worker(s) of"
        f" {resources.cpus_per_worker} cpu(s) and {resources.gpus_per_worker:g} gpu(s);"
        f" this machine has {machine.cpus:g} cpus and {machine.gpus:g} gpus"
    )


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.sweep")
