"""Compute on a Ray cluster: work goes to a driver process (infra/ray_driver.py), whose loss ends the run in order."""

from __future__ import annotations

import multiprocessing as mp
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle

from infra.compute import cores
from infra.errors import ConfigError, RayLost
from infra.gang import run_gang
from infra.log import event
from infra.processes import of_session
from infra.ray_driver import Cluster, Stopped, serve, unreachable
from infra.ray_gang import Order

T = TypeVar("T")
R = TypeVar("R")

WATCH_S = 1.0  # how often the cluster's processes are looked at
ANSWER_S = 3.0  # within which a cluster's head accepts a connection
JOIN_S = 60.0  # within which a cluster that accepts connections is joined
START_S = 180.0  # within which a cluster of our own is started on a loaded machine
STOP_S = 40.0  # for ranks to save and for the driver to stop its work
CLOSE_S = 20.0  # for the driver to leave the cluster
MISSED = 5  # connections in a row that a cluster's head refuses before it counts as lost
DAEMONS = ("raylet", "gcs_server")
HOST_PORT = re.compile(r"(?:ray://)?(?P<host>[^/:]+|\[[^\]]+\]):(?P<port>\d+)")


class RayCompute:
    """Tasks on a Ray cluster: one started here (address None), or a running one by its address.

    A gang on a running cluster is spread over its nodes, and continues with fewer ranks (min_ranks at least) when one is lost; on the
    cluster started here there is no other node, and the ranks are plain child processes. rank_cpus: CPUs that each of them takes, which
    is how many threads it computes with; 0: they share what there is. log: the file for what Ray prints; a temporary one if None.
    close() ends what was started here. Use as a context manager. Raises ConfigError when there is no cluster, RayLost when it is gone.
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
        log: Path | None = None,
    ) -> None:
        self.address, self.cpus, self.ranks, self.restarts = address, cpus or cores(), ranks, restarts
        self.min_ranks, self.rank_cpus, self.log = min_ranks, rank_cpus, log
        self.addresses = dict(addresses or {})
        self._driver: _DriverProcess | None = None

    def __enter__(self) -> RayCompute:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._driver is not None:
            driver, self._driver = self._driver, None
            driver.close()

    def map(self, name: str, fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
        todo = list(items)
        if not todo:
            return []
        return self._do(name, "map", name, cloudpickle.dumps(fn), todo)  # type: ignore[no-any-return]

    def gang(self, name: str, fn: Callable[[], R], ranks: int | None = None) -> list[R]:
        world = ranks or self.ranks
        if self.address is None:
            return run_gang(name, fn, world, threads=self.rank_cpus or max(1, self.cpus // world), restarts=self.restarts)
        order = Order(name, world, min(self.min_ranks, world), self.restarts, self.rank_cpus)
        return self._do(name, "gang", order, cloudpickle.dumps(fn))  # type: ignore[no-any-return]

    def _do(self, name: str, *message: Any) -> Any:
        driver = self._connected()
        try:
            return driver.do(name, message)
        except RayLost:
            self.close()
            raise

    def _connected(self) -> _DriverProcess:
        """Start or join the cluster on first use: a run whose stages are all cached never pays for it."""
        if self._driver is not None and (why := self._driver.lost()):
            self.close()  # idle when it was lost: nothing is, and another does as well
            event("warning", message=f"{why} while it was idle; {'joining' if self.address else 'starting'} it again")
        if self._driver is None:
            if self.address:
                check_address(self.address)
            self._driver = _DriverProcess(self.address, self.cpus, self.log)
            try:
                self._driver.ready()
            except BaseException:
                self.close()
                raise
        return self._driver


class _DriverProcess:
    """The driver and, when it started a cluster, the processes of that cluster; all seen from the run."""

    def __init__(self, address: str | None, cpus: int, log: Path | None) -> None:
        self.address = address
        self.directory = Path(tempfile.mkdtemp(prefix="tm"))
        self.log = log or self.directory / "driver.log"
        self.family: set[Any] = set()
        self.daemons: dict[str, Any] = {}
        self._checked, self._missed, self._joined = time.monotonic(), 0, False
        self.pipe, theirs = mp.get_context("spawn").Pipe()
        cluster = Cluster(address, cpus, str(self.directory), str(self.log))
        self.process = mp.get_context("spawn").Process(target=serve, args=(theirs, cluster), name="ray driver", daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the cluster is there. Raises ConfigError when it is not in time."""
        within = JOIN_S if self.address else START_S
        try:
            self._answer("Ray's start", time.monotonic() + within)
        except TimeoutError:
            if self.address:
                raise ConfigError(unreachable(self.address, f"nothing joined within {within:.0f} s")) from None
            raise RayLost(f"Ray did not start on this machine within {within:.0f} s{self._log()}") from None
        self._joined = True
        if self.address is None:
            self._look()

    def do(self, name: str, message: tuple[Any, ...]) -> Any:
        """Send work and wait for its result. An exception that arrives meanwhile, such as a signal's, stops the work first."""
        try:
            self.pipe.send(message)
        except OSError:
            raise RayLost(self._message(name, self.lost() or "the Ray driver ended")) from None
        try:
            return self._answer(name)
        except RayLost:
            raise
        except BaseException:
            if self.process.is_alive() and not self.answered:
                self._stop(name)
            raise

    def _answer(self, name: str, until: float | None = None) -> Any:
        """The next result; events on the way are passed on. Raises what the driver raised, RayLost, or TimeoutError."""
        self.answered = False
        while True:
            try:
                told = self.pipe.recv() if self.pipe.poll(WATCH_S) else None
            except (EOFError, OSError):
                self.process.join(WATCH_S)
                raise RayLost(self._message(name, self.lost() or "the Ray driver ended")) from None
            if told is None or told[0] == "event":
                if told:
                    event(told[1]["kind"], **{key: value for key, value in told[1].items() if key not in ("kind", "time")})
                if time.monotonic() - self._checked > WATCH_S and (why := self.lost()):
                    raise RayLost(self._message(name, why))
                if until and time.monotonic() > until:
                    raise TimeoutError
                continue
            self.answered = True
            if told[0] == "error":
                raise told[1]
            return told[1]

    def _stop(self, name: str) -> None:
        """The run is ending: let the driver stop its tasks and its ranks save. A second signal ends the wait."""
        with suppress(Exception, Stopped):
            self.pipe.send(("stop",))
            self._answer(name, time.monotonic() + STOP_S)

    def lost(self) -> str:
        """Which process of the cluster is gone; empty while all are there."""
        self._checked = time.monotonic()
        if (self.process.exitcode or 0) < 0:  # before its cluster, which ends with it
            return f"the Ray driver (process {self.process.pid}) was killed by signal {-(self.process.exitcode or 0)}"
        if self.address is None:
            self._look()
            gone = [f"{name} (process {one.pid})" for name, one in self.daemons.items() if not _lives(one)]
            if gone:
                return f"Ray's {' and '.join(gone)} ended"
        else:
            self._missed = 0 if answers(self.address) else self._missed + 1
            if self._missed >= MISSED:
                return f"the Ray cluster's head at {self.address} does not answer any more"
        if not self.process.is_alive():
            return f"the Ray driver (process {self.process.pid}) ended with code {self.process.exitcode}"
        return ""

    def close(self) -> None:
        """End the driver and all that it started, also what was left to init by a parent that was killed."""
        import psutil

        with suppress(OSError):
            self.pipe.send(("close",))
        self._look()
        is_broken = self.address is None and any(not _lives(one) for one in self.daemons.values())
        self.process.join(CLOSE_S if self._joined and not is_broken else 0)
        self._look()
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        left = [one for one in self.family.union(of_session(self.process.pid or -1)) if _lives(one)]
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, CLOSE_S)
        self.pipe.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _look(self) -> None:
        """Remember the processes that exist under the driver; those of another's cluster are not its children."""
        import psutil

        with suppress(psutil.Error):
            new = set(psutil.Process(self.process.pid).children(recursive=True)) - self.family
            self.family |= new
            self.daemons |= {name: one for one in new if (name := _name(one)) in DAEMONS}

    def _message(self, name: str, why: str) -> str:
        where = f"the cluster at {self.address}" if self.address else "this machine"
        return f"{name}: lost Ray on {where}: {why}{self._log()}"

    def _log(self) -> str:
        return f" (what Ray printed: {self.log})" if self.log.exists() and self.log.parent != self.directory else ""


def check_address(address: str) -> None:
    """Raises ConfigError within seconds when nothing accepts connections there."""
    if not answers(address):
        raise ConfigError(unreachable(address, f"nothing accepts a connection within {ANSWER_S:.0f} s"))


def answers(address: str) -> bool:
    """Whether something accepts connections at host:port; True for an address of another form, such as `auto`."""
    found = HOST_PORT.fullmatch(address)
    if found is None:
        return True
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), ANSWER_S):
            return True
    except (OSError, OverflowError):
        return False


def _name(process: Any) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _lives(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
