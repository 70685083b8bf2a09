"""python -m jepa_ray.serve head|worker|mlflow|bucket"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jepa_ray import cli
from jepa_ray.serve import mlflow_server, nodes
from jepa_ray.serve.bucket import make_bucket
from jepa_ray.serve.program import with_secrets

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Start the programs of a cluster, safe to be reached.",
)

NodeIp = Annotated[
    str | None, typer.Option("--node-ip", metavar="ADDR", help="Where other nodes reach this one; none: Ray finds it.")
]
Cpus = Annotated[int | None, typer.Option("--num-cpus", min=0, help="CPUs offered to trials; none: all.")]
Gpus = Annotated[int | None, typer.Option("--num-gpus", min=0, help="GPUs offered to trials; none: all.")]
Custom = Annotated[str, typer.Option("--resources", metavar="JSON", help='Further resources, {"name": amount}.')]
Store = Annotated[int | None, typer.Option("--object-store-memory", metavar="BYTES", help="Shared memory; none: 30 %.")]
Temp = Annotated[Path | None, typer.Option("--temp-dir", metavar="DIR", help="Ray's logs and sockets.")]
NodePorts = Annotated[int, typer.Option("--node-ports", min=1024, max=65531, help="First of the node's five ports.")]
MetricsPort = Annotated[int, typer.Option("--metrics-port", min=1024, max=65535, help="Where Prometheus reads.")]
WorkerPorts = Annotated[str, typer.Option("--worker-ports", metavar="LOW-HIGH", help="Ports of the trials' processes.")]
Wait = Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for the other side.")]


@app.command()
def head(
    host: Annotated[str, typer.Option(help="Where the dashboard and the Jobs API listen.")] = "127.0.0.1",
    node_ip: NodeIp = None,
    port: Annotated[int, typer.Option(help="Where nodes and drivers join.")] = 6379,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard and the Jobs API.")] = 8265,
    client_port: Annotated[int, typer.Option(help="Port of Ray Client.")] = 10001,
    num_cpus: Cpus = 0,
    num_gpus: Gpus = 0,
    resources: Custom = "{}",
    object_store_memory: Store = None,
    temp_dir: Temp = None,
    node_ports: NodePorts = 6380,
    metrics_port: MetricsPort = 8080,
    worker_ports: WorkerPorts = "10002-19999",
) -> None:
    """Ray's head, protected by a token. It trains nothing unless --num-cpus says so."""
    offered = nodes.NodeResources(num_cpus, num_gpus, resources, object_store_memory, temp_dir)
    ports = nodes.Ports(node_ports, metrics_port, worker_ports)
    addresses = nodes.BindAddresses(host, dashboard_port, node_ip, port, client_port)
    nodes.head(addresses, ports, offered, with_secrets(os.environ)).become()


@app.command()
def worker(
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="The head.")],
    node_ip: NodeIp = None,
    num_cpus: Cpus = None,
    num_gpus: Gpus = None,
    resources: Custom = "{}",
    object_store_memory: Store = None,
    temp_dir: Temp = None,
    node_ports: NodePorts = 6380,
    metrics_port: MetricsPort = 8080,
    worker_ports: WorkerPorts = "10002-19999",
    wait: Wait = 300,
) -> None:
    """A node that trains. It joins the head as soon as that is up, with the head's token."""
    offered = nodes.NodeResources(num_cpus, num_gpus, resources, object_store_memory, temp_dir)
    ports = nodes.Ports(node_ports, metrics_port, worker_ports)
    nodes.worker(address, node_ip, ports, offered, with_secrets(os.environ), wait).become()


@app.command()
def mlflow(
    artifacts_destination: Annotated[str, typer.Option(metavar="URI", help="Where artifacts are kept.")],
    host: Annotated[str, typer.Option(help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port.")] = 5000,
    backend_store_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Where runs are kept; without a password.")
    ] = None,
    allowed_hosts: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names, with ports, by which clients may call it.")
    ] = None,
    state: Annotated[Path, typer.Option(metavar="DIR", help="A private folder for its configuration.")] = Path(
        "~/.jepa_ray/mlflow"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    auth: Annotated[bool, typer.Option("--auth/--no-auth", help="Users and passwords; off on loopback only.")] = True,
) -> None:
    """The MLflow server, with users, and without what runs code for its callers."""
    server = mlflow_server.Server(
        host, port, backend_store_uri, artifacts_destination, allowed_hosts, state.expanduser(), workers, auth
    )
    mlflow_server.mlflow(server, with_secrets(os.environ)).become()


@app.command()
def bucket(name: str, wait: Wait = 60) -> None:
    """Make the bucket for artifacts and sweeps, unless it is there. The store and its keys: AWS_*."""
    os.environ.update(with_secrets(os.environ))
    print(f"bucket {name} is {'made' if make_bucket(name, wait) else 'there'}")


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.serve")
