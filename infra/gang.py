"""A few processes of this machine that talk to each other; they live and die together."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from infra.environ import holding
from infra.errors import OutOfMemory, Preempted, StageFailed, WorkerLost
from infra.log import attach, event

R = TypeVar("R")
GRACE_S = 20.0  # between asking a rank to end and ending it


class RankDied(WorkerLost):
    """A rank ended without an answer."""


class RankOutOfMemory(RankDied, OutOfMemory):
    """The kernel killed a rank because memory ran out."""


@dataclass
class _Gang:
    processes: list[mp.process.BaseProcess]
    pipes: list[Connection]
    results: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)
    oom_kills: int = 0  # of this machine before its first rank started


def oom_kills() -> int:
    """Processes that the kernel of this machine has killed for want of memory since it started; 0 where it does not count them."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def run_gang(name: str, fn: Callable[[], R], world: int, threads: int, restarts: int) -> list[R]:
    """fn in `world` fresh processes; a death by signal restarts all of them, an exception of fn does not."""
    for attempt in range(restarts + 1):
        gang = _start(fn, world, threads)
        try:
            _watch(gang)
        finally:
            _end(gang)
        if not gang.failures:
            return [gang.results[rank] for rank in range(world)]
        died = {rank: e for rank, e in gang.failures.items() if isinstance(e, RankDied)}
        if len(died) < len(gang.failures) or attempt == restarts:
            break
        event("warning", message=f"{name}: {_say(died)}; starting again from the last checkpoint ({attempt + 1} of {restarts})")
    for error in gang.failures.values():
        if isinstance(error, Preempted):
            raise error
    raise StageFailed(name, gang.failures, world, unit="rank")


def _say(died: Mapping[int, BaseException]) -> str:
    return ", ".join(f"rank {rank} {error}" for rank, error in sorted(died.items()))


def _start(fn: Callable[[], Any], world: int, threads: int) -> _Gang:
    context = mp.get_context("spawn")
    port = _free_port()
    work = pickle.dumps(fn)  # unpickled in the child after its environment is set: torch reads OMP_NUM_THREADS when imported
    gang = _Gang([], [], oom_kills=oom_kills())
    for rank in range(world):
        ours, theirs = context.Pipe()
        environment = _environment(rank, world, port, threads)
        process = context.Process(target=_rank, args=(work, environment, theirs), daemon=False)
        with holding({name: value for name, value in environment.items() if name.startswith("OMP_")}):
            process.start()  # a child looks at its parent's main module before anything else, which may import torch
        theirs.close()
        gang.processes.append(process)
        gang.pipes.append(ours)
    return gang


def _environment(rank: int, world: int, port: int, threads: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads cost 2-4x on a shared machine and save 5% on an idle one
    }


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rank(work: bytes, environment: dict[str, str], home: Connection) -> None:
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, value: Any) -> None:
        with lock:
            home.send((kind, value))

    attach(lambda told: send("event", told))
    try:
        value = call(work)
    except BaseException as error:  # crosses to the parent, which raises it
        send("failure", portable(error))
        raise SystemExit(1) from None
    send("result", value)


def call(work: bytes, *arguments: Any) -> Any:
    """Unpickle a function that this run pickled for its own workers, and call it."""
    return pickle.loads(work)(*arguments)  # noqa: S301  (our own bytes, through our own pipe)


def portable(error: BaseException) -> BaseException:
    """The exception itself if it can cross to another process, else a RuntimeError with its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # an exception class whose constructor asks for more than it pickles
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _watch(gang: _Gang) -> None:
    """Until every rank answered, or one failed: the others would wait for it in a collective for ever."""
    open_pipes = dict(zip(gang.pipes, range(len(gang.pipes)), strict=True))
    while open_pipes and not gang.failures:
        for ready in wait(list(open_pipes)):
            assert isinstance(ready, Connection)
            rank = open_pipes[ready]
            try:
                kind, value = ready.recv()
            except (EOFError, ConnectionResetError):
                del open_pipes[ready]
                if rank not in gang.results:
                    gang.processes[rank].join(GRACE_S)
                    gang.failures[rank] = _death(gang, rank)
                continue
            _receive(gang, rank, kind, value)


def _death(gang: _Gang, rank: int) -> RankDied:
    """How a rank ended that gave no answer, where, and what to look at."""
    process = gang.processes[rank]
    where = f"(process {process.pid} on {socket.gethostname()})"
    code = process.exitcode or 0
    if code >= 0:
        return RankDied(f"{where} ended with code {code} and without an answer")
    name = signal.Signals(-code).name if -code in set(signal.Signals) else ""
    if -code == signal.SIGKILL and oom_kills() > gang.oom_kills:
        return RankOutOfMemory(f"{where} was killed by the kernel, which ran out of memory (see `dmesg`)")
    return RankDied(f"{where} was killed by signal {-code} {name}".rstrip())


def _receive(gang: _Gang, rank: int, kind: str, value: Any) -> None:
    if kind == "event":
        told = {key: item for key, item in value.items() if key not in ("kind", "time")}
        event(value["kind"], **told)
    elif kind == "failure":
        gang.failures[rank] = value
    else:
        gang.results[rank] = value


def _end(gang: _Gang) -> None:
    """Everybody gone, with time to save first; a rank that hangs in a collective is killed."""
    unfinished = [p for rank, p in enumerate(gang.processes) if rank not in gang.results]
    for process in unfinished:
        process.terminate()
    for process in gang.processes:
        process.join(GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in gang.pipes:
        pipe.close()
