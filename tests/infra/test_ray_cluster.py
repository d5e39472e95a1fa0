"""A gang on a running cluster goes through Ray Train and starts again when a rank is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra.errors import StageFailed
from infra.log import event
from infra.ray_compute import RayCompute

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def add_ranks(mark: Path) -> tuple[int, float]:
    """Sum the ranks over the process group; rank 1 is killed on its first try."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    event("note", message=f"rank {rank} of {os.environ['WORLD_SIZE']}")
    if rank == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.tensor(float(rank + 1))
    dist.all_reduce(total)
    return rank, total.item()


def refuse() -> None:
    raise ValueError("width 770 is not a multiple of heads 12")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCompute]:
    folder = Path(tempfile.mkdtemp(prefix="tmc"))
    port = free_port()
    command = [Path(sys.executable).with_name("ray"), "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    rest = [f"--temp-dir={folder}", "--disable-usage-stats", "--block", "--object-store-memory=100000000"]
    head = subprocess.Popen([*command, *rest], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        with RayCompute(address=f"127.0.0.1:{port}", ranks=2, restarts=1) as compute:
            yield compute
    finally:
        ours = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in ours:
            process.kill()
        psutil.wait_procs(ours, timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(2)
                return
        time.sleep(0.2)
    raise TimeoutError("the cluster did not start")


def test_a_killed_rank_restarts_the_gang_on_the_cluster(cluster: RayCompute, tmp_path: Path) -> None:
    assert sorted(cluster.gang("sum ranks", partial(add_ranks, tmp_path / "mark"))) == [(0, 3.0), (1, 3.0)]


def test_a_rank_that_refuses_is_told_as_on_one_machine(cluster: RayCompute) -> None:
    with pytest.raises(StageFailed, match="rank 0: ValueError.'width 770"):
        cluster.gang("refuse", refuse, ranks=1)
