"""A shard's memory: pages in its WARC file, and a line for each URL that is settled, both on the disk before it counts.

Order makes it safe: a page's records are appended and flushed to the disk, then its line. After a kill the WARC file is
cut to the end that the last complete line names, so it holds complete records only, and nothing that is remembered is fetched again.
A line ends with a hash of itself and holds one of the WARC file up to its end: from the first that differs on, pages are fetched again.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import xxhash

from infra import finished
from infra.errors import ArtifactError

LOCK_TRIES, LOCK_WAIT_S = 60, 1.0
WAITING = 256  # settled pages that may wait for the disk; fetching pauses beyond


@dataclass
class Settled:
    """What became of one URL. row: its PAGES row; failures, dead: what is then known of its origin."""

    row: dict[str, Any]
    links: list[str] = field(default_factory=list)
    followed: bool = False
    failures: int = 0
    dead: str = ""
    digest: str = ""  # of the body
    read_links: bool = False  # whether links are all that the page has
    end: int = 0  # of the WARC file after this page
    warc: str = ""  # hash of the WARC file up to there


class Journal:
    """Open it, read `settled`, add to it from one event loop, close it."""

    def __init__(self, journal: Path, warc: Path, preamble: bytes) -> None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        warc.parent.mkdir(parents=True, exist_ok=True)
        self.lock = _locked(journal.with_suffix(".lock"))
        self.warc_path, self.draft = warc, warc.with_name(f"{warc.name}.part")
        if warc.exists():  # killed between the rename and the pages table
            os.replace(warc, self.draft)
        entries, keep, end, self.hash = _recall(journal, self.draft)
        self.settled = {entry.row["url"]: entry for entry in entries}
        self.lines = _cut(journal, keep)
        self.warc = _cut(self.draft, end)
        if not end:
            self.warc.write(preamble)
            self.hash.update(preamble)
            self._flush(self.warc)
        self.end = self.warc.tell()
        self.queue: asyncio.Queue[tuple[Settled, bytes, asyncio.Future[None]] | None] = asyncio.Queue(WAITING)

    async def add(self, entry: Settled, records: bytes, *, wait: bool = True) -> None:
        """With wait it returns when the entry would survive a kill."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.settled[entry.row["url"]] = entry
        await self.queue.put((entry, records, done))
        if wait:
            await done

    async def write(self) -> None:
        """Serve add() until close(); what waits at the same time shares one flush."""
        goes_on = True
        while goes_on and (first := await self.queue.get()) is not None:
            batch = [first]
            while goes_on and not self.queue.empty():
                if (more := self.queue.get_nowait()) is not None:
                    batch.append(more)
                else:  # the end, met behind entries that nobody waits for
                    goes_on = False
            await asyncio.to_thread(self._commit, [(entry, records) for entry, records, _ in batch])
            for _, _, done in batch:
                if not done.done():
                    done.set_result(None)

    def close(self) -> None:
        """Without this the files stay open; with it nothing is renamed yet."""
        self.lines.close()
        self.warc.close()
        self.lock.close()

    def finish(self) -> None:
        """The WARC file gets its name."""
        os.replace(self.draft, self.warc_path)
        self.close()

    def _commit(self, batch: list[tuple[Settled, bytes]]) -> None:
        lines = []
        for entry, records in batch:
            if records:
                entry.row["warc_offset"] = self.end
                self.warc.write(records)
                self.hash.update(records)
                self.end += len(records)
            entry.end, entry.warc = self.end, self.hash.hexdigest()
            text = json.dumps(vars(entry), ensure_ascii=True, separators=(",", ":"))
            lines.append(f"{text}\t{_hash_of(text.encode())}\n")
        with finished.naming(self.draft):
            if any(records for _, records in batch):
                self._flush(self.warc)
        with finished.naming(Path(self.lines.name)):
            self.lines.write("".join(lines).encode())
            self._flush(self.lines)

    @staticmethod
    def _flush(file: IO[bytes]) -> None:
        file.flush()
        os.fsync(file.fileno())


def _locked(path: Path) -> IO[bytes]:
    """One process a shard: a worker that outlives its driver for a while must not write into the next one's files."""
    file = path.open("ab")
    for left in reversed(range(LOCK_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if not left:
                raise ArtifactError(
                    f"{path.stem}: another process is still crawling this shard; end it, or wait for it, and run again"
                ) from error
            time.sleep(LOCK_WAIT_S)
    return file


def _recall(journal: Path, draft: Path) -> tuple[list[Settled], int, int, xxhash.xxh3_128]:
    """The entries that hold, the journal's length with them alone, and the WARC file's with its hash."""
    size = draft.stat().st_size if draft.exists() else 0
    entries: list[Settled] = []
    keep = end = 0
    good = xxhash.xxh3_128()
    with draft.open("rb") if size else io.BytesIO() as warc:
        for entry, length in _whole_lines(journal):
            if not end <= entry.end <= size:  # the disk lost what it had promised: fetch again from here on
                break
            state = good.copy()
            state.update(warc.read(entry.end - end))
            if state.hexdigest() != entry.warc:
                break
            entries.append(entry)
            keep, end, good = keep + length, entry.end, state
    return entries, keep, end, good


def _whole_lines(journal: Path) -> Iterator[tuple[Settled, int]]:
    if not journal.exists():
        return
    with journal.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):  # the kill came while this line was written
                return
            text, _, said = line.removesuffix(b"\n").rpartition(b"\t")
            if said.decode("ascii", "replace") != _hash_of(text):
                return
            try:
                yield Settled(**json.loads(text)), len(line)
            except (ValueError, TypeError):  # the disk lost a part of it
                return


def _hash_of(text: bytes) -> str:
    return str(xxhash.xxh3_64_hexdigest(text))


def _cut(path: Path, size: int) -> IO[bytes]:
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file
