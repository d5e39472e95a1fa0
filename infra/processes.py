"""Processes of this machine: an identity that neither a reused process id nor a changed clock can fake, and the processes of a session."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

BOOT = Path("/proc/sys/kernel/random/boot_id")


def identity(pid: int | None = None) -> str:
    """Boot and start time of a living process, this one without pid; empty when there is none (a zombie counts as none).

    psutil's create_time would not do: it is derived from the wall clock, and changes when that is set.
    """
    pid = os.getpid() if pid is None else pid
    if not BOOT.exists():
        return _psutil_identity(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else f"{BOOT.read_text().strip()}:{fields[19]}"  # state; start in clock ticks since boot


def machine() -> str:
    """This host and its space of process ids: containers may share a host's name, but not its processes."""
    try:
        space = os.readlink("/proc/self/ns/pid").removeprefix("pid:").strip("[]")
    except OSError:
        space = ""
    return f"{platform.node()}/{space}"


def of_session(leader: int) -> list[psutil.Process]:
    """The living processes of the session that a process began with setsid, also those that were left to init. Empty on Windows."""
    import psutil

    found = []
    for pid in psutil.pids():
        with suppress(OSError, AttributeError, psutil.Error):
            if os.getsid(pid) == leader != pid and (one := psutil.Process(pid)).status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def _psutil_identity(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return ""
