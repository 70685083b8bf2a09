"""Several hosts on one machine: each has its own Linux namespaces, and all are connected to one switch.

A host has its own network interface, host name, process ids, shared memory, /tmp and home. Hosts share only one folder
and the installed programs.

A host exists as long as its init process, which ends when the pipe from the test is closed. So the end of the test,
even by kill -9, ends the hosts with all their processes and interfaces. Nothing is created in the namespaces of the
machine itself, so nothing can be left over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

CHECKOUT = Path(__file__).parents[2]
SUBNET = "10.77.0"  # the switch has a namespace of its own, so the addresses conflict with no other network
TMP = Path("/tmp")

# Waits for the end of its input. As the first process of its namespace, bash adopts orphans, which end when it ends.
INIT = """
set -e
hostname "$1"
ip link set lo up
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf  # no name server: looking up a name that /etc/hosts lacks fails at once
mount -t tmpfs -o size=1g tmpfs /dev/shm
for path in "${@:3}"; do mkdir -p "$2$path"; mount --rbind "$path" "$2$path"; done
mount --rbind "$2/tmp" /tmp
echo ready
read -r forever
"""


def unsupported_reason() -> str | None:
    """The reason why hosts cannot be created on this machine; None if they can."""
    if missing := [tool for tool in ("unshare", "nsenter", "ip", "mount") if not shutil.which(tool)]:
        return f"hosts are namespaces, which need {', '.join(missing)}"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"hosts are namespaces, which need root ({probe.stderr.strip()})" if probe.returncode else None


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until `condition` returns a true value, and return it. Raises `AssertionError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Namespaces:
    """New namespaces and the process that keeps them alive."""

    def __init__(self, kinds: Sequence[str], script: str, *arguments: str) -> None:
        command = ["unshare", *(f"--{kind}" for kind in kinds), "--fork", "--kill-child=SIGKILL"]
        self._holder = subprocess.Popen(
            [*command, "bash", "-c", script, "init", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the test, which then ends the hosts in order
        )
        assert self._holder.stdout
        assert self._holder.stderr
        if self._holder.stdout.readline().strip() != "ready":
            raise RuntimeError(f"no namespaces: {self._holder.stderr.read()}")
        self.pid = psutil.Process(self._holder.pid).children()[0].pid  # of the init process, seen from outside

    def enter(self, *kinds: str) -> list[str]:
        """The prefix of a command line that runs the command in these namespaces."""
        return ["nsenter", f"--target={self.pid}", *(f"--{kind}" for kind in kinds)]

    def close(self) -> None:
        """End all processes in the namespaces. They have ended when this returns."""
        if self._holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # the holder is notified after the kernel has ended all other processes
        self._holder.communicate()


class Process:
    """A command that runs on a host. Its output is written to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("w") as sink:
            self._entered = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )

    def send(self, sent: int = signal.SIGTERM) -> None:
        """Send a signal to the command; no effect if it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for inside in psutil.Process(self._entered.pid).children():  # nsenter only waits for the command
                inside.send_signal(sent)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative if a signal ended it; None if it is still running after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._entered.wait(seconds)
        return None

    @property
    def running(self) -> bool:
        return self._entered.poll() is None

    def printed(self) -> str:
        return self.log.read_text(errors="replace")


class Host:
    """A machine with a name and an address, created by `Network.add`."""

    def __init__(
        self, name: str, address: str, switch: Namespaces, folder: Path, shared: Path, calls_itself: str | None
    ) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.calls_itself = calls_itself or address
        self._switch, self._port = switch, f"port{address.rpartition('.')[2]}"
        self.tmp.mkdir(parents=True)
        self.home.mkdir()
        for file in ("hosts", "resolv.conf"):
            (folder / file).touch()
        visible = [path for path in (shared, CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)) if TMP in path.parents]
        everything = ("net", "mount", "uts", "ipc", "pid", "mount-proc")
        self._inside = Namespaces(everything, INIT, name, str(folder), *map(str, sorted(visible)))
        self._plug_in()
        self.alive = True

    def _plug_in(self) -> None:
        """Connect the host to the switch. Its default route leads nowhere, but programs look for a default route."""
        on_switch = self._switch.enter("net")
        cable = f"ip link add {self._port} type veth peer name eth0 netns {self._inside.pid}"
        _do(on_switch, cable, f"ip link set {self._port} master switch up")
        in_host = self._inside.enter("net")
        _do(in_host, f"ip addr add {self.address}/24 dev eth0", "ip link set eth0 up", "ip route add default dev eth0")

    @property
    def tmp(self) -> Path:
        """Its /tmp, seen from outside."""
        return self.folder / "tmp"

    @property
    def home(self) -> Path:
        return self.tmp / "home"

    def run(self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 60, code: int = 0) -> str:
        """Run a command, assert its exit code, and return its output, including errors."""
        entered = self._enter(command, env)
        done = subprocess.run(
            entered,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == code, f"{self.name}: {' '.join(command)} ended with {done.returncode}: {done.stdout}"
        return done.stdout

    def start(self, *command: str, log: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a command in the background. Its output is written to the file `log` in the host's folder."""
        return Process(self._enter(command, env), self.folder / log)

    def _enter(self, command: Sequence[str], env: Mapping[str, str] | None) -> list[str]:
        own = {"HOME": "/tmp/home", "TMPDIR": "/tmp", **(env or {})}
        variables = [f"{key}={value}" for key, value in own.items()]
        forget = [f"--unset={key}" for key in os.environ if key.startswith(("RAY_", "XDG_"))]
        entered = self._inside.enter("net", "mount", "uts", "ipc", "pid", "wd=/tmp")
        return [*entered, "env", *forget, *variables, *command]

    def introduce(self, others: Sequence[Host]) -> None:
        """Write the names and addresses of all hosts to its /etc/hosts, in place since the file is mounted."""
        known = [(host.address, host.name) for host in others if host is not self]
        lines = [("127.0.0.1", "localhost"), (self.calls_itself, self.name), *known]
        (self.folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in lines))

    def link_down(self) -> None:
        """Disconnect the host at the switch. Neither side is notified, and packets are lost silently."""
        _do(self._switch.enter("net"), f"ip link set {self._port} down")

    def link_up(self) -> None:
        _do(self._switch.enter("net"), f"ip link set {self._port} up")

    def kill(self) -> None:
        """Simulate a power failure: all processes end at once, and no connection is closed properly."""
        if self.alive:
            self.alive = False
            self.link_down()
            self._inside.close()

    def processes(self) -> list[psutil.Process]:
        """All processes on the host except its init process."""
        here, init = _pid_namespace(self._inside.pid), self._inside.pid
        if here is None:
            return []
        return [p for p in psutil.process_iter() if p.pid != init and _pid_namespace(p.pid) == here]

    def memory(self) -> int:
        """Memory of its processes in bytes; shared memory is counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


class Network:
    """A switch with hosts, and a folder `shared` that all hosts see under the same path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        self.hosts: dict[str, Host] = {}
        self._free = iter(range(1, 255))
        self._switch = Namespaces(
            ["net"], "ip link add switch type bridge && ip link set switch up && echo ready && read"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def add(self, name: str, *, calls_itself: str | None = None) -> Host:
        """Add a host and write its name to the /etc/hosts of all others. It may have the name of a host that died.

        On the host itself, its name has its address, or `calls_itself`: 127.0.1.1 on a freshly installed Debian.
        """
        assert name not in self.hosts or not self.hosts[name].alive, f"{name} is alive"
        number = next(self._free)
        folder, address = self._folder / f"{name}.{number}", f"{SUBNET}.{number}"
        self.hosts[name] = Host(name, address, self._switch, folder, self.shared, calls_itself)
        for host in self.hosts.values():
            host.introduce(list(self.hosts.values()))
        return self.hosts[name]

    def destroy(self) -> None:
        for host in self.hosts.values():
            host.kill()
        self._switch.close()


def _pid_namespace(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return None


def _do(entered: Sequence[str], *commands: str) -> None:
    for command in commands:
        subprocess.run([*entered, *command.split()], check=True, capture_output=True, text=True)
