"""A gang on a running Ray cluster: an actor a rank in one placement group, begun anew when a rank or its node is lost.

Ray itself is handed in by its door, infra/ray_compute.py. What a rank had done must stand in its own checkpoints, in a folder that
all nodes share; nothing here remembers it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError, PipelineError, Preempted, StageFailed
from infra.gang import GRACE_S, RankDied
from infra.log import attach, event

POLL_S = 0.5
PLACE_S = 10.0  # how long a gang waits for room for all its ranks before it takes fewer
EMPTY_S = 600.0  # and for room for min_ranks
START_S = 60.0  # from a place on a node to a process that answers
ECHO_S = 30.0  # a lost node is told up to this long after its peers' collectives broke
GROW_S = 30.0  # how often a gang that runs with fewer ranks looks whether there is room for more
LASTED_S = 300.0  # a try that worked this long was not in vain: the count of restarts begins anew


@dataclass(frozen=True)
class Order:
    """ranks are wanted, min_ranks will do; restarts: deaths in a row after which it is given up."""

    name: str
    ranks: int
    min_ranks: int = 1
    restarts: int = 2


@dataclass(frozen=True)
class Place:
    """Where a rank's process runs: node, the address that faces the cluster, its network interface, a free port, its GPUs."""

    node: str
    address: str
    interface: str
    port: int
    gpus: tuple[str, ...] = ()


@dataclass
class _End:
    """How a try ended: by rank, what came back and what was raised."""

    results: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)

    @property
    def died(self) -> dict[int, BaseException]:
        return {rank: e for rank, e in self.failures.items() if isinstance(e, RankDied)}

    @property
    def preempted(self) -> Preempted | None:
        return next((e for e in self.failures.values() if isinstance(e, Preempted)), None)


def run_on_cluster(ray: Any, mailbox: Any, order: Order, fn: Callable[[], Any], tell: Callable[[], None]) -> list[Any]:
    """fn in as many ranks as there is room for; a death restarts all of them on the nodes that are left, an exception of fn does not.

    tell is called twice a second, to pass on what the ranks say. Raises StageFailed, Preempted, or ConfigError when the cluster has no
    room for min_ranks.
    """
    left = order.restarts
    while True:
        gpus = ray.cluster_resources().get("GPU", 0) >= 1
        group = _place(ray, order, gpus)
        gang = _Gang(ray, mailbox, group, order, gpus)
        began = time.monotonic()
        try:
            end = gang.work(fn, tell)
        except BaseException:  # the driver is asked to stop: let the ranks save
            gang.ask_to_stop()
            gang.wait(GRACE_S)
            raise
        finally:
            gang.close()
            tell()
        if not end.failures:
            return [end.results[rank] for rank in range(gang.world)]
        if gang.asked and (end.preempted or end.died):
            event("note", message=f"{order.name}: there is room for more ranks; goes on with them from the last checkpoint")
            continue
        if end.preempted:
            raise end.preempted
        left = order.restarts if time.monotonic() - began > LASTED_S else left
        if not end.died or not left:
            raise StageFailed(order.name, end.failures, gang.world, unit="rank")
        left -= 1
        said = ", ".join(f"rank {rank} {error}" for rank, error in sorted(end.died.items()))
        event("warning", message=f"{order.name}: {said}; starting again from the last checkpoint ({left} more restarts)")


def _place(ray: Any, order: Order, gpus: bool) -> Any:
    """Room for all ranks, or after a while for as many as fit."""
    group, begun, told = _reserve(ray, order.ranks, gpus), time.monotonic(), False
    unit = "GPUs" if gpus else "CPUs"
    while group is None:
        world = min(order.ranks, room(ray, gpus))
        if world >= order.min_ranks:
            group = _reserve(ray, world, gpus)
            if group is not None and world < order.ranks:
                event("warning", message=f"{order.name}: the cluster has room for {world} of {order.ranks} ranks; goes on with {world}")
            continue
        if time.monotonic() - begun > EMPTY_S:
            raise ConfigError(
                f"{order.name}: the cluster has {world} free {unit}, at least {order.min_ranks} are needed; add nodes or end other jobs"
            )
        if not told:
            event("warning", message=f"{order.name}: waits for {order.min_ranks} free {unit} on the cluster, {world} are free")
            told = True
        time.sleep(POLL_S)
    return group


def room(ray: Any, gpus: bool) -> int:
    """Ranks that the free CPUs and GPUs of the living nodes could hold."""
    free = ray.available_resources()
    return int(min(free.get("CPU", 0), free.get("GPU", 0)) if gpus else free.get("CPU", 0))


def _reserve(ray: Any, world: int, gpus: bool) -> Any:
    bundle = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    group = ray.util.placement_group([bundle] * world, strategy="PACK")
    if group.wait(PLACE_S):
        return group
    ray.util.remove_placement_group(group)
    return None


