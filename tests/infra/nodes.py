"""Ray clusters of several nodes for tests: every node a `ray start` with a folder of its own, on this machine or in network namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

from infra.ray_driver import KEEPALIVE

ROOT = Path(__file__).parents[2]
STORE_BYTES = 100_000_000
START_S = 90.0
HOSTS = ("10.77.0.1", "10.77.0.2")
# A node that says nothing is given up after about ten seconds; Ray's defaults take a minute. All processes of a cluster need these alike.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
    **KEEPALIVE,
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Node:
    """One `ray start --block`; `inside` is put before the command, such as `ip netns exec NAME`."""

    def __init__(self, words: list[str], cpus: int, inside: tuple[str, ...] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tmn"))  # short: Unix sockets allow 107 bytes
        ray = str(Path(sys.executable).with_name("ray"))
        common = [f"--num-cpus={cpus}", f"--temp-dir={self.folder}", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats"]
        log = (self.folder / "said").open("w")
        command = [*inside, ray, "start", *words, *common, "--block"]
        environment = {**os.environ, **HEALTH, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self.process = psutil.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        self._until_it_says("--block")

    def _until_it_says(self, word: str) -> None:
        ends = time.monotonic() + START_S
        while word not in (said := (self.folder / "said").read_text()):
            assert self.process.poll() is None and time.monotonic() < ends, said
            time.sleep(0.1)

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        """The processes that are ranks of a gang."""
        return [one for one in self._tree() if _says(one, "ray::_Rank")]

    def kill_raylet(self) -> None:
        """kill -9 of the process that is the node; what worked under it ends by itself."""
        for one in self._tree():
            if _name(one) == "raylet":
                one.kill()

    def end(self) -> None:
        """By pid, all that this node ever started."""
        tree = self._tree()
        for one in tree:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(tree, timeout=30)
        for one in psutil.process_iter(["cmdline"]):  # what was left to init when the node's own process died
            if any(str(self.folder) in word for word in one.info["cmdline"] or ()):
                one.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Nodes:
    """A head and other nodes on loopback; ended as a context manager."""

    def __init__(self, head_cpus: int, *cpus: int) -> None:
        self.port, self.inside, self.nodes, self.drivers = free_port(), (), list[Node](), list[subprocess.Popen[bytes]]()
        with self._or_end():
            self._head(head_cpus, "127.0.0.1")
            for count in cpus:
                self.add(count)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, cpus: int) -> Node:
        agent = ["--dashboard-agent-listen-port", str(free_port())]
        self.nodes.append(Node([f"--address={self.address}", "--node-ip-address=127.0.0.1", *agent], cpus))
        return self.nodes[-1]

    def ranks(self) -> list[psutil.Process]:
        return [rank for node in self.nodes for rank in node.ranks()]

    def _head(self, cpus: int, ip: str) -> None:
        self.nodes.append(
            Node(["--head", f"--port={self.port}", "--include-dashboard=false", f"--node-ip-address={ip}"], cpus, self.inside)
        )

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.wait()
        for node in reversed(self.nodes):
            node.end()


class Machines(Nodes):
    """Two nodes of one CPU, each in a network namespace with an address of its own and a cable between: as two machines are."""

    def __init__(self) -> None:
        self.port, self.nodes, self.drivers = 6379, list[Node](), list[subprocess.Popen[bytes]]()
        number = f"{os.getpid() % 10000}"
        self.names, self.cables = (f"tm{number}a", f"tm{number}b"), (f"tmv{number}a", f"tmv{number}b")
        self.inside = ("ip", "netns", "exec", self.names[0])
        with self._or_end():
            for name in self.names:
                ip("netns", "add", name)
            ip("link", "add", self.cables[0], "type", "veth", "peer", "name", self.cables[1])
            for name, cable, host in zip(self.names, self.cables, HOSTS, strict=True):
                ip("link", "set", cable, "netns", name)
                ip("-n", name, "addr", "add", f"{host}/24", "dev", cable)
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", cable, "up")

    def start(self) -> None:
        """A Ray cluster over both."""
        with self._or_end():
            self._head(1, HOSTS[0])
            words = [f"--address={self.address}", f"--node-ip-address={HOSTS[1]}"]
            self.nodes.append(Node(words, 1, ("ip", "netns", "exec", self.names[1])))

    @property
    def address(self) -> str:
        return f"{HOSTS[0]}:{self.port}"

    def sent(self) -> int:
        """Bytes that went out of the first machine."""
        return int(run("ip", "netns", "exec", self.names[0], "cat", f"/sys/class/net/{self.cables[0]}/statistics/tx_bytes"))

    def cut(self) -> None:
        """Pull the cable: packets are lost, nobody is told."""
        ip("-n", self.names[1], "link", "set", self.cables[1], "down")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def why_no_machines() -> str:
    """Why there can be no network namespaces here; empty when there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` command (iproute2)"
    name = f"tm{os.getpid() % 10000}x"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    cable = ["ip", "-n", name, "link", "add", "tmx", "type", "veth", "peer", "name", "tmy"]
    made = subprocess.run(cable, capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return f"virtual cables are not allowed here: {made.stderr.strip()}" if made.returncode else ""


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def ip(*words: str) -> None:
    run("ip", *words)


def _says(process: psutil.Process, word: str) -> bool:
    try:
        return word in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
