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
    help="Start the programs of a cluster with secure settings.",
)

NodeIp = Annotated[
    str | None,
    typer.Option("--node-ip", metavar="ADDR", help="Address of this node for other nodes. Default: Ray detects it."),
]
Cpus = Annotated[int | None, typer.Option("--num-cpus", min=0, help="CPUs offered to trials. Default: all.")]
Gpus = Annotated[int | None, typer.Option("--num-gpus", min=0, help="GPUs offered to trials. Default: all.")]
HeadCpus = Annotated[int | None, typer.Option("--num-cpus", min=0, help="CPUs offered to trials.")]
HeadGpus = Annotated[int | None, typer.Option("--num-gpus", min=0, help="GPUs offered to trials.")]
Custom = Annotated[str, typer.Option("--resources", metavar="JSON", help='Further resources, {"name": amount}.')]
Store = Annotated[
    int | None,
    typer.Option("--object-store-memory", metavar="BYTES", help="Size of Ray's object store. Default: 30 % of memory."),
]
Temp = Annotated[Path | None, typer.Option("--temp-dir", metavar="DIR", help="Folder of Ray's logs and sockets.")]
NodePorts = Annotated[int, typer.Option("--node-ports", min=1024, max=65531, help="First of the node's five ports.")]
MetricsPort = Annotated[int, typer.Option("--metrics-port", min=1024, max=65535, help="Port for Prometheus.")]
WorkerPorts = Annotated[str, typer.Option("--worker-ports", metavar="LOW-HIGH", help="Ports of the trials' processes.")]
Wait = Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for the server.")]


@app.command()
def head(
    host: Annotated[str, typer.Option(help="Address on which the dashboard and the Jobs API listen.")] = "127.0.0.1",
    node_ip: NodeIp = None,
    port: Annotated[int, typer.Option(help="Port that nodes and drivers connect to.")] = 6379,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard and the Jobs API.")] = 8265,
    client_port: Annotated[int, typer.Option(help="Port of Ray Client.")] = 10001,
    num_cpus: HeadCpus = 0,
    num_gpus: HeadGpus = 0,
    resources: Custom = "{}",
    object_store_memory: Store = None,
    temp_dir: Temp = None,
    node_ports: NodePorts = 6380,
    metrics_port: MetricsPort = 8080,
    worker_ports: WorkerPorts = "10002-19999",
) -> None:
    """Start Ray's head, protected by a token. It runs no trials unless --num-cpus is set."""
    offered = nodes.NodeResources(num_cpus, num_gpus, resources, object_store_memory, temp_dir)
    ports = nodes.Ports(node_ports, metrics_port, worker_ports)
    addresses = nodes.BindAddresses(host, dashboard_port, node_ip, port, client_port)
    nodes.head_program(addresses, ports, offered, with_secrets(os.environ)).replace_process()


@app.command()
def worker(
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the head.")],
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
    """Start a node that runs trials. It joins the head as soon as the head is up, with the head's token."""
    offered = nodes.NodeResources(num_cpus, num_gpus, resources, object_store_memory, temp_dir)
    ports = nodes.Ports(node_ports, metrics_port, worker_ports)
    nodes.worker_program(address, node_ip, ports, offered, with_secrets(os.environ), wait).replace_process()


@app.command()
def mlflow(
    artifacts_destination: Annotated[
        str, typer.Option(metavar="URI", help="URI under which the server stores artifacts.")
    ],
    host: Annotated[str, typer.Option(help="Address on which the server listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port on which the server listens.")] = 5000,
    backend_store_uri: Annotated[
        str | None, typer.Option(metavar="URI", help="Database of runs, without a password.")
    ] = None,
    allowed_hosts: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Comma-separated host names, with ports, that clients may use.")
    ] = None,
    state: Annotated[Path, typer.Option(metavar="DIR", help="Private folder for the server's configuration.")] = Path(
        "~/.jepa_ray/mlflow"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Number of server processes.")] = 2,
    auth: Annotated[
        bool, typer.Option("--auth/--no-auth", help="Require users and passwords. --no-auth works on loopback only.")
    ] = True,
) -> None:
    """Start the MLflow server with users, and without features that run code for callers."""
    server = mlflow_server.ServerSettings(
        host, port, backend_store_uri, artifacts_destination, allowed_hosts, state.expanduser(), workers, auth
    )
    mlflow_server.server_program(server, with_secrets(os.environ)).replace_process()


@app.command()
def bucket(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the bucket.")],
    wait: Wait = 60,
) -> None:
    """Create the bucket for artifacts and sweeps unless it exists. AWS_* variables give the store and its keys."""
    os.environ.update(with_secrets(os.environ))
    print(f"bucket {name} {'was created' if make_bucket(name, wait) else 'exists already'}")


if __name__ == "__main__":
    cli.run(app, "python -m jepa_ray.serve")
