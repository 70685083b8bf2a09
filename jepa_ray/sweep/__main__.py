"""python -m jepa_ray.sweep SPEC.yaml, and what looks after sweeps that were submitted to a cluster."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer
from typer.core import TyperGroup

from jepa_ray import cli
from jepa_ray.config import SweepConfig, dump_yaml, load_sweep_config
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine

DEFAULT_OUTPUT = Path("outputs")
SERVER = "RAY_API_SERVER_ADDRESS"  # Ray's own name for it
PLAIN = "[OPTIONS]"  # of a command, which otherwise takes the group's


class SweepGroup(TyperGroup):
    """`run` is what is meant where no command is named, so that a spec alone is a command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the command that is meant."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The commands, then all that `run` takes."""
        super().format_help(ctx, formatter)
        run = self.commands["run"]
        run.format_help(type(ctx)(run, info_name=f"{ctx.command_path} [run]"), formatter)


app = typer.Typer(
    cls=SweepGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    options_metavar="[run] SPEC.yaml [OPTIONS]",
    subcommand_metavar="| COMMAND ...",
    help="Run a sweep: here, on a Ray cluster, or as a job that a cluster runs by itself and the other commands look"
    " after.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sweep's name, as its spec has it.")]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="Output root; on a cluster a path of the cluster.")
]
Server = Annotated[
    str | None, typer.Option("--address", metavar="URL", envvar=SERVER, help="The cluster's dashboard, http(s)://...")
]


@app.command(options_metavar=PLAIN)
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to sweep; see sweeps/.")],
    output: Output = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and start nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old sweep is kept aside.")] = False,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Look at the sweep that another process runs; touch nothing.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            help="A Ray cluster: auto, HOST:6379 drive the sweep from here; http(s)://HOST:8265 submits it as a job.",
        ),
    ] = None,
    sets: cli.Sets = None,
    packed: Annotated[Path | None, typer.Option("--packed", hidden=True, help="Data that came with the job.")] = None,
) -> None:
    """Run a hyperparameter sweep; the same command resumes an unfinished one and shows a finished one."""
    config = load_sweep_config(spec, sets or ())
    if dry_run:
        _print_plan(config, output or DEFAULT_OUTPUT, address)
    elif _is_server(address):
        from jepa_ray.sweep.remote import jobs

        if watch_only:
            raise typer.Exit(jobs.logs(config.name, address, cli.console()))
        raise typer.Exit(jobs.submit(config, address, cli.console(), output=output, fresh=fresh))
    elif watch_only:
        _watch(config, output or DEFAULT_OUTPUT)
    else:
        _hear_interrupts()
        from jepa_ray.sweep.run import run_sweep

        run_sweep(config, output or DEFAULT_OUTPUT, cli.console(), fresh=fresh, address=address, packed=packed)


@app.command(options_metavar=PLAIN)
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One sweep; all if not given.")] = None,
    address: Server = None,
) -> None:
    """What the sweeps on a cluster do: state, since when, and the last line of their logs."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    jobs.status(name, server, cli.console())


@app.command(options_metavar=PLAIN)
def logs(
    name: Name,
    address: Server = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Stay until the job ends.")] = True,
) -> None:
    """Show a submitted sweep's log; Ctrl-C leaves the sweep alone."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    raise typer.Exit(jobs.logs(name, server, cli.console(), wait=follow))


@app.command(options_metavar=PLAIN)
def stop(name: Name, address: Server = None) -> None:
    """Have a submitted sweep write its results so far and end; `resume` continues it."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    jobs.stop(name, server, cli.console())


@app.command(options_metavar=PLAIN)
def resume(
    name: Name,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDR", envvar=SERVER, help="As of `run`; the sweep continues there."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="URI", help="Where the sweep's state lies, if not in the output.")
    ] = None,
    output: Output = None,
) -> None:
    """Continue a sweep by its name, from what its storage holds; nothing else is needed."""
    if _is_server(address):
        from jepa_ray.sweep.remote import jobs

        raise typer.Exit(jobs.resume(name, address, cli.console(), storage=storage, output=output))
    _hear_interrupts()
    from jepa_ray.sweep.run import resume_sweep

    resume_sweep(name, output or DEFAULT_OUTPUT, cli.console(), storage=storage, address=address)


def _is_server(address: str | None) -> TypeGuard[str]:
    """Whether the address is a dashboard's: then the sweep becomes a job."""
    return address is not None and address.lower().startswith(("http://", "https://"))


def _server(address: str | None) -> str:
    if not address:
        raise ConfigError(f"--address: must name the cluster's dashboard, http(s)://HOST:8265; or set {SERVER}")
    if not _is_server(address):
        raise ConfigError(
            f"--address {address}: must be a dashboard's, http(s)://HOST:8265; jobs are asked about there"
        )
    return address


def _hear_interrupts() -> None:
    """Ray blocks SIGINT in what its jobs start, and a blocked signal is inherited: no sweep would end by it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _watch(config: SweepConfig, output: Path) -> None:
    from jepa_ray.files import RunFolder
    from jepa_ray.sweep.output.watch import watch

    console, folder = cli.console(), RunFolder((output / "sweeps" / config.name).resolve(), "spec.yaml")
    if watch(config, folder, console):
        from jepa_ray.sweep.output.results import show  # with torch

        show(config, folder, console)
    else:
        console.print("nobody is running it now; the command continues it without --watch-only")


def _offered(address: str | None) -> tuple[Machine, str]:
    """What there is to train on, and whose it is."""
    if not _is_server(address):
        return Machine.local(), "this machine"
    from jepa_ray.sweep.remote.dashboard import Dashboard

    return Dashboard(address).size(), f"the cluster at {address}"


def _print_plan(config: SweepConfig, output: Path, address: str | None) -> None:
    from jepa_ray.sweep.search import space
    from jepa_ray.sweep.search.budget import plan
    from jepa_ray.sweep.search.warm_start import read_warm_starts

    machine, whose = _offered(address)
    planned, warm_starts = plan(config, machine), read_warm_starts(config, output / "sweeps" / config.name)
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
    for warm_start in warm_starts:
        print(warm_start)
    print(f"trials: {planned.trials}, at most {planned.max_epochs} epochs each, rungs at {planned.rungs or 'none'}")
    print(f"epochs in the worst case: {planned.worst_case_epochs}")
    print(
        f"groups: {planned.groups} at once, each {resources.workers_per_trial} worker(s) of"
        f" {resources.cpus_per_worker} cpu(s) and {resources.gpus_per_worker:g} gpu(s);"
        f" {whose} has {machine.cpus:g} cpus and {machine.gpus:g} gpus"
    )


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.sweep")
