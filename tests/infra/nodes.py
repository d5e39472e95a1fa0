"""Ray clusters of several nodes for tests: every node a `ray start` with a folder of its own, on this machine or in network namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STORE_BYTES = 100_000_000
START_S = 90.0
# A lost node is noticed within about five seconds; with Ray's defaults it takes twenty.
HEALTH = {"RAY_health_check_initial_delay_ms": "2000", "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "4"}


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
    """A head and other nodes; ended as a context manager."""

    def __init__(self, head_cpus: int, *cpus: int) -> None:
        self.port = free_port()
        self.nodes = [Node(["--head", f"--port={self.port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"], head_cpus)]
        try:
            for count in cpus:
                self.add(count)
        except BaseException:
            self.__exit__()
            raise

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add(self, cpus: int) -> Node:
        agent = ["--dashboard-agent-listen-port", str(free_port())]
        self.nodes.append(Node([f"--address={self.address}", "--node-ip-address=127.0.0.1", *agent], cpus))
        return self.nodes[-1]

    def ranks(self) -> list[psutil.Process]:
        return [rank for node in self.nodes for rank in node.ranks()]

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.end()


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
