"""Shards as numpy views of memory-mapped files: nothing is read before it is asked for, nothing is copied twice.

The rows of all shards are numbered through: row r of the whole is a row of one record batch ("chunk") of one shard.
Arrow's own `take` and `as_py` are never used here: measured 240 times slower than these views.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep import shards
from infra.errors import ArtifactError

I64 = NDArray[np.int64]
BOOL = NDArray[np.bool_]
SPANS_PER_READ = 8  # spans an indexed read must cover to be cheaper than copying them one by one


class Rows:
    """One column of fixed width, over all shards: numbers [rows], or lists of one length [rows, length]."""

    def __init__(self, chunks: Sequence[NDArray[Any]]) -> None:
        self.chunks = [c for c in chunks if len(c)]
        self.starts = edges([len(c) for c in self.chunks])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def gather(self, rows: I64, into: NDArray[Any]) -> None:
        """into[i] = the value at rows[i]."""
        for chunk, chosen, local in grouped(self.starts, rows):
            into[chosen] = self.chunks[chunk][local]

    def at(self, rows: I64) -> I64:
        found = np.empty(len(rows), np.int64)
        self.gather(rows, found)
        return found


class Lists:
    """A column of lists of ids, over all shards. Places count ids through all chunks: list r is [place(r), place(r+1))."""

    def __init__(self, lists: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """lists: offsets (from 0) and values of each chunk; chunks without rows are left out."""
        kept = [(offsets, values) for offsets, values in lists if len(offsets) > 1]
        self.offsets = [offsets for offsets, _ in kept]
        self.values = [values for _, values in kept]
        self.starts = edges([len(offsets) - 1 for offsets in self.offsets])
        self.bases = edges([int(offsets[-1]) for offsets in self.offsets])
        self._bases: list[int] = self.bases.tolist()

    def places(self, rows: I64) -> I64:
        """Where the lists begin. One past the last row is allowed."""
        found = np.full(len(rows), self.bases[-1], np.int64)
        for chunk, chosen, local in grouped(self.starts, rows):
            if chunk < len(self.offsets):
                found[chosen] = self.offsets[chunk][local] + self.bases[chunk]
        return found

    def scatter(self, starts: I64, lengths: I64, into: NDArray[Any], at: I64) -> None:
        """into[at[i] : at[i] + lengths[i]] = the ids from place starts[i] on, for every i; into is flat.

        Few chunks: one indexed read for each. Many: one copy for each span, as indexed reads would be as many and dearer.
        """
        after = np.searchsorted(self.bases, starts, side="right")
        bulk = np.searchsorted(self.bases, starts + lengths, side="left") == after
        if len(self.values) * SPANS_PER_READ > len(starts):
            bulk[:] = False
        some = np.flatnonzero(bulk)
        some = some[np.argsort(after[some], kind="stable")]
        source, target = spans(starts[some], lengths[some]), spans(at[some], lengths[some])
        chunks, first = np.unique(after[some] - 1, return_index=True)
        parts = edges(lengths[some])[[*first.tolist(), len(some)]].tolist()
        for chunk, a, b in zip(chunks.tolist(), parts, parts[1:], strict=False):
            into[target[a:b]] = self.values[chunk][source[a:b] - self._bases[chunk]]
        rest = np.flatnonzero(~bulk)
        for start, length, place in zip(starts[rest].tolist(), lengths[rest].tolist(), at[rest].tolist(), strict=True):
            self.copy(start, start + length, into[place:])

    def copy(self, start: int, stop: int, into: NDArray[Any]) -> None:
        """The ids at places [start, stop), across chunks if need be."""
        chunk = bisect_right(self._bases, start) - 1
        while start < stop:
            base, values = self._bases[chunk], self.values[chunk]
            end = min(stop, self._bases[chunk + 1])
            into[: end - start] = values[start - base : end - base]
            into, start, chunk = into[end - start :], end, chunk + 1


def spans(starts: I64, lengths: I64) -> I64:
    """All integers of all spans [starts[i], starts[i] + lengths[i]), one span after another."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def edges(lengths: Sequence[int] | I64) -> I64:
    """Where parts of these lengths begin when laid end to end, and where the last ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))]).astype(np.int64)


def grouped(starts: I64, rows: I64) -> Iterator[tuple[int, Any, I64]]:
    """(chunk, which of rows lie in it, their rows within it). One group costs no sorting."""
    if not len(rows):
        return
    chunk = np.searchsorted(starts, rows, side="right") - 1
    if len(starts) == 2 and not chunk.any():
        yield 0, slice(None), rows
        return
    order = np.argsort(chunk, kind="stable")
    ordered = chunk[order]
    borders = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(order)]
    for first, last in pairwise(borders):
        part, number = order[first:last], int(ordered[first])
        yield number, part, rows[part] - starts[number]


class Shards:
    """The tables of an artifact's shards, in order, and where each shard's rows begin.

    tokenizer: whose ids they must hold. Raises ArtifactError naming a shard that is not whole or holds another tokenizer's.
    """

    def __init__(self, paths: Sequence[Path], tokenizer: str = "") -> None:
        self.paths = list(paths)
        self.names = [path.name for path in paths]
        self._tables = [shards.read(path) for path in paths]
        for path, table in zip(self.paths, self._tables, strict=True):
            theirs = (table.schema.metadata or {}).get(shards.TOKENIZER, b"").decode()
            if tokenizer and theirs != tokenizer:
                raise ArtifactError(
                    f"{path}: holds ids of tokenizer {theirs[:12] or 'unknown'}, not of {tokenizer[:12]}; run again to remake it"
                )
        self.starts = edges([table.num_rows for table in self._tables])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def numbers(self, column: str) -> Rows:
        return Rows([chunk.to_numpy(zero_copy_only=True) for chunk in self._chunks(column)])

    def blocks(self, column: str) -> Rows:
        return Rows([c.flatten().to_numpy(zero_copy_only=True).reshape(len(c), -1) for c in self._chunks(column) if len(c)])

    def lists(self, column: str) -> Lists:
        chunks = [c for c in self._chunks(column) if len(c)]
        return Lists([(c.offsets.to_numpy(zero_copy_only=True), c.flatten().to_numpy(zero_copy_only=True)) for c in chunks])

    def shard_of(self, rows: I64) -> I64:
        return np.searchsorted(self.starts, rows, side="right") - 1

    def table(self, number: int) -> pa.Table:
        return self._tables[number]

    def _chunks(self, column: str) -> Iterator[pa.Array]:
        for path, table in zip(self.paths, self._tables, strict=True):
            if column not in table.column_names:
                raise ArtifactError(f"{path}: has no column {column!r}, it was not made by the stage it is read for")
            yield from table[column].chunks
