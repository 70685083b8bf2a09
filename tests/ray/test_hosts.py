"""Tests of `helpers.hosts` and `helpers.ray_cluster`: several hosts on one machine, and a Ray cluster on them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.hosts import Network, eventually, unsupported_reason
from helpers.ray_cluster import RayCluster

UNSUPPORTED = unsupported_reason()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(UNSUPPORTED is not None, reason=UNSUPPORTED or ""),
    pytest.mark.timeout(600),
]

WHO = """
import socket, time, ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def who():
    time.sleep(3)  # so that no node runs both, one after the other: each has one CPU
    return socket.gethostname(), ray.util.get_node_ip_address()

print(sorted(ray.get([who.remote(), who.remote()])))
"""

ALL_REDUCE = """
import pathlib, socket, sys
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

def work(config):
    import torch, torch.distributed as dist

    total, hosts = torch.tensor([dist.get_rank() + 1.0]), [None, None]
    dist.all_reduce(total)
    dist.all_gather_object(hosts, socket.gethostname())
    if dist.get_rank() == 0:
        pathlib.Path(config["seen"]).write_text(repr((total.item(), sorted(hosts))))

ray.init(log_to_driver=False)
TorchTrainer(
    work,
    train_loop_config={"seen": sys.argv[1] + "/seen"},
    torch_config=TorchConfig(timeout_s=30),
    scaling_config=ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD"),
    run_config=RunConfig(name="all_reduce", storage_path=sys.argv[1]),
).fit()
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network(tmp_path / "network") as network:
        yield network


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and two workers. A test that removes a worker adds another one."""
    with Network(tmp_path_factory.mktemp("cluster") / "network") as network:
        cluster = RayCluster(network)
        for name in ("worker1", "worker2"):
            cluster.add_worker(name, wait=False)
        cluster.wait_for("worker1", "worker2")
        yield cluster


def reaches(network: Network, a: str, b: str) -> bool:
    dial = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 9)) not in (0, 111))"
    process = network.hosts[a].start("timeout", "3", "python3", "-c", dial, b, log="dial.log")
    return process.wait(10) == 0


def test_each_host_has_its_own_name_address_and_processes(network: Network) -> None:
    a, b = network.add("a"), network.add("b")
    assert [host.run("hostname").strip() for host in (a, b)] == ["a", "b"]
    assert a.run("getent", "hosts", "b").split() == [b.address, "b"]
    sleeper = b.start("sleep", "60", log="sleep.log")
    assert eventually(lambda: [p.name() for p in b.processes()] == ["sleep"], 5, "sleep runs on b")
    assert a.processes() == []
    assert sleeper.running


def test_hosts_share_one_folder_and_nothing_else(network: Network) -> None:
    a, b = network.add("a"), network.add("b")
    name = f"of-{uuid.uuid4().hex}"
    for folder in ("/tmp", "/dev/shm"):
        a.run("touch", f"{folder}/{name}")
        b.run("test", "-e", f"{folder}/{name}", code=1)
        assert not Path(folder, name).exists()
    a.run("touch", f"{network.shared}/{name}")
    b.run("test", "-e", f"{network.shared}/{name}")


def test_a_host_is_disconnected_and_connected_again(network: Network) -> None:
    a, b = network.add("a"), network.add("b")
    assert reaches(network, "a", "b")
    b.link_down()
    assert not reaches(network, "a", "b")
    assert b.run("true") == ""  # the host is still running
    b.link_up()
    assert eventually(lambda: reaches(network, "a", "b"), 10, "b is back")
    assert a.alive


def test_a_power_failure_ends_every_process_and_a_new_host_may_have_the_name(network: Network) -> None:
    a, b = network.add("a"), network.add("b")
    process = b.start("sh", "-c", "trap '' TERM INT HUP; (setsid sleep 60 &) ; sleep 60", log="sleep.log")
    eventually(lambda: len(b.processes()) == 3, 5, "three processes run on b")
    before = b.processes()
    b.kill()
    assert process.wait(5) == -9
    assert not any(p.is_running() and p.status() != "zombie" for p in before)
    again = network.add("b")
    assert again.address != b.address
    assert a.run("getent", "hosts", "b").split()[0] == again.address
    assert reaches(network, "a", "b")


def test_signals_and_exit_codes_are_passed_on(network: Network) -> None:
    host = network.add("a")
    assert host.start("sh", "-c", "exit 7", log="exit.log").wait(5) == 7
    trap = host.start("sh", "-c", "trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done", log="trap.log")
    eventually(trap.printed, 5, "the trap is set")
    trap.send(2)
    assert trap.wait(5) == 5


MAKER = """
import sys, time
from pathlib import Path
from helpers.hosts import Network

host = Network(Path(sys.argv[1])).add("a")
host.start("sleep", "600", log="sleep.log")
while not host.processes():
    time.sleep(0.1)
print(host.processes()[0].pid, flush=True)
time.sleep(600)
"""


def test_hosts_end_with_a_test_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path / "network")]
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | path) as maker:
        assert maker.stdout
        sleeper = psutil.Process(int(maker.stdout.readline()))
        assert sleeper.name() == "sleep"
        maker.kill()
    eventually(lambda: not sleeper.is_running(), 10, "the host is gone with its maker")


def test_tasks_run_on_both_workers(cluster: RayCluster) -> None:
    ran = ast.literal_eval(cluster.python(cluster.head, WHO).splitlines()[-1])
    assert ran == [(name, cluster.network.hosts[name].address) for name in ("worker1", "worker2")]


def test_a_host_without_the_token_is_refused(cluster: RayCluster) -> None:
    stranger, friend = cluster.network.add("stranger"), cluster.network.add("client")
    assert cluster.fetch(stranger, "/api/jobs/")[0] == 401
    assert "AuthenticationError" in cluster.python(stranger, "import ray; ray.init()", expect=1)
    cluster.trust(friend)
    assert cluster.fetch(friend, "/api/jobs/")[0] == 200


def test_two_hosts_train_together(cluster: RayCluster) -> None:
    cluster.python(cluster.head, ALL_REDUCE, str(cluster.network.shared))
    seen = ast.literal_eval((cluster.network.shared / "seen").read_text())
    assert seen == (3.0, ["worker1", "worker2"])


def test_one_host_is_disconnected_another_is_killed_and_new_hosts_join(cluster: RayCluster) -> None:
    first, second = (cluster.network.hosts[name] for name in ("worker1", "worker2"))
    first.link_down()
    second.kill()
    cluster.wait_for("worker1", "worker2", state="DEAD")
    assert cluster.daemons["worker1"].running  # it cannot know yet that it was declared dead
    first.link_up()
    eventually(lambda: not first.processes(), 30, "worker1 learns that it was declared dead, and ends")
    first.kill()
    for name in ("worker1", "worker2"):
        cluster.add_worker(name, wait=False)
    cluster.wait_for("worker1", "worker2")
    assert sorted(cluster.nodes().values()) == ["ALIVE"] * 3 + ["DEAD"] * 2
