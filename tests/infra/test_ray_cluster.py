"""A gang on a running cluster of one node starts again when a rank is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infra.errors import StageFailed
from infra.log import event
from infra.ray_compute import RayCompute
from tests.infra.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


def add_ranks(mark: Path) -> tuple[int, float]:
    """Sum the ranks over the process group; rank 1 is killed on its first try."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    event("note", message=f"rank {rank} of {os.environ['WORLD_SIZE']}")
    if rank == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    dist.init_process_group("gloo")
    total = torch.tensor(float(rank + 1))
    dist.all_reduce(total)
    return rank, total.item()


def refuse() -> None:
    raise ValueError("width 770 is not a multiple of heads 12")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCompute]:
    with Nodes(2) as nodes, RayCompute(address=nodes.address, ranks=2, restarts=1) as compute:
        yield compute


def test_a_killed_rank_restarts_the_gang_on_the_cluster(cluster: RayCompute, tmp_path: Path) -> None:
    assert sorted(cluster.gang("sum ranks", partial(add_ranks, tmp_path / "mark"))) == [(0, 3.0), (1, 3.0)]


def test_a_rank_that_refuses_is_told_as_on_one_machine(cluster: RayCompute) -> None:
    with pytest.raises(StageFailed, match="rank 0: ValueError.'width 770"):
        cluster.gang("refuse", refuse, ranks=1)
