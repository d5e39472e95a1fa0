"""How a run ends: the table of exit states, signals, and the processes it leaves behind. Light: the command needs it at once.

TABLE is the one place that says which exit code, which state in status.json and which Prefect state an end has;
docs/guides/exit-states.md shows it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from infra.errors import ArtifactError, ConfigError, OutOfMemory, PipelineError, Preempted, RayLost, StageFailed

GRACE_S = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY = ("out of memory", "can't allocate memory")  # torch and native libraries raise RuntimeError for it
RESUME = "The same command resumes."


@dataclass(frozen=True)
class ExitState:
    """One way a run ends. code: of the process; state: in status.json; prefect: of the flow run; message: on stderr."""

    cause: str
    code: int
    state: str
    prefect: str
    message: str
    remedy: str


ERROR = "{error}"  # the text of the exception, which names the stage and the place
DONE = ExitState("done", 0, "done", "Completed", "", "")
CONFIG = ExitState("recipe or option cannot be carried out", 2, "failed", "Failed", ERROR, "Correct what the message names.")
FAILED = ExitState("a stage failed", 3, "failed", "Failed", ERROR, f"Finished shards are retained: fix the cause. {RESUME}")
DAMAGED = ExitState("an artifact is damaged", 3, "failed", "Failed", ERROR, f"`textmill verify` quarantines it. {RESUME}")
UNEXPECTED = ExitState("an unexpected exception", 3, "failed", "Failed", "{type}: {error}", f"`--debug` shows where. {RESUME}")
INTERRUPTED = ExitState("SIGINT (Ctrl-C)", 130, "interrupted", "Cancelled", "interrupted", RESUME)
TERMINATED = ExitState("SIGTERM", 4, "preempted", "Crashed", "stopped by SIGTERM", RESUME)
CANCELLED = ExitState("cancelled in the Prefect UI or API", 4, "cancelled", "Cancelled", "cancelled through Prefect", RESUME)
RAY_ADDRESS = ExitState("no Ray cluster at `--ray`", 2, "none", "none", ERROR, "Correct the address, or start the cluster.")
RAY_LOST = ExitState(
    "Ray lost (raylet, GCS or driver killed)", 3, "failed", "Crashed", ERROR,
    "Start the cluster again if it is not textmill's own; `--plain` does without Ray. Finished shards are retained. " + RESUME,
)  # fmt: skip
PREFECT_LOST = ExitState(
    "Prefect server lost", 0, "done", "Running", "warning: the Prefect server at {error} does not answer",
    "None: the run continues. If the server is still gone at the end, the next command corrects the flow run's state.",
)  # fmt: skip
DISK_FULL = ExitState("disk full", 3, "failed", "Failed", ERROR, f"Free space on that disk. {RESUME}")
NO_RAM = ExitState(
    "out of memory", 3, "failed", "Failed", ERROR,
    "Lower resources.cpus, resources.ranks or batch sizes, or use a machine with more memory (`textmill plan` estimates it). " + RESUME,
)  # fmt: skip
KILLED = ExitState("SIGKILL", 137, "killed", "Crashed", "", RESUME)
TABLE = (
    DONE, CONFIG, FAILED, DAMAGED, UNEXPECTED, INTERRUPTED, TERMINATED, CANCELLED, RAY_ADDRESS, RAY_LOST, PREFECT_LOST, DISK_FULL, NO_RAM,
    KILLED,
)  # fmt: skip


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, so that no stage takes it for the failure of one page."""


class Cancelled(Terminated):
    """The run was cancelled through Prefect."""


_CANCELLED = threading.Event()
_AT_ONCE = threading.Event()


def listen() -> None:
    """From now on SIGTERM ends the run in order."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def cancel() -> None:
    """End this process's run in order, as cancelled. May be called from any thread."""
    _CANCELLED.set()
    os.kill(os.getpid(), signal.SIGTERM)


def exit_state(error: BaseException | None) -> ExitState:
    """The row of the table for how a run ended; None: it ended well."""
    if error is None:
        return DONE
    if not isinstance(error, Exception):  # Prefect turns SIGTERM into an exception of its own, no Exception either
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else CANCELLED if isinstance(error, Cancelled) else TERMINATED
    if isinstance(error, Preempted):
        return TERMINATED
    causes = list(_causes(error))
    for row, met in ((DISK_FULL, _is_full), (NO_RAM, _is_memory)):
        if any(met(one) for one in causes):
            return row
    rows = ((ConfigError, CONFIG), (ArtifactError, DAMAGED), (RayLost, RAY_LOST), (PipelineError, FAILED))
    return next((row for kind, row in rows if isinstance(error, kind)), UNEXPECTED)


def flow_state(state: str) -> str:
    """The Prefect state of a run that left this state in status.json: for a server that was gone when it ended."""
    return next((row.prefect for row in TABLE if row.state == state), KILLED.prefect)


def describe(error: BaseException) -> str:
    """What failed and where, in one line for each thing that is wrong; then what to do about it."""
    found = exit_state(error)
    text = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    if not isinstance(error, PipelineError):
        text = " ".join(text.split())
    message = found.message.replace("{type}", type(error).__name__).replace(ERROR, text)
    return message if found is CONFIG else f"{message}\n{found.remedy}"


def locate(error: BaseException, workspace: Path) -> None:
    """Add to the error of a full disk which disk it is: the system's own message names no path."""
    if exit_state(error) is DISK_FULL:
        free = shutil.disk_usage(workspace).free
        error.add_note(f"the disk of {workspace} has {free / 2**20:,.1f} MiB free")


def end_children(keep: set[int]) -> None:
    """End every process this one started, but not those that are to outlive a run."""
    import psutil

    spared = set(keep)
    for pid in keep:
        with suppress(psutil.Error):
            spared |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in spared]
    for child in children:
        with suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, GRACE_S)[1]:
        with suppress(psutil.Error):
            child.kill()


def exit_at_once() -> None:
    """From now on `leave` does not wait for threads: those of Prefect wait minutes for a server that is gone."""
    _AT_ONCE.set()


def leave(code: int) -> NoReturn:
    """End this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _AT_ONCE.is_set():
        os._exit(code)
    sys.exit(code)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and what failed in its shards or ranks."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [more for more in (one.__cause__, one.__context__) if more is not None]
        todo += one.failures.values() if isinstance(one, StageFailed) else ()


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemory) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return type(error).__module__.partition(".")[0] in ("builtins", "torch") and isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in NO_MEMORY
    )  # fmt: skip


def _on_sigterm(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the ending of the children
    raise Cancelled if _CANCELLED.is_set() else Terminated
