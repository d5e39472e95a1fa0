"""One maker at a time: a lease file with a heartbeat, so that a killed holder never blocks the next for long.

No clock is compared across machines: a waiter only watches whether the holder's beat counter still moves.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from infra.log import event

BEAT_S = 2.0  # how often the holder moves its counter
DEAD_S = 30.0  # a counter that stands still this long (on the waiter's own clock) belongs to a dead holder
POLL_S = 0.2
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()), "id": uuid.uuid4().hex}


def _started(pid: int) -> str | float:
    """When a process started, as no clock that is set can change: Linux counts from boot, and names the boot. Raises psutil.Error."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # field 22 of proc(5); the name may hold spaces
        return f"{BOOT_ID.read_text().strip()} {ticks}"
    except FileNotFoundError:
        return psutil.Process(pid).create_time()


def _gone(holder: dict[str, Any]) -> bool:
    """True when the holder was a process of this machine that no longer runs (its pid may serve another by now)."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        started, said = _started(int(holder["pid"])), holder["started"]
    except (psutil.Error, OSError, KeyError, ValueError, IndexError):
        return True
    if isinstance(started, float) and isinstance(said, float):
        return abs(started - said) > 1.0
    return bool(started != said)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        holder: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}  # caught between creation and first write
    return holder


def _take(path: Path, holder: dict[str, Any]) -> bool:
    """Create the lease whole: link() fails when it exists and never shows a half-written file."""
    draft = path.with_name(f"{path.name}.{holder['id']}")
    draft.write_text(json.dumps(holder))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    except FileNotFoundError:  # the draft was swept away by a holder: try again
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _evict(path: Path, holder: dict[str, Any]) -> None:
    """Move a dead holder's lease away; of several waiters one succeeds, and a lease renewed meanwhile is put back."""
    grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}.dead")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    taken = _read(grave)
    if taken and taken.get("id") != holder.get("id"):
        _take(path, taken)
    grave.unlink(missing_ok=True)


def bury(path: Path) -> None:
    """Remove the lease of a holder that was killed, if there is one; one of a living holder stays."""
    holder = _read(path)
    if holder and _gone(holder):
        _evict(path, holder)
        _tidy(path)


def _tidy(path: Path) -> None:
    """What killed processes left between two steps: temporary names of this lease."""
    for left in path.parent.glob(f"{path.name}.*"):
        left.unlink(missing_ok=True)


def _wait(path: Path, me: dict[str, Any]) -> None:
    seen: dict[str, Any] | None = None
    since, told = time.monotonic(), False
    while not _take(path, me):
        holder = _read(path)
        if holder is None:
            continue
        if holder != seen:
            seen, since = holder, time.monotonic()
        if (holder and _gone(holder)) or time.monotonic() - since > DEAD_S:
            _evict(path, holder)
            continue
        if not told:
            event("note", message=f"waiting for process {holder.get('pid')} on {holder.get('host')}, which is making {path.stem}")
            told = True
        time.sleep(POLL_S)


def _beat(path: Path, me: dict[str, Any], stop: threading.Event) -> None:
    count = 0
    while not stop.wait(BEAT_S):
        count += 1
        if (_read(path) or {}).get("id") not in (None, me["id"]):  # this process stood still so long that another took over
            return
        draft = path.with_name(f"{path.name}.{me['id']}")
        with suppress(OSError):  # a full disk, a draft swept away: the next beat tries again
            draft.write_text(json.dumps({**me, "beat": count}))
            os.replace(draft, path)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lease at path; waits while another living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    me = _me()
    _wait(path, me)
    _tidy(path)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, me, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        if (_read(path) or me).get("id") == me["id"]:
            path.unlink(missing_ok=True)
