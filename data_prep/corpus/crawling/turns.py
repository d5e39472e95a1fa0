"""Whose turn it is: one request at a time for each host, so many in a worker, so many in all workers together."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from data_prep.corpus.crawling.clock import Clock, locked, slot

LOOK_AGAIN_S = 0.02  # another worker asks this host, or all tickets are out


class Tickets:
    """So many requests under way in all workers: each holds the lock of one byte of a file that they share."""

    def __init__(self, path: Path, number: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.number, self.mine = number, set[int]()

    async def take(self) -> int:
        """Wait for a free ticket."""
        while True:
            start = os.getpid() % self.number  # workers that begin at one end would look through each other's first
            for place in (*range(start, self.number), *range(start)):
                if place not in self.mine and locked(self.file, place):
                    self.mine.add(place)
                    return place
            await asyncio.sleep(LOOK_AGAIN_S)

    def give_back(self, place: int) -> None:
        """Let another have it."""
        self.mine.discard(place)
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        os.close(self.file)


class Turns:
    """The turns of one worker."""

    def __init__(self, clock: Clock, concurrency: int, tickets: Tickets | None = None) -> None:
        self.clock, self.tickets = clock, tickets
        self.room = asyncio.Semaphore(concurrency)
        self.locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def turn(self, host: str, delay_s: float) -> AsyncIterator[None]:
        """Inside it nobody else, in any worker, asks the host, nor for delay_s after it."""
        place = slot(host)
        async with self.locks[place]:
            while not self.clock.hold(place):
                await asyncio.sleep(LOOK_AGAIN_S)
            try:
                if wait := self.clock.reserve(host, delay_s):
                    await asyncio.sleep(wait)
                async with self.room:
                    ticket = await self.tickets.take() if self.tickets else None
                    try:
                        yield
                    finally:
                        if self.tickets and ticket is not None:
                            self.tickets.give_back(ticket)
            finally:
                if delay_s:
                    self.clock.postpone(host, delay_s)  # counted from the answer's end, so the server never sees less
                self.clock.let_go(place)
