"""python -m jepa_ray.sweep: run a sweep, or manage sweeps that were submitted to a cluster as Ray jobs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import typer
from typer.core import TyperGroup

from jepa_ray import cli
from jepa_ray.config import Budget, SweepConfig, dump_yaml, load_sweep_config
from jepa_ray.errors import ConfigError
from jepa_ray.machine import Machine

DEFAULT_OUTPUT = Path("outputs")
LOADING = "loading torch and Ray"  # the first stage that a session shows
SERVER = "RAY_API_SERVER_ADDRESS"  # Ray's own name for it
PLAIN = "[OPTIONS]"  # usage text of a subcommand; without it typer repeats that of the group


class SweepGroup(TyperGroup):
    """Runs the command `run` if the first argument is not a command's name: a spec alone is a command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `run` where no command is given."""
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of the group, then that of `run`."""
        super().format_help(ctx, formatter)
        run = self.commands["run"]
        run.format_help(type(ctx)(run, info_name=f"{ctx.command_path} [run]"), formatter)


app = typer.Typer(
    cls=SweepGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    options_metavar="[run] SPEC.yaml [OPTIONS]",
    subcommand_metavar="| COMMAND ...",
    help="Run a sweep on this machine, on a Ray cluster, or as a Ray job. The other commands manage Ray jobs.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sweep's name, as in its spec.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="Output root; a path on the cluster for a sweep that runs there."),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="URL", envvar=SERVER, help="URL of the cluster's dashboard, http(s)://HOST:8265."
    ),
]


@app.command(options_metavar=PLAIN)
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The spec of the sweep; see sweeps/.")],
    output: Output = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and start nothing.")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; the files of the old sweep are moved aside.")
    ] = False,
    watch_only: Annotated[
        bool, typer.Option("--watch-only", help="Show the sweep that another process runs, and change nothing.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            help="A Ray cluster. auto or HOST:6379: drive it from here; http(s)://HOST:8265: submit it as a job.",
        ),
    ] = None,
    sets: cli.Sets = None,
    packed: Annotated[
        Path | None, typer.Option("--packed", hidden=True, help="Data that is part of the job's bundle.")
    ] = None,
) -> None:
    """Run a hyperparameter sweep; the same command resumes an unfinished one and shows a finished one."""
    config = load_sweep_config(spec, sets or ())
    if dry_run:
        _print_dry_run(config, output or DEFAULT_OUTPUT, address)
    elif _is_server(address):
        from jepa_ray.sweep.remote import jobs

        if watch_only:
            raise typer.Exit(jobs.logs(config.name, address, cli.console()))
        raise typer.Exit(jobs.submit(config, address, cli.console(), output=output, fresh=fresh))
    elif watch_only:
        _watch(config, output or DEFAULT_OUTPUT)
    else:
        _unblock_interrupts()
        console, output = cli.console(), output or DEFAULT_OUTPUT
        with cli.StartupStatus(console) as startup:
            startup.show(LOADING)  # before the import, which takes seconds
            from jepa_ray.sweep.run import run_sweep

            run_sweep(config, output, console, fresh=fresh, address=address, packed=packed, startup=startup)


@app.command(options_metavar=PLAIN)
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One sweep; without it, all sweeps are shown.")
    ] = None,
    address: Server = None,
) -> None:
    """Show the jobs of the sweeps on a cluster: state, start, duration, and the last line of each log."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    jobs.status(name, server, cli.console())


