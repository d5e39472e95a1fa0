"""When each host may be asked again, and whether it is being asked now: one file that all workers of a crawl share.

A slot holds the time of its hosts' next turn, and a byte behind the slots is locked while one of them is asked: by the system,
so that the lock ends with the process, however that ends. Two hosts that fall on one slot only wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

SLOTS = 1 << 20  # 8 MiB, and sparse: only slots in use take room on the disk
TIME = struct.Struct("<d")
BUSY = SLOTS * TIME.size  # bytes from here on are locked and never written


class Clock:
    """Wall time, because it must mean the same in every process.

    A turn further away than the longest wait was written before the clock was set back, and does not count: the host may be asked at
    once, as after a jump forwards.
    """

    def __init__(self, path: Path, longest_s: float, now: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.longest_s, self.now = longest_s, now

    def reserve(self, host: str, delay_s: float) -> float:
        """Take the host's next turn; the seconds to wait for it. The turn after comes delay_s later."""
        place = slot(host) * TIME.size
        if not delay_s:
            now = self.now()
            return self._turn(place, now) - now
        fcntl.lockf(self.file, fcntl.LOCK_EX, TIME.size, place)
        try:
            now = self.now()
            turn = self._turn(place, now)
            os.pwrite(self.file, TIME.pack(turn + delay_s), place)
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, TIME.size, place)
        return turn - now

    def postpone(self, host: str, delay_s: float) -> None:
        """No turn for delay_s from now."""
        place = slot(host) * TIME.size
        fcntl.lockf(self.file, fcntl.LOCK_EX, TIME.size, place)
        try:
            now = self.now()
            os.pwrite(self.file, TIME.pack(max(self._turn(place, now), now + delay_s)), place)
        finally:
            fcntl.lockf(self.file, fcntl.LOCK_UN, TIME.size, place)

    def hold(self, number: int) -> bool:
        """Keep the hosts of a slot from all other processes; False when one of these has it. Within a process the caller sees to it."""
        return locked(self.file, BUSY + number)

    def let_go(self, number: int) -> None:
        """End hold()."""
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, BUSY + number)

    def close(self) -> None:
        os.close(self.file)

    def _turn(self, place: int, now: float) -> float:
        """The next turn: now, or the later time that is written there."""
        held = self._read(place)
        return held if now < held <= now + self.longest_s else now

    def _read(self, place: int) -> float:
        held = os.pread(self.file, TIME.size, place)
        return float(TIME.unpack(held)[0]) if len(held) == TIME.size else 0.0


def slot(host: str) -> int:
    """The host's place in the file."""
    return xxhash.xxh3_64_intdigest(host.encode()) % SLOTS


def locked(file: int, place: int) -> bool:
    """Try to lock one byte of a file for this process."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:  # EACCES or EAGAIN, as the system likes
        return False
    return True
