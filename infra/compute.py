"""The two ways work is spread: map (many items that do not talk) and gang (a few ranks that do)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from infra.errors import Preempted, StageFailed
from infra.gang import run_gang
from infra.log import event

T = TypeVar("T")
R = TypeVar("R")


class Compute(Protocol):
    """How a stage is carried out; nothing here is ever part of a fingerprint.

    ranks: how many ranks a gang has unless its stage asks for a number.
    addresses: where hosts are to be reached, {"host" or "*.suffix": "ip:port"}, as curl's --connect-to.
    """

    ranks: int
    addresses: Mapping[str, str]

    def map(self, name: str, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """fn of every item, in the items' order. Raises StageFailed with all failures after every item was tried."""
        ...

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        """Call fn once in each of some processes that may talk; the results by rank.

        Each finds RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment. A rank that dies of a
        signal restarts them all, so fn must continue from its own checkpoints. Raises StageFailed or Preempted.
        """
        ...


def cores() -> int:
    """The CPUs this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalCompute:
    """On this machine without Ray: map in this process, one item after another; a gang as child processes.

    rank_cpus: threads that each rank computes with; 0: the ranks share this machine's cores.
    """

    def __init__(self, ranks: int = 1, restarts: int = 2, addresses: Mapping[str, str] | None = None, rank_cpus: int = 0) -> None:
        self.ranks, self.restarts, self.addresses, self.rank_cpus = ranks, restarts, dict(addresses or {}), rank_cpus

    def map(self, name: str, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        todo = list(items)
        results: list[R] = []
        failures: dict[int, BaseException] = {}
        for index, item in enumerate(todo):
            try:
                results.append(fn(item))
            except Preempted:
                raise
            except Exception as error:  # every item is tried; all failures are told at once below
                failures[index] = error
            event("progress", stage=name, done=index + 1, total=len(todo), unit="shards")
        if failures:
            raise StageFailed(name, failures, len(todo))
        return results

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        world = ranks or self.ranks
        return run_gang(name, fn, world, threads=self.rank_cpus or max(1, cores() // world), restarts=self.restarts)
