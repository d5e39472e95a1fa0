"""A gang on a running Ray cluster: an actor a rank in one placement group, begun anew when a rank or its node is lost.

Ray itself is handed in by its door, infra/ray_driver.py. What a rank had done must stand in its own checkpoints, in a folder that
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
from infra.gang import GRACE_S, RankDied, RankOutOfMemory, call
from infra.launched import interface_of
from infra.log import attach, event

POLL_S = 0.5
PLACE_S = 10.0  # how long a gang waits for room for all its ranks, where the cluster's nodes could hold them, before it takes fewer
SETTLE_S = 3.0  # what a gang held is given back within this
EMPTY_S = 600.0  # how long it waits for room for min_ranks
START_S = 60.0  # from a place on a node to a process that answers
ECHO_S = 30.0  # a lost node is told up to this long after its peers' collectives broke
GROW_S = 30.0  # how often a gang that runs with fewer ranks looks whether there is room for more
LASTED_S = 300.0  # a try that worked this long was not in vain: the count of restarts begins anew
LISTEN_S = 2.0
CUT_OFF_S = 30.0  # a rank that cannot reach its driver for so long ends itself: another gang may be at its work by now


@dataclass(frozen=True)
class Order:
    """ranks are wanted, min_ranks will do; restarts: deaths in a row after which it is given up.

    cpus: of each rank. 0: as many as all ranks can have alike on the cluster's nodes, or one beside a GPU.
    """

    name: str
    ranks: int
    min_ranks: int = 1
    restarts: int = 2
    cpus: int = 0


@dataclass(frozen=True)
class Seat:
    """What a rank takes of its node."""

    cpus: int
    gpus: int

    @property
    def bundle(self) -> dict[str, int]:
        return {"CPU": self.cpus, "GPU": self.gpus} if self.gpus else {"CPU": self.cpus}

    def __str__(self) -> str:
        parts = (f"{count} {unit}{'s' * (count > 1)}" for unit, count in self.bundle.items())
        return " and ".join(parts)


@dataclass(frozen=True)
class Place:
    """Where a rank's process runs: node, the address that faces the cluster, its network interface, a free port, its GPUs, its host."""

    node: str
    address: str
    interface: str
    port: int
    gpus: tuple[str, ...] = ()
    host: str = ""


@dataclass
class _End:
    """How a try ended: by rank, what came back and what was raised."""

    results: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)

    @property
    def died(self) -> dict[int, BaseException]:
        return {rank: e for rank, e in self.failures.items() if isinstance(e, RankDied)}

    def over(self, restarts: int) -> bool:
        """Whether starting again is of no use."""
        return not self.died or not restarts

    @property
    def preempted(self) -> Preempted | None:
        return next((e for e in self.failures.values() if isinstance(e, Preempted)), None)


def run_on_cluster(ray: Any, mailbox: Any, order: Order, fn: bytes, tell: Callable[[], None]) -> list[Any]:
    """fn in as many ranks as there is room for; a death restarts all of them on the nodes that are left, an exception of fn does not.

    tell is called twice a second, to pass on what the ranks say. Raises StageFailed, Preempted, or ConfigError when the cluster has no
    room for min_ranks.
    """
    left, patience, world = order.restarts, GROW_S, 0
    while True:
        gpus = ray.cluster_resources().get("GPU", 0) >= 1
        gang = _Gang(ray, mailbox, *_place(ray, order, gpus), order)
        patience = patience if gang.world > world else 2 * patience  # room that was seen and could not be had
        world, began = gang.world, time.monotonic()
        end = _try(gang, fn, tell, patience)
        if not end.failures:
            return [end.results[rank] for rank in range(gang.world)]
        if gang.asked and (end.preempted or end.died):
            event("note", message=f"{order.name}: there is room for more ranks; goes on from the last checkpoint")
            continue
        left, patience, world = order.restarts if time.monotonic() - began > LASTED_S else left, GROW_S, 0
        if not end.over(left):
            left -= 1
            said = ", ".join(f"rank {rank} {error}" for rank, error in sorted(end.died.items()))
            event("warning", message=f"{order.name}: {said}; starting again from the last checkpoint ({left} more restarts)")
            continue
        raise end.preempted or StageFailed(order.name, end.failures, gang.world, unit="rank")


