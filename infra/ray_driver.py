"""The Ray driver: a process of its own that does a run's maps and gangs on a cluster.

Ray ends its driver's process from native code when the cluster's raylet or GCS is gone, and a signal that arrives inside a Ray call
is swallowed or turned into a SystemError. So the run itself never loads Ray: infra/ray_compute.py starts this process, sends it
work through a pipe, and notices when it is gone.

Messages to the driver: ("map", name, fn, items), ("gang", order, fn), ("stop",), ("close",); fn is pickled apart, because its import
may be heavy and only the workers need it. Messages back: ("ready", None), ("event", fields), ("result", value), ("error", exception).
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, OutOfMemory, RayLost, StageFailed, WorkerLost
from infra.gang import call, portable
from infra.log import attach, event
from infra.processes import of_session
from infra.ray_gang import run_on_cluster

IN_FLIGHT = 4  # tasks submitted ahead for each CPU: enough to keep all busy, few enough to hold no long queue in memory
POLL_S = 0.5
SYSTEM_RETRIES = 3  # of a task whose worker was killed; an exception of the task itself is not retried
STORE_BYTES = 256 << 20  # only handles and small results pass through Ray's object store
LOOPBACK = "127.0.0.1"
# With the defaults a silent partition hangs a job for minutes; with these a lost node is noticed in about 25 s. All processes of
# a cluster need the same values (a server with the defaults answers "too many pings"), so another's cluster is left as it is.
KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "10000", "RAY_grpc_client_keepalive_timeout_ms": "10000"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Ray retries a task that its memory monitor killed for ever; a task that never fits must fail.
OWN = {**KEEPALIVE, **QUIET, "RAY_task_oom_retries": str(SYSTEM_RETRIES), "RAY_LOG_TO_STDERR": "0"}


@dataclass(frozen=True)
class Cluster:
    """The cluster to join (address), or to start on this machine with so many CPUs in a temporary directory."""

    address: str | None
    cpus: int
    directory: str
    log: str  # where this process writes what it and Ray print


class Stopped(BaseException):
    """The run asked this process to stop its work. No Exception, so that nothing takes it for a task's failure."""


def serve(home: Connection, cluster: Cluster) -> None:
    """Be the driver: connect, then work until the pipe closes or says so."""
    os.setsid()  # Ctrl-C at the terminal is for the run, which then asks this process to stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _print_to(cluster.log)
    driver = Driver(home, cluster)
    threading.Thread(target=driver.listen, daemon=True).start()
    attach(lambda told: driver.send("event", told))
    try:
        driver.connect()
        driver.send("ready", None)
        driver.work()
    except BaseException as error:
        driver.send("error", portable(error))
    driver.close()