@app.command(options_metavar=PLAIN)
def logs(
    name: Name,
    address: Server = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the log until the job ends.")] = True,
) -> None:
    """Show a submitted sweep's log; Ctrl-C ends only this command, not the sweep."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    raise typer.Exit(jobs.logs(name, server, cli.console(), wait=follow))


@app.command(options_metavar=PLAIN)
def stop(name: Name, address: Server = None) -> None:
    """Make a submitted sweep write its results so far and end; `resume` continues it."""
    server = _server(address)
    from jepa_ray.sweep.remote import jobs

    jobs.stop(name, server, cli.console())


@app.command(options_metavar=PLAIN)
def resume(
    name: Name,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            envvar=SERVER,
            help="Where the sweep continues; takes the same values as in run.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URI", help="Location of the sweep's files, if it is not the output root."),
    ] = None,
    output: Output = None,
) -> None:
    """Continue a sweep by its name; its spec and its state are read from its storage."""
    if _is_server(address):
        from jepa_ray.sweep.remote import jobs

        raise typer.Exit(jobs.resume(name, address, cli.console(), storage=storage, output=output))
    _unblock_interrupts()
    console = cli.console()
    with cli.StartupStatus(console) as startup:
        startup.show(LOADING)
        from jepa_ray.sweep.run import resume_sweep

        resume_sweep(name, output or DEFAULT_OUTPUT, console, storage=storage, address=address, startup=startup)


def _is_server(address: str | None) -> TypeGuard[str]:
    """Whether the address is that of a dashboard, to which a sweep is submitted as a job."""
    return address is not None and address.lower().startswith(("http://", "https://"))


def _server(address: str | None) -> str:
    """The address of the dashboard that manages the jobs. Raises `ConfigError` if it is missing or not a URL."""
    if not address:
        raise ConfigError(
            f"--address is missing: give the URL of the cluster's dashboard, http(s)://HOST:8265, or set {SERVER}"
        )
    if not _is_server(address):
        raise ConfigError(
            f"--address {address}: must be a dashboard's address, http(s)://HOST:8265, since jobs are managed there"
        )
    return address


def _unblock_interrupts() -> None:
    """Accept SIGINT, which Ray blocks in the processes of its jobs: without this a sweep could not be interrupted."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _watch(config: SweepConfig, output: Path) -> None:
    """Show the sweep that another process runs, and its results if it finishes meanwhile."""
    from jepa_ray.sweep.output.watch import watch
    from jepa_ray.sweep.storage.location import locate_sweep

    console, folder = cli.console(), locate_sweep(config.name, config.storage, output).watched_folder()
    if watch(config, folder, console):
        from jepa_ray.sweep.output.results import show_results  # imports torch

        show_results(config, folder, console)
    else:
        console.print("no process runs this sweep now; the same command without --watch-only continues it")


def _find_machine(address: str | None) -> tuple[Machine, str]:
    """The CPUs and GPUs to train on, and the name of the machine or cluster that has them."""
    if not _is_server(address):
        return Machine.local(), "this machine"
    from jepa_ray.sweep.remote.dashboard import Dashboard

    return Dashboard(address).size(), f"the cluster at {address}"


def _print_dry_run(config: SweepConfig, output: Path, address: str | None) -> None:
    """Print the search, the budget, the number of checkpoints and the worker groups of a sweep. Starts nothing."""
    from jepa_ray.sweep.concurrency import choose_concurrency
    from jepa_ray.sweep.search.budget import plan_budget
    from jepa_ray.sweep.search.warm_start import read_warm_starts
    from jepa_ray.sweep.storage.location import locate_sweep

    machine, owner = _find_machine(address)
    budget = plan_budget(config)
    warm_starts = read_warm_starts(config, locate_sweep(config.name, config.storage, output).folder.path)
    groups = choose_concurrency(config.resources, [machine])
    lines = [
        *_describe_search(config, budget),
        *map(str, warm_starts),
        f"trials: {budget.trials}, at most {budget.max_epochs} epochs each, rungs at {budget.rungs or 'none'}",
        f"epochs in the worst case: {budget.worst_case_epochs}",
        _describe_checkpoints(config, budget, groups),
        _describe_groups(config, groups, machine, owner),
    ]
    print("\n".join(lines))


def _describe_search(config: SweepConfig, budget: Budget) -> list[str]:
    """The algorithm, the objectives, the space, and the configurations that are tried first."""
    from jepa_ray.sweep.search import space

    points = "infinitely many" if budget.points is None else budget.points
    objectives = ", ".join(map(str, config.objectives))
    lines = [f"sweep {config.name}: {config.search.algorithm} search, {objectives}"]
    lines += [f"warning: {config.objective.warning}"] if config.objective.warning else []
    lines += [f"space: {points} points"]
    lines += [f"  {line}" for line in dump_yaml(config.to_dict()["space"]).splitlines()]
    if config.search.enqueue_base and space.base_point(config):
        lines.append("tried first: the base config's own values")
    if config.search.enqueue:
        lines.append(f"tried first: {len(config.search.enqueue)} enqueued configurations")
    return lines


def _describe_groups(config: SweepConfig, groups: int, machine: Machine, owner: str) -> str:
    resources = config.resources
    return (
        f"groups: {groups} at once, each {resources.workers_per_trial} worker(s) of"
        f" {resources.cpus_per_worker} cpu(s) and {resources.gpus_per_worker:g} gpu(s);"
        f" {owner} has {machine.cpus:g} cpus and {machine.gpus:g} gpus"
    )


def _describe_checkpoints(config: SweepConfig, budget: Budget, groups: int) -> str:
    """How many checkpoint files a sweep stores at once; their size depends on the model, which is not built here."""
    from jepa_ray.sweep.storage.disk import count_periodic_checkpoints, count_stored_trials

    trials, periodic = count_stored_trials(config, budget, groups), count_periodic_checkpoints(config)
    text = f"checkpoints on disk: at most {trials}, each of two models and the optimizer's state"
    if not periodic:
        return text
    files = trials * periodic
    return f"{text}; and at most {files} periodic ones ({periodic} per trial), each of one model"


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.sweep")