def _try(gang: _Gang, fn: bytes, tell: Callable[[], None], patience: float) -> _End:
    """One try, from its actors to their end."""
    try:
        gang.begin()
        return gang.work(fn, tell, patience)
    except BaseException:  # the driver is asked to stop: let the ranks save
        gang.ask_to_stop()
        gang.wait(GRACE_S)
        raise
    finally:
        gang.close()
        tell()


def _place(ray: Any, order: Order, gpus: bool) -> tuple[Any, Seat]:
    """Room for all ranks, or after a while for as many as fit."""
    begun, told, most = time.monotonic(), False, order.ranks
    while True:
        passed = time.monotonic() - begun
        seat = _seat(ray, order, gpus, int(passed / PLACE_S))
        holds = capacity(ray, seat)
        free = min(holds, room(ray, seat))
        world = min(most, free)
        waited = passed > (PLACE_S if holds >= order.ranks else SETTLE_S) and (order.cpus or seat.cpus == 1)
        if (world == order.ranks or (waited and world >= order.min_ranks)) and (group := _reserve(ray, world, seat)) is not None:
            if world < order.ranks:
                event("warning", message=f"{order.name}: the cluster has room for {world} of {order.ranks} ranks; goes on with {world}")
            return group, seat
        if waited and world >= order.min_ranks and order.cpus > 1:  # what is free lies on more nodes than it seemed
            most = max(order.min_ranks, world - 1)
        if passed > EMPTY_S:
            raise ConfigError(
                f"{order.name}: the cluster has room for {free} ranks of {seat}, at least {order.min_ranks} are needed; add nodes or "
                "end other jobs" + (f", or lower resources.rank_cpus {order.cpus}" if order.cpus > 1 else "")
            )
        if waited and not told:
            event("warning", message=f"{order.name}: waits for room for {order.min_ranks} ranks of {seat} on the cluster, it has {free}")
            told = True
        time.sleep(POLL_S)


def _seat(ray: Any, order: Order, gpus: bool, waits: int) -> Seat:
    """Where nothing is said of CPUs and others hold some of them, half as many for each time that was waited in vain."""
    if order.cpus or gpus:
        return Seat(order.cpus or 1, int(gpus))
    nodes = [int(has.get("CPU", 0)) for has in _nodes(ray)]
    return Seat(max(1, share(nodes, order.ranks) >> waits), 0)