class Driver:
    """What the process knows: Ray, the mailbox of the workers' events, and whether it was asked to stop."""

    def __init__(self, home: Connection, cluster: Cluster) -> None:
        self.home, self.cluster = home, cluster
        self.todo: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._ray: Any = None
        self._mailbox: Any = None

    def send(self, kind: str, value: Any) -> None:
        with self._lock, suppress(OSError):  # the run is gone: `listen` ends this process
            self.home.send((kind, value))

    def listen(self) -> None:
        """Take messages while the work goes on; when the run is gone, so is its cluster."""
        while True:
            try:
                message = self.home.recv()
            except (EOFError, OSError):
                _end()
            if message[0] == "stop":
                self.stopping.set()
            else:
                self.todo.put(message)

    def connect(self) -> None:
        for key, value in (QUIET if self.cluster.address else OWN).items():
            os.environ.setdefault(key, value)
        if self.cluster.address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # a secret of this process and its children
        if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when ray is imported; unset, no token is sent to another's cluster
        import ray

        self._join(ray)
        signal.signal(signal.SIGTERM, _end)  # Ray's own handler aborts the process with a stack trace
        self._ray = ray
        # On this node: on another one it would be lost with that node.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Its process may be killed: a new one takes its place, and what is lost with it are reports of progress.
        lasting = ray.remote(_Mailbox).options(
            num_cpus=0, max_restarts=SYSTEM_RETRIES, max_task_retries=SYSTEM_RETRIES, scheduling_strategy=here
        )
        self._mailbox = lasting.remote()
        try:
            ray.get(self._mailbox.take.remote("event"))
        except ray.exceptions.RayError as error:
            found = cause(ray, error, times=1)
            raise (
                found if isinstance(found, OutOfMemory) else RayLost(f"Ray did not start an actor: {found} (see {self.cluster.log})")
            ) from None

    def _join(self, ray: Any) -> None:
        if self.cluster.address is None:
            try:
                self._start(ray)
            except Exception as error:
                raise RayLost(f"Ray did not start on this machine: {' '.join(str(error).split())} (see {self.cluster.log})") from error
            return
        try:
            ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(unreachable(self.cluster.address, " ".join(str(error).split()))) from error

    def _start(self, ray: Any) -> None:
        """A private cluster on loopback: its own directory (short: Unix sockets allow 107 bytes), no dashboard.

        address="local", not None: a file left by a killed cluster would send None to a dead address for minutes. With an address of
        its own Ray does not look for one by a socket towards 8.8.8.8.
        """
        ray.init(
            address="local",
            num_cpus=self.cluster.cpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            _node_ip_address=LOOPBACK,
            _temp_dir=self.cluster.directory,
        )

    def work(self) -> None:
        """One piece of work after another, each answered by a result or an error."""
        while True:
            message = self.todo.get()
            if message[0] == "close":
                return
            try:
                if message[0] == "map":
                    self.send("result", self.map(*message[1:]))
                else:
                    order, fn = message[1:]
                    self.send("result", run_on_cluster(self._ray, self._mailbox, order, fn, self.tell))
            except (Exception, Stopped) as error:
                self.send("error", portable(self._named(message, error)))

    def _named(self, message: tuple[Any, ...], error: BaseException) -> BaseException:
        """An error of Ray itself, such as the loss of the mailbox, by our names and with the work it ended."""
        if not isinstance(error, self._ray.exceptions.RayError):
            return error
        name = message[1] if message[0] == "map" else message[1].name
        found = cause(self._ray, error, times=1)
        return StageFailed(name, {0: found}, 1, unit="driver") if isinstance(found, OutOfMemory) else RayLost(f"{name}: lost Ray: {found}")

    def map(self, name: str, fn: bytes, items: Iterable[Any]) -> list[Any]:
        todo, ray = list(items), self._ray
        task = ray.remote(_call).options(name=name, num_cpus=1, max_retries=SYSTEM_RETRIES)
        shared = ray.put(fn)
        results: dict[int, Any] = {}
        failures: dict[int, BaseException] = {}
        waiting: dict[Any, int] = {}
        ahead: Iterator[tuple[int, Any]] = iter(enumerate(todo))
        while len(results) + len(failures) < len(todo):
            while len(waiting) < IN_FLIGHT * self._slots() and (following := next(ahead, None)):
                waiting[task.remote(shared, self._mailbox, following[1])] = following[0]
            ready, _ = ray.wait(list(waiting), timeout=POLL_S)
            for ref in ready:
                index = waiting.pop(ref)
                try:
                    results[index] = ray.get(ref)
                except ray.exceptions.RayError as error:
                    failures[index] = cause(ray, error)
            self.tell()
            if ready:
                event("progress", stage=name, done=len(results) + len(failures), total=len(todo), unit="shards")
        if failures:
            raise StageFailed(name, failures, len(todo))
        return [results[index] for index in range(len(todo))]

    def tell(self) -> None:
        """Pass on what the workers reported. Called at least twice a second while there is work, so it also ends the work on demand."""
        if self.stopping.is_set():
            raise Stopped("asked to stop")
        for told in self._ray.get(self._mailbox.take.remote("event")):
            event(told["kind"], **{key: value for key, value in told.items() if key not in ("kind", "time")})

    def close(self) -> None:
        """Leave the cluster; end it when it was started here."""
        if self._ray is not None:
            with suppress(Exception):
                self._ray.shutdown()
        if self.cluster.address is None:
            end_descendants()
        os._exit(0)  # nothing of this process is worth an orderly exit, and Ray's threads may hang in one

    def _slots(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1))) if self.cluster.address else self.cluster.cpus


class _Mailbox:
    """An actor that keeps what workers report until the driver asks for it."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}

    def put(self, kind: str, value: Any) -> None:
        self.kept.setdefault(kind, []).append(value)

    def take(self, kind: str) -> list[Any]:
        return self.kept.pop(kind, [])

    def look(self, kind: str) -> list[Any]:
        return self.kept.get(kind, [])


def _call(fn: bytes, mailbox: Any, item: Any) -> Any:
    """ray.remote takes a plain function and refuses a partial, so the work rides as an argument."""
    detach = attach(lambda told: mailbox.put.remote("event", told))
    try:
        return call(fn, item)
    finally:
        detach()


def cause(ray: Any, error: Any, times: int = SYSTEM_RETRIES + 1) -> BaseException:
    """What a task's failure is called without Ray: its own exception, or the loss of its worker. times: how often it was started."""
    if isinstance(error, ray.exceptions.RayTaskError):
        found = getattr(error, "cause", None)
        return portable(found if isinstance(found, BaseException) else RuntimeError(str(error)))
    first, often = " ".join(str(error).split("\n\n")[0].split()), f" {times} times" if times > 1 else ""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return OutOfMemory(f"Ray's memory monitor killed its worker{often}: {first[:300]}")
    return WorkerLost(f"its worker process was lost{often} ({type(error).__name__}: {first[:300]})")


def unreachable(address: str, why: str) -> str:
    """The message of an address where no cluster can be joined."""
    return (
        f"no Ray cluster answers at {address} ({why}); check --ray, that `ray start --head` runs there, and that RAY_AUTH_TOKEN_PATH "
        "names the cluster's token"
    )


def end_descendants() -> None:
    """Kill every process that this one started, and theirs, also those whose parent is gone."""
    import psutil

    for one in {*psutil.Process().children(recursive=True), *of_session(os.getpid())}:
        with suppress(psutil.Error):
            one.kill()


def _end(*_: object) -> None:
    end_descendants()
    os._exit(1)


def _print_to(log: str) -> None:
    """What this process and Ray's native code print goes to a file: the terminal is the run's."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
