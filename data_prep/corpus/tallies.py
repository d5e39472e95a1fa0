"""Sorted hashes on disk, some with a number each: what the lists of links before this one knew.

A tally is a folder of Arrow shards with the columns `hash` (uint64, rising) and, where something is counted, `value` (int64). Shard i of
n holds the hashes of the i-th n-th of all possible ones, so shards are of one size and two tallies are merged range by range: memory
is a shard's, whatever the tally's size. Look-ups search the mapped file and touch the pages they need.

Hashes are xxh3 (64 bits) of UTF-8 text. Among 10^9 known URLs one of 10^7 new ones is taken for known with a chance of 1 in 2,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from data_prep import shards

SHARD_ROWS = 1 << 22  # 32 MiB of hashes
HASHES = pa.schema([("hash", pa.uint64())])
VALUES = HASHES.append(pa.field("value", pa.int64()))
SPACE = 1 << 64


def hashes(texts: Iterable[str], seed: int = 0) -> np.ndarray:
    """xxh3 of each text: uint64[texts]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(text.encode(), seed) for text in texts), np.uint64)


def write(hashed: np.ndarray, path: Path, values: np.ndarray | None = None) -> None:
    """One sorted shard, as a single batch. Hashes that come more than once are one row with the sum of their values."""
    unique, inverse = np.unique(hashed, return_inverse=True)
    if values is None:
        shards.write(pa.table([pa.array(unique)], schema=HASHES), path, chunk=max(1, len(unique)))
        return
    sums = np.zeros(len(unique), np.int64)
    np.add.at(sums, inverse.reshape(-1), values)
    shards.write(pa.table([pa.array(unique), pa.array(sums)], schema=VALUES), path, chunk=max(1, len(unique)))


class Tally:
    """The shards of one tally, or of several that are looked at as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        tables = [table for path in paths if (table := shards.read(path)).num_rows]
        self.hashes = [_plain(table["hash"]) for table in tables]
        self.values = [_plain(table["value"]) if "value" in table.column_names else None for table in tables]

    def __len__(self) -> int:
        return sum(map(len, self.hashes))

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Which of the wanted hashes are here: bool[wanted]."""
        found = np.zeros(len(wanted), bool)
        for known in self.hashes:
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found |= known[place] == wanted
        return found

    def sums(self, wanted: np.ndarray) -> np.ndarray:
        """The number that stands beside each wanted hash, 0 where there is none: int64[wanted]."""
        found = np.zeros(len(wanted), np.int64)
        for known, values in zip(self.hashes, self.values, strict=True):
            assert values is not None, "a tally of hashes alone counts nothing"
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found += np.where(known[place] == wanted, values[place], 0)
        return found

    def between(self, first: int, last: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Hashes from first to last, both included, and their values, from each shard."""
        hashed, counted = [], []
        for known, values in zip(self.hashes, self.values, strict=True):
            low, high = np.searchsorted(known, np.uint64(first), "left"), np.searchsorted(known, np.uint64(last), "right")
            hashed.append(known[low:high])
            counted.append(values[low:high] if values is not None else np.zeros(0, np.int64))
        return hashed, counted


def merge(paths: Sequence[Path], out: Path, *, counted: bool) -> int:
    """Several tallies to one in the folder out, values of the same hash added up; how many rows went in."""
    whole = Tally(paths)
    count = max(1, -(-len(whole) // SHARD_ROWS))
    for number in range(count):
        hashed, values = whole.between(number * SPACE // count, (number + 1) * SPACE // count - 1)
        write(
            np.concatenate([*hashed, np.zeros(0, np.uint64)]),
            out / shards.name(number),
            np.concatenate(values) if counted and values else None,
        )
    return len(whole)


def _plain(column: pa.ChunkedArray) -> np.ndarray:
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return np.asarray(chunk.to_numpy(zero_copy_only=False))