def share(nodes: Sequence[int], ranks: int) -> int:
    """The most CPUs each rank can have alike when all of them stand on nodes of so many CPUs; 1 where they cannot."""
    return max((cpus for cpus in range(1, max(nodes, default=0) + 1) if sum(has // cpus for has in nodes) >= ranks), default=1)


def capacity(ray: Any, seat: Seat) -> int:
    """Ranks that the living nodes could hold if nothing else ran on them."""
    return sum(_ranks(has, seat) for has in _nodes(ray))


def room(ray: Any, seat: Seat) -> int:
    """Ranks that the free CPUs and GPUs of the living nodes could hold, or fewer where a rank's would lie on two of them."""
    return _ranks(ray.available_resources(), seat)


def _nodes(ray: Any) -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _ranks(resources: dict[str, float], seat: Seat) -> int:
    return min(int(resources.get(unit, 0)) // count for unit, count in seat.bundle.items())


def _reserve(ray: Any, world: int, seat: Seat) -> Any:
    group = ray.util.placement_group([seat.bundle] * world, strategy="PACK")
    try:
        if group.wait(PLACE_S):
            return group
    except BaseException:
        ray.util.remove_placement_group(group)
        raise
    ray.util.remove_placement_group(group)
    return None


class _Gang:
    """One try: its actors, in the order of their ranks."""

    def __init__(self, ray: Any, mailbox: Any, group: Any, seat: Seat, order: Order) -> None:
        self.ray, self.mailbox, self.group, self.seat, self.order = ray, mailbox, group, seat, order
        self.world: int = group.bundle_count
        self.asked = False
        self.actors: list[Any] = []
        self.pending: dict[Any, int] = {}
        self.places: list[Place] = []

    def begin(self) -> None:
        """Start the actors. Their order is that of the bundles until they have said where they are."""
        at = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        made = self.ray.remote(num_cpus=self.seat.cpus, num_gpus=self.seat.gpus, max_restarts=0)(_Rank)
        for index in range(self.world):
            here = at(self.group, placement_group_bundle_index=index)
            self.actors.append(made.options(scheduling_strategy=here).remote(self.mailbox))
        self.ray.get(self.mailbox.take.remote("stop"))  # what the try before was asked

    def work(self, fn: bytes, tell: Callable[[], None], patience: float) -> _End:
        """Until every rank answered, or one failed and no death explains it. patience: seconds until it looks for room for more."""
        errors, end = self.ray.exceptions, _End()
        try:
            self._hand_out(fn)
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
            if self.world < self.order.ranks and not self.asked and time.monotonic() - looked > patience:
                looked = time.monotonic()
                if room(self.ray, self.seat) and capacity(self.ray, self.seat) > self.world:
                    self.ask_to_stop()
        return end

    def _hand_out(self, fn: bytes) -> None:
        """Ask every actor where it is, tell it who it is, and let it work."""
        places = self.ray.get([actor.place.remote() for actor in self.actors], timeout=START_S)
        nodes = list(dict.fromkeys(place.node for place in places))
        ranked = sorted(range(self.world), key=lambda index: (nodes.index(places[index].node), index))
        self.actors, places = [self.actors[i] for i in ranked], [places[i] for i in ranked]
        settings, self.places = environments(places, self.seat.cpus), places
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
                end.failures[rank] = self._explained(cause if isinstance(cause, BaseException) else error)
            except errors.RayError as error:
                end.failures[rank] = self._lost(rank, error)

    def _lost(self, rank: int, error: BaseException) -> RankDied:
        """Where the rank was, whether its node is gone too, and what to do."""
        place = self.places[rank]
        where = f"on host {place.host} ({place.address}, Ray node {place.node[:12]})"
        if isinstance(error, self.ray.exceptions.OutOfMemoryError):
            return RankOutOfMemory(f"{where} was killed by Ray's memory monitor: fewer ranks a node, smaller micro-batches or more memory")
        if any(node["NodeID"] == place.node and node["Alive"] for node in self.ray.nodes()):
            return RankDied(f"{where} was lost: its process ended ({_first_line(error)}); look for its end in `dmesg` on that host")
        return RankDied(f"{where} was lost: its node left the cluster; look at that host, and start Ray there again")

    def _explained(self, error: BaseException) -> BaseException:
        """What is no fault of the work: somebody else took the port meanwhile, or the rank's node is going away."""
        if "address already in use" in str(error).lower():
            return RankDied(f"found its port taken ({_first_line(error)})")
        if isinstance(error, Preempted) and not self.asked:
            return RankDied(f"was asked to stop by its node ({error})")
        return error

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
        return Place(context.get_node_id(), address, interface_of(address), port, gpus, socket.gethostname())

    def settle(self, environment: dict[str, str]) -> None:
        """Before work unpickles its function, which may import torch."""
        os.environ.update(environment)

    def work(self, fn: bytes) -> Any:
        """Call the pickled fn; its import may need the environment that settle set."""
        done = threading.Event()
        threading.Thread(target=self._listen, args=(done,), daemon=True).start()
        detach = attach(lambda told: self.mailbox.put.remote("event", told))
        try:
            return call(fn)
        finally:
            done.set()
            detach()

    def _listen(self, done: threading.Event) -> None:
        import ray

        while not done.wait(LISTEN_S):
            try:
                asked = any(ray.get(self.mailbox.look.remote("stop"), timeout=CUT_OFF_S))
            except ray.exceptions.RayError:  # the driver is dead, or this node is cut off from it
                os._exit(1)
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def environments(places: Sequence[Place], cpus: int) -> list[dict[str, str]]:
    """What torchrun would set, by rank; ranks of a node stand side by side. Every rank sees all GPUs of its gang on its node.

    A gang on one node talks over that node's loopback.
    """
    alone = len({place.node for place in places}) == 1
    master = "127.0.0.1" if alone else places[0].address
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
                "MASTER_ADDR": master,
                "MASTER_PORT": str(places[0].port),
                "OMP_NUM_THREADS": str(cpus),
                "OMP_WAIT_POLICY": "PASSIVE",
                **_interfaces("" if alone else place.interface),
                **({"CUDA_VISIBLE_DEVICES": ",".join(gpu for p in here for gpu in p.gpus)} if place.gpus else {}),
            }
        )
    return settings


def _interfaces(name: str) -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def _may_be_echo(error: BaseException) -> bool:
    """A collective breaks with one of these when a peer is gone, often before the peer's death is known."""
    return isinstance(error, RuntimeError | OSError) and not isinstance(error, PipelineError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