class _Gang:
    """One try: its actors, in the order of their ranks."""

    def __init__(self, ray: Any, mailbox: Any, group: Any, order: Order, gpus: bool) -> None:
        self.ray, self.mailbox, self.group, self.order, self.gpus = ray, mailbox, group, order, gpus
        self.world: int = group.bundle_count
        self.asked = False
        at = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        actor = ray.remote(_Rank).options(num_cpus=1, num_gpus=int(gpus), max_restarts=0)
        self.actors = [
            actor.options(scheduling_strategy=at(group, placement_group_bundle_index=index)).remote(mailbox) for index in range(self.world)
        ]
        self.pending: dict[Any, int] = {}
        ray.get(mailbox.take.remote("stop"))  # what the try before was asked

    def work(self, fn: Callable[[], Any], tell: Callable[[], None]) -> _End:
        """Until every rank answered, or one failed and no death explains it."""
        errors, end = self.ray.exceptions, _End()
        try:
            self._begin(fn)
        except (errors.RayActorError, errors.GetTimeoutError) as error:
            end.failures[0] = RankDied(f"did not start ({_first_line(error)})")
            return end
        failed, looked = 0.0, time.monotonic()
        while self.pending:
            self._collect(end)
            tell()
            if end.failures:
                failed = failed or time.monotonic()
                if end.died or not all(map(_may_be_echo, end.failures.values())) or time.monotonic() - failed > ECHO_S:
                    break
            if self.world < self.order.ranks and not self.asked and time.monotonic() - looked > GROW_S:
                looked = time.monotonic()
                if room(self.ray, self.gpus):
                    self.ask_to_stop()
        return end

    def _begin(self, fn: Callable[[], Any]) -> None:
        places = self.ray.get([actor.place.remote() for actor in self.actors], timeout=START_S)
        nodes = list(dict.fromkeys(place.node for place in places))
        ranked = sorted(range(self.world), key=lambda index: (nodes.index(places[index].node), index))
        self.actors, places = [self.actors[i] for i in ranked], [places[i] for i in ranked]
        settings = environments(places)
        self.ray.get([a.settle.remote(s) for a, s in zip(self.actors, settings, strict=True)], timeout=START_S)
        self.pending = {actor.work.remote(fn): rank for rank, actor in enumerate(self.actors)}

    def _collect(self, end: _End) -> None:
        errors = self.ray.exceptions
        ready, _ = self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=POLL_S)
        for ref in ready:
            rank = self.pending.pop(ref)
            try:
                end.results[rank] = self.ray.get(ref)
            except errors.RayTaskError as error:
                cause = getattr(error, "cause", None)
                end.failures[rank] = cause if isinstance(cause, BaseException) else error
            except errors.RayError as error:
                end.failures[rank] = RankDied(f"was lost ({_first_line(error)})")

    def ask_to_stop(self) -> None:
        """Every rank gets a SIGTERM within two seconds."""
        self.asked = True
        self.mailbox.put.remote("stop", True)

    def wait(self, seconds: float) -> None:
        if self.pending:
            self.ray.wait(list(self.pending), num_returns=len(self.pending), timeout=seconds)

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor, no_restart=True)
        self.ray.util.remove_placement_group(self.group)


class _Rank:
    """The actor: says where it is, is told who it is, works."""

    def __init__(self, mailbox: Any) -> None:
        self.mailbox = mailbox

    def place(self) -> Place:
        import ray

        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()
        with socket.socket() as s:
            s.bind(("", 0))
            port = int(s.getsockname()[1])
        gpus = tuple(str(i) for i in context.get_accelerator_ids().get("GPU", []))
        return Place(context.get_node_id(), address, interface_of(address), port, gpus)

    def settle(self, environment: dict[str, str]) -> None:
        """Before work's arguments are unpickled, which may import torch."""
        os.environ.update(environment)

    def work(self, fn: Callable[[], Any]) -> Any:
        done = threading.Event()
        threading.Thread(target=self._listen, args=(done,), daemon=True).start()
        detach = attach(lambda told: self.mailbox.put.remote("event", told))
        try:
            return fn()
        finally:
            done.set()
            detach()

    def _listen(self, done: threading.Event) -> None:
        import ray

        while not done.wait(2.0):
            if any(ray.get(self.mailbox.look.remote("stop"))):
                os.kill(os.getpid(), signal.SIGTERM)
                return


def environments(places: Sequence[Place]) -> list[dict[str, str]]:
    """What torchrun would set, by rank; ranks of a node stand side by side. Every rank sees all GPUs of its gang on its node."""
    seen: dict[str, int] = {}
    settings = []
    for rank, place in enumerate(places):
        here = [p for p in places if p.node == place.node]
        local = seen[place.node] = seen.get(place.node, -1) + 1
        settings.append(
            {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(places)),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(len(here)),
                "MASTER_ADDR": places[0].address,
                "MASTER_PORT": str(places[0].port),
                "OMP_WAIT_POLICY": "PASSIVE",
                **({"GLOO_SOCKET_IFNAME": place.interface, "NCCL_SOCKET_IFNAME": place.interface} if place.interface else {}),
                **({"CUDA_VISIBLE_DEVICES": ",".join(gpu for p in here for gpu in p.gpus)} if place.gpus else {}),
            }
        )
    return settings


def interface_of(address: str) -> str:
    """The network interface that has this address; empty when none says so."""
    import psutil

    return next((name for name, all_of in psutil.net_if_addrs().items() if any(a.address == address for a in all_of)), "")


def _may_be_echo(error: BaseException) -> bool:
    """A collective breaks with one of these when a peer is gone, often before the peer's death is known."""
    return isinstance(error, RuntimeError | OSError) and not isinstance(error, PipelineError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
