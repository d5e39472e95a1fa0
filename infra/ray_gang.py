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

    def over(self, restarts: int) -> bool:
        """Whether starting again is of no use."""
        return not self.died or not restarts

    @property
    def preempted(self) -> Preempted | None:
        return next((e for e in self.failures.values() if isinstance(e, Preempted)), None)


def run_on_cluster(ray: Any, mailbox: Any, order: Order, fn: Callable[[], Any], tell: Callable[[], None]) -> list[Any]:
    """fn in as many ranks as there is room for; a death restarts all of them on the nodes that are left, an exception of fn does not.

    tell is called twice a second, to pass on what the ranks say. Raises StageFailed, Preempted, or ConfigError when the cluster has no
    room for min_ranks.
    """
    left, patience, world = order.restarts, GROW_S, 0
    while True:
        gpus = ray.cluster_resources().get("GPU", 0) >= 1
        gang = _Gang(ray, mailbox, _place(ray, order, gpus), order, gpus)
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


def _try(gang: _Gang, fn: Callable[[], Any], tell: Callable[[], None], patience: float) -> _End:
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


def _place(ray: Any, order: Order, gpus: bool) -> Any:
    """Room for all ranks, or after a while for as many as fit."""
    begun, told = time.monotonic(), False
    unit = "GPUs" if gpus else "CPUs"
    while True:
        passed, free = time.monotonic() - begun, room(ray, gpus)
        world = min(order.ranks, free)
        waited = passed > (PLACE_S if capacity(ray, gpus) >= order.ranks else SETTLE_S)
        if (world == order.ranks or (waited and world >= order.min_ranks)) and (group := _reserve(ray, world, gpus)) is not None:
            if world < order.ranks:
                event("warning", message=f"{order.name}: the cluster has room for {world} of {order.ranks} ranks; goes on with {world}")
            return group
        if passed > EMPTY_S:
            raise ConfigError(
                f"{order.name}: the cluster has {free} free {unit}, at least {order.min_ranks} are needed; add nodes or end other jobs"
            )
        if waited and not told:
            event("warning", message=f"{order.name}: waits for {order.min_ranks} free {unit} on the cluster, {free} are free")
            told = True
        time.sleep(POLL_S)


def capacity(ray: Any, gpus: bool) -> int:
    """Ranks that the living nodes could hold if nothing else ran on them."""
    return _ranks(ray.cluster_resources(), gpus)


def room(ray: Any, gpus: bool) -> int:
    """Ranks that the free CPUs and GPUs of the living nodes could hold."""
    return _ranks(ray.available_resources(), gpus)


def _ranks(resources: dict[str, float], gpus: bool) -> int:
    cpus = resources.get("CPU", 0)
    return int(min(cpus, resources.get("GPU", 0)) if gpus else cpus)


def _reserve(ray: Any, world: int, gpus: bool) -> Any:
    bundle = {"CPU": 1, "GPU": 1} if gpus else {"CPU": 1}
    group = ray.util.placement_group([bundle] * world, strategy="PACK")
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

    def __init__(self, ray: Any, mailbox: Any, group: Any, order: Order, gpus: bool) -> None:
        self.ray, self.mailbox, self.group, self.order, self.gpus = ray, mailbox, group, order, gpus
        self.world: int = group.bundle_count
        self.asked = False
        self.actors: list[Any] = []
        self.pending: dict[Any, int] = {}

    def begin(self) -> None:
        """Start the actors. Their order is that of the bundles until they have said where they are."""
        at = self.ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        made = self.ray.remote(num_cpus=1, num_gpus=int(self.gpus), max_restarts=0)(_Rank)
        for index in range(self.world):
            here = at(self.group, placement_group_bundle_index=index)
            self.actors.append(made.options(scheduling_strategy=here).remote(self.mailbox))
        self.ray.get(self.mailbox.take.remote("stop"))  # what the try before was asked

    def work(self, fn: Callable[[], Any], tell: Callable[[], None], patience: float) -> _End:
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
                if room(self.ray, self.gpus):
                    self.ask_to_stop()
        return end

    def _hand_out(self, fn: Callable[[], Any]) -> None:
        """Ask every actor where it is, tell it who it is, and let it work."""
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
                end.failures[rank] = self._explained(cause if isinstance(cause, BaseException) else error)
            except errors.RayError as error:
                end.failures[rank] = RankDied(f"was lost ({_first_line(error)})")

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

        while not done.wait(LISTEN_S):
            try:
                asked = any(ray.get(self.mailbox.look.remote("stop"), timeout=CUT_OFF_S))
            except ray.exceptions.RayError:  # the driver is dead, or this node is cut off from it
                os._exit(1)
            if asked:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def environments(places: Sequence[Place]) -> list[dict[str, str]]:
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
