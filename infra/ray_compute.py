"""Ray's only door: map as plain tasks bounded in flight, a gang as actors in one placement group."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from infra.compute import cores
from infra.errors import ConfigError, StageFailed
from infra.gang import run_gang
from infra.log import attach, event
from infra.ray_gang import Order, run_on_cluster

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT = 4  # tasks submitted ahead for each CPU: enough to keep all busy, few enough to hold no long queue in memory
POLL_S = 0.5
SYSTEM_RETRIES = 3  # of a task whose worker died; an exception of ours is not retried
STORE_BYTES = 256 << 20  # only handles and small results pass through Ray's object store
# With the defaults a silent partition hangs a job for minutes; with these a lost node is noticed in about 25 s. All processes of
# a cluster need them alike (a server with the defaults answers "too many pings"), so another's cluster is left as it is.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "10000", "RAY_grpc_client_keepalive_timeout_ms": "10000"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayCompute:
    """Tasks on a Ray cluster: one started here (address None), or a running one by its address.

    A gang on a running cluster is spread over its nodes, and goes on with fewer ranks (min_ranks at least) when one is lost; on the
    cluster started here there is no other node, and the ranks are plain child processes. rank_cpus: CPUs that each of them takes, which
    is how many threads it computes with; 0: they share what there is.
    close() ends what was started here. Use as a context manager.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        ranks: int = 1,
        restarts: int = 2,
        addresses: Mapping[str, str] | None = None,
        min_ranks: int = 1,
        rank_cpus: int = 0,
    ) -> None:
        self.address, self.cpus, self.ranks, self.restarts = address, cpus or cores(), ranks, restarts
        self.min_ranks, self.rank_cpus = min_ranks, rank_cpus
        self.addresses = dict(addresses or {})
        self._ray: Any = None
        self._mailbox: Any = None
        self._folder: Path | None = None

    def __enter__(self) -> RayCompute:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = self._mailbox = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def map(self, name: str, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        todo = list(items)
        if not todo:
            return []
        ray = self._connected()
        task = ray.remote(_call).options(name=name, num_cpus=1, max_retries=SYSTEM_RETRIES)
        shared = ray.put(fn)
        results: dict[int, R] = {}
        failures: dict[int, BaseException] = {}
        waiting: dict[Any, int] = {}
        ahead = iter(enumerate(todo))
        while len(results) + len(failures) < len(todo):
            while len(waiting) < IN_FLIGHT * self._slots() and (following := next(ahead, None)):
                waiting[task.remote(shared, self._mailbox, following[1])] = following[0]
            ready, _ = ray.wait(list(waiting), timeout=POLL_S)
            for ref in ready:
                index = waiting.pop(ref)
                try:
                    results[index] = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    failures[index] = _cause(error)
                except ray.exceptions.RayError as error:  # the worker died again and again
                    failures[index] = error
            self._tell()
            if ready:
                event("progress", stage=name, done=len(results) + len(failures), total=len(todo), unit="shards")
        if failures:
            raise StageFailed(name, failures, len(todo))
        return [results[index] for index in range(len(todo))]

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        world = ranks or self.ranks
        if self.address is None:
            return run_gang(name, fn, world, threads=self.rank_cpus or max(1, self.cpus // world), restarts=self.restarts)
        ray = self._connected()
        order = Order(name, world, min(self.min_ranks, world), self.restarts, self.rank_cpus)
        return run_on_cluster(ray, self._mailbox, order, fn, self._tell)

    def _slots(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1))) if self.address else self.cpus

    def _connected(self) -> Any:
        """Start or join the cluster on first use: a run whose stages are all cached never pays for it."""
        if self._ray is not None:
            return self._ray
        for key, value in (QUIET if self.address else {**KEEPALIVE, **QUIET}).items():
            os.environ.setdefault(key, value)
        if self.address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # a secret of this process and its children
        if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when ray is imported; unset, no token is sent to another's cluster
        import ray

        before = signal.getsignal(signal.SIGTERM)
        try:
            self._join(ray)
        finally:  # Ray's own handler aborts the process with a stack trace
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
        self._ray = ray
        # Beside this process: on another node it would be lost with that node.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        return ray

    def _join(self, ray: Any) -> None:
        if self.address is None:
            self._start(ray)
            return
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = f"no Ray cluster answers at {self.address} ({error}); check the address and the cluster's token"
            raise ConfigError(said) from error

    def _start(self, ray: Any) -> None:
        """A private cluster: its own folder (short: Unix sockets allow 107 bytes), no dashboard.

        address="local", not None: a file left by a killed cluster would send None to a dead address for minutes.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="tm"))
        ray.init(
            address="local",
            num_cpus=self.cpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _temp_dir=str(self._folder),
        )

    def _tell(self) -> None:
        for told in self._ray.get(self._mailbox.take.remote("event")):
            _tell_again(told)


class _Mailbox:
    """An actor that keeps what workers say until the driver asks for it."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}

    def put(self, kind: str, value: Any) -> None:
        self.kept.setdefault(kind, []).append(value)

    def take(self, kind: str) -> list[Any]:
        return self.kept.pop(kind, [])

    def look(self, kind: str) -> list[Any]:
        return self.kept.get(kind, [])


def _call(fn: Callable[[Any], Any], mailbox: Any, item: Any) -> Any:
    """ray.remote takes a plain function and refuses a partial, so the work rides as an argument."""
    detach = attach(lambda told: mailbox.put.remote("event", told))
    try:
        return fn(item)
    finally:
        detach()


def _cause(error: Any) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _tell_again(told: dict[str, Any]) -> None:
    event(told["kind"], **{key: value for key, value in told.items() if key not in ("kind", "time")})
