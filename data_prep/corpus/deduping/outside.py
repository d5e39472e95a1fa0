"""Equal keys brought together when they do not fit in memory: rows are dealt to files by ranges of the key, each sorted alone.

Keys are hashes, so the ranges fill evenly. A row is a few uint64, the first is the key; all rows of a key are in one file, whatever
the number of files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus.words import Flags, Hashes, Ints
from infra import finished

MOST_FILES = 1 << 9  # open at once; a process may have 1,024 by default
SIEVE_BITS = (10, 28)


def files_for(rows: int, limit: int) -> int:
    """The least power of two of files that leaves a file `limit` rows or fewer, if MOST_FILES allow."""
    number = 1
    while rows > number * limit and number < MOST_FILES:
        number *= 2
    return number


def deal(folder: Path, parts: Iterable[Hashes], files: int) -> list[Path]:
    """Write rows (arrays of equal width) to `files` files by the first bits of their keys. What the folder held before is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    paths = [folder / f"{number:05d}" for number in range(files)]
    handles = [path.open("wb") for path in paths]
    shift = np.uint64(64 - files.bit_length() + 1)
    try:
        for part in parts:
            number = (part[:, 0] >> shift).astype(np.uint16) if files > 1 else np.zeros(len(part), np.uint16)
            order = np.argsort(number, kind="stable")
            cuts = np.searchsorted(number[order], np.arange(files + 1))
            ordered = np.ascontiguousarray(part[order])
            for file, start, stop in zip(handles, cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                if stop > start:
                    file.write(ordered[start:stop].data)
    finally:
        for file in handles:
            file.close()
    return paths


def deal_once(folder: Path, parts: Callable[[], Iterable[Hashes]], files: int) -> None:
    """As deal, unless an earlier attempt has finished it."""
    if not finished.is_recorded(folder):
        deal(folder, parts(), files)
        finished.record(folder)


def load(path: Path, width: int) -> Hashes:
    """The rows of one file."""
    return np.fromfile(path, np.uint64).reshape(-1, width)


def rows_of(*columns: NDArray[np.generic]) -> Hashes:
    """Columns of numbers as rows."""
    return np.stack([column.astype(np.uint64, copy=False) for column in columns], axis=1)


def crowded(keys: Hashes) -> Ints:
    """The rows whose key comes more than once, equal keys side by side."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    more = np.zeros(len(keys), np.bool_)
    more[1:] |= same
    more[:-1] |= same
    found: Ints = order[more]
    return found


def starts_of(*columns: NDArray[np.generic]) -> Ints:
    """Where the runs of equal rows start, and where the last one ends, in columns that are sorted."""
    size = len(columns[0])
    if not size:
        return np.zeros(1, np.int64)
    new = np.zeros(size, np.bool_)
    new[0] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.append(np.flatnonzero(new), size)


class Sieve:
    """Says of a key that it is not among some others, or that it may be. At most 256 MiB."""

    def __init__(self, keys: Iterable[Hashes], count: int) -> None:
        bits = min(max((16 * count).bit_length(), SIEVE_BITS[0]), SIEVE_BITS[1])
        self.shift = np.uint64(64 - bits)
        self.seen = np.zeros(1 << bits, np.bool_)
        for part in keys:
            self.seen[part >> self.shift] = True

    def may_hold(self, keys: Hashes) -> Flags:
        held: Flags = self.seen[keys >> self.shift]
        return held
