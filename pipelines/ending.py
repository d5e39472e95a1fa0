"""How a run ends: signals, exit codes, and the processes it leaves behind. Light: the command needs it at once."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

from infra.errors import PipelineError, Preempted

FAILED, INTERRUPTED = 3, 130
GRACE_S = 5.0


class Terminated(BaseException):
    """SIGTERM arrived. No Exception, so that no stage takes it for the failure of one page."""

    exit_code = Preempted.exit_code


def listen() -> None:
    """From now on SIGTERM ends the run in order."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def exit_code(error: BaseException) -> int:
    """0 ok, 2 usage or recipe, 3 a stage failed, 4 preempted and resumable, 130 interrupted."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, Terminated | PipelineError) else FAILED


def ending(error: BaseException) -> str:
    """The state a run is left in."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    # Prefect turns SIGTERM into an exception of its own, no Exception either
    return "preempted" if isinstance(error, Preempted) or not isinstance(error, Exception) else "failed"


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


def _on_sigterm(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the ending of the children
    raise Terminated
