"""Ranks on a running cluster take the CPUs that they are to have, and compute with as many threads."""

from __future__ import annotations

import os

import pytest

from infra.compute import cores
from infra.log import attach
from infra.ray_compute import RayCompute
from infra.ray_gang import share
from tests.infra.nodes import Nodes


class _Other:
    """Somebody else's actor."""

    def there(self) -> bool:
        return True


def cpus_here() -> tuple[int, int]:
    """By the environment and by Ray. Torch takes no more threads than the machine has cores."""
    import ray
    import torch

    told = int(os.environ["OMP_NUM_THREADS"])
    assert min(told, 2, cores()) <= torch.get_num_threads() <= told
    return told, int(ray.get_runtime_context().get_assigned_resources()["CPU"])


@pytest.mark.parametrize(
    ("nodes", "ranks", "cpus"),
    [([8, 8], 2, 8), ([8, 2], 2, 4), ([8, 8], 3, 4), ([2, 8, 2], 3, 2), ([3], 2, 1), ([1, 1], 3, 1), ([0, 4], 1, 4), ([], 1, 1)],
)
def test_all_ranks_have_alike_the_most_that_the_nodes_hold(nodes: list[int], ranks: int, cpus: int) -> None:
    assert share(nodes, ranks) == cpus


@pytest.mark.ray
@pytest.mark.cluster
def test_ranks_take_and_use_the_cpus_that_are_said_or_share_what_there_is() -> None:
    with Nodes(2, 4) as nodes:
        with RayCompute(address=nodes.address, ranks=2) as compute:
            assert compute.gang("shared", cpus_here) == [(2, 2)] * 2
            assert compute.gang("alone", cpus_here, ranks=1) == [(4, 4)]
            ray = compute._connected()
            others = [ray.remote(_Other).options(num_cpus=1).remote() for _ in range(2)]
            ray.get([other.there.remote() for other in others])
            assert compute.gang("beside others", cpus_here, ranks=3) == [(1, 1)] * 3
            del others
        with RayCompute(address=nodes.address, ranks=3, rank_cpus=3) as compute:
            said: list[str] = []
            detach = attach(lambda told: said.append(told.get("message", "")))
            assert compute.gang("three each", cpus_here) == [(3, 3)]
            detach()
            assert "three each: the cluster has room for 1 of 3 ranks; goes on with 1" in said
