"""Kill a function before its n-th file-system operation, in a fork, for every n: what a crash-point test is made of.

Python's audit events name nearly every operation before it is carried out (open for writing, rename, link, remove, rmdir, mkdir,
truncate, rmtree), fsync is wrapped. Only operations below one directory count. Use `every_point` with a function that prepares a
directory, one that works in it, and one that says what it left; it reports how many points there were.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED = 77
PATIENCE_S = 120
PATHS = {"os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}
Snapshot = dict[str, Any]


@dataclass
class Ended:
    """How a fork ended: its exit code, the operations it did, and what it raised, if it did."""

    code: int
    operations: list[str] = field(default_factory=list)
    error: str = ""


class _Counter:
    def __init__(self, root: Path, kill_at: int | None, refusal: int = 0) -> None:
        self.refusal = refusal
        self.root, self.kill_at, self.seen = str(root), kill_at, list[str]()
        self._lock = threading.Lock()
        sys.addaudithook(self._heard)
        os.fsync = self._synced  # type: ignore[assignment]

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = args[0], args[2]
            if isinstance(path, str | bytes | os.PathLike) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._count("open", path)
        elif event in PATHS:
            relative = event in ("os.remove", "os.rmdir", "os.mkdir") and args[-1] not in (-1, None)  # below a directory that is open
            if relative or any(self._inside(path) for path in args[: PATHS[event]]):
                self._count(event, args[0], always=True)

    def _strike(self, name: str, path: Any) -> None:
        if not self.refusal:
            os._exit(KILLED)
        if self.refusal != errno.ENOSPC or name in ("open", "fsync", "os.mkdir"):  # a full disk lets one rename and remove
            raise OSError(self.refusal, os.strerror(self.refusal), None if name == "fsync" else os.fsdecode(path))

    def _synced(self, handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        self._count("fsync", os.readlink(f"/proc/self/fd/{number}"))
        # not carried out: what a kill leaves is in the page cache, whatever the disk has

    def _inside(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self.root)

    def _count(self, name: str, path: Any, always: bool = False) -> None:
        if not always and not self._inside(path):
            return
        with self._lock:
            if self.kill_at is not None and len(self.seen) >= self.kill_at:
                self._strike(name, path)
            self.seen.append(f"{name} {os.fsdecode(path).removeprefix(self.root)}")


def forked(work: Callable[[], Any], root: Path, kill_at: int | None = None, refusal: int = 0) -> Ended:
    """Call work in a fork; kill it before operation number kill_at (from 0) below root.

    refusal: an errno; it is not killed then, but that operation, and every later one that such a disk refuses, fails with it.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        ended = Ended(0)
        try:
            os.close(read)
            counter = _Counter(root, kill_at, refusal)
            work()
            ended.operations = list(counter.seen)
        except BaseException:
            ended = Ended(1, error=traceback.format_exc())
        with os.fdopen(write, "wb") as out:
            pickle.dump(ended, out)
        os._exit(ended.code)
    os.close(write)
    return _waited(pid, read)


def _waited(pid: int, read: int) -> Ended:
    watch = threading.Timer(PATIENCE_S, lambda: os.kill(pid, 9))
    watch.start()
    try:
        with os.fdopen(read, "rb") as back:
            told = back.read()
        _, status = os.waitpid(pid, 0)
    finally:
        watch.cancel()
    code = os.waitstatus_to_exitcode(status)
    if code == KILLED or not told:
        return Ended(code, error="" if code == KILLED else f"ended with {code} and without a word")
    ended: Ended = pickle.loads(told)
    return ended


@dataclass
class Report:
    """points: operations that an undisturbed run does. tried: those at which it was killed."""

    points: int
    tried: int
    seconds: float


def every_point(
    folder: Path,
    prepare: Callable[[Path], None],
    work: Callable[[Path], Any],
    look: Callable[[Path], Snapshot],
    chosen: Callable[[int], Iterable[int]] = range,
    again: Callable[[int, int], int | None] = lambda point, points: None,
) -> Report:
    """Kill work at the chosen points, run it again in the same directory, and compare with an undisturbed run.

    prepare: fills an empty directory. look: what must be equal. chosen: of so many points those to try. again: at which operation
    the rerun is killed as well, before a third run. Raises AssertionError naming the point and its operation.
    """
    began = time.monotonic()
    calm = folder / "calm"
    prepare(calm)
    undisturbed = forked(lambda: work(calm), calm)
    assert undisturbed.code == 0, undisturbed.error
    wanted, points = look(calm), undisturbed.operations
    tried = 0
    for point in chosen(len(points)):
        here = folder / "killed"
        shutil.rmtree(here, ignore_errors=True)
        prepare(here)
        killed = forked(lambda: work(here), here, point)  # called at once
        assert killed.code == KILLED, (point, len(points), killed.error)
        if (second := again(point, len(points))) is not None:
            forked(lambda: work(here), here, second)
        rerun = forked(lambda: work(here), here)
        where = f"killed before operation {point} of {len(points)}: {points[point]}"
        assert rerun.code == 0, f"{where}\n{rerun.error}"
        found = look(here)
        assert found == wanted, f"{where}: " + ", ".join(sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k)))
        tried += 1
        if tried % 100 == 0:
            print(f"{folder.name}: {tried} points in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    assert points and tried, "there is nothing to kill"
    return Report(len(points), tried, time.monotonic() - began)


def content(root: Path, without: tuple[str, ...] = ()) -> Snapshot:
    """SHA-256 of every file of a store, manifests without when they were made; a file in a hidden place stands under its name too."""
    found: Snapshot = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if any(part in name for part in without):
            continue
        if path.name == "manifest.json":
            record = json.loads(path.read_text())
            found[name] = {key: value for key, value in record.items() if key not in ("created", "xxh3")}
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
