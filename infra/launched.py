"""A gang that somebody else has started: this process is one of its ranks already, by torchrun's environment or by Slurm's."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from infra.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")

FIRST_PORT, PORTS = 20_000, 10_000  # below those that systems hand out by themselves (32768 on Linux)
LISTED = re.compile(r"((?:\[[^\]]*\]|[^,\[\]])+)(?:,|$)")
BRACKETS = re.compile(r"\[([^\]]*)\]")


class Launched:
    """Compute of a process that is a rank: a gang is a call, and a map has nobody to share its items with."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.addresses: Mapping[str, str] = {}

    def map(self, name: str, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return [fn(item) for item in items]

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        """fn here; the other ranks are in the same call. Raises ConfigError when the stage wants another number of them."""
        if ranks not in (None, self.ranks):
            raise ConfigError(f"{name} wants {ranks} ranks, {self.ranks} were launched")
        return [fn()]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where they are not set yet, from Slurm's variables; one rank alone without.

    Raises ConfigError for half an environment.
    """
    if "RANK" in given:
        if missing := [name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in given]:
            raise ConfigError(f"RANK is set, {', '.join(missing)} not: start the ranks with torchrun or srun")
        return {}
    if "SLURM_PROCID" not in given or int(given.get("SLURM_NTASKS", "1")) == 1:
        return {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return from_slurm(given)


def from_slurm(given: Mapping[str, str]) -> dict[str, str]:
    """What torchrun would have set for this task of a job step (srun's variables: `man srun`, OUTPUT ENVIRONMENT VARIABLES)."""
    needed = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    if missing := [name for name in needed if name not in given]:
        raise ConfigError(f"{', '.join(missing)} not set: start the ranks with srun, one task each")
    nodes = hosts(given.get("SLURM_STEP_NODELIST") or given.get("SLURM_JOB_NODELIST", ""))
    if not nodes:
        raise ConfigError("neither SLURM_STEP_NODELIST nor SLURM_JOB_NODELIST names a node: start the ranks with srun")
    alone = len(nodes) == 1
    port = FIRST_PORT + (7 * int(given["SLURM_JOB_ID"]) + int(given.get("TEXTMILL_TRY", "0"))) % PORTS
    visible = [gpu for gpu in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {
        "RANK": given["SLURM_PROCID"],
        "WORLD_SIZE": given["SLURM_NTASKS"],
        "LOCAL_RANK": "0" if len(visible) == 1 else given["SLURM_LOCALID"],  # a task that sees one GPU knows it as number 0
        "MASTER_ADDR": "127.0.0.1" if alone else nodes[0],
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": given.get("OMP_NUM_THREADS") or given.get("SLURM_CPUS_PER_TASK", "1"),
        **({} if alone else _interfaces(nodes, int(given.get("SLURM_NODEID", "0")), port)),
    }


def hosts(listed: str) -> list[str]:
    """Slurm's short form in full: "gpu[01-03,07],login" is gpu01, gpu02, gpu03, gpu07 and login."""
    return [name for group in LISTED.findall(listed) for name in _spelt(group)]


def _spelt(group: str) -> list[str]:
    found = BRACKETS.search(group)
    if found is None:
        return [group]
    before, after = group[: found.start()], group[found.end() :]
    return [before + number + rest for part in found[1].split(",") for number in _numbers(part) for rest in _spelt(after)]


def _numbers(part: str) -> list[str]:
    first, _, last = part.partition("-")
    return [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]


def _interfaces(nodes: list[str], here: int, port: int) -> dict[str, str]:
    """The interface that leads to another node of the job; a host's own name may stand for its loopback."""
    name = interface_of(address_towards(nodes[0] if here else nodes[1], port))
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def address_towards(host: str, port: int) -> str:
    """This machine's address on the way to a host; nothing is sent. Empty when there is no way."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect((host, port))
            return str(s.getsockname()[0])
    except OSError:
        return ""


def interface_of(address: str) -> str:
    """The network interface that has this address; empty when none says so."""
    import psutil

    return next((name for name, all_of in psutil.net_if_addrs().items() if any(a.address == address for a in all_of)), "")
