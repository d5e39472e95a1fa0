"""The ids of many texts from the ids of their words: each word is encoded once and looked up afterwards, all in arrays.

Exact wherever a tokenizer encodes the words of a text independently of each other, as all but sentencepiece do. Text repeats
its words, so most of the work is looking up; what is kept is bounded, and kept or not, the ids are the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.tokenizer.cuts import Cutter

MOST_WORDS = 1 << 18  # kept: Arrow's table of them takes 4 ms to make again for each batch
MOST_BYTES = 1 << 23  # of their text
MOST_IDS = 1 << 22  # of their ids: 16 MB
TOGETHER = 1 << 21  # letters of a batch: enough that its words repeat, few enough that its arrays take some 50 MB


class Encoded(NamedTuple):
    """ids of all texts, one after another; lengths[t]: how many of them are text t's."""

    ids: NDArray[np.uint32]
    lengths: NDArray[np.int64]

    def lists(self) -> list[list[int]]:
        """A list of ids for each text."""
        ends = np.cumsum(self.lengths)
        return [self.ids[end - length : end].tolist() for end, length in zip(ends.tolist(), self.lengths.tolist(), strict=True)]


def flattened(rows: Sequence[list[int]]) -> Encoded:
    """Lists of ids as one array."""
    gathered = array("I")  # takes a list of int three times as fast as numpy's fromiter
    for row in rows:
        gathered.fromlist(row)
    ids = np.frombuffer(gathered, np.dtype("I")).astype(np.uint32, copy=False)
    return Encoded(ids, np.fromiter(map(len, rows), np.int64, len(rows)))


def concatenated(parts: Sequence[Encoded]) -> Encoded:
    """The texts of all parts, one after another."""
    return Encoded(
        np.concatenate([np.empty(0, np.uint32), *(part.ids for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)]),
    )


def between(ids: NDArray[np.uint32], mark: int) -> Encoded:
    """The ids of words, one after another, where each word but the last is followed by this mark."""
    marks = ids == mark
    edges = np.concatenate([[-1], np.flatnonzero(marks), [len(ids)]])
    return Encoded(ids[~marks], edges[1:] - edges[:-1] - 1)


class WordIds:
    """cut: texts to words; encode: words, none of them twice, to the ids of each."""

    def __init__(self, cut: Cutter, encode: Callable[[pa.StringArray], Encoded]) -> None:
        self._cut, self._encode = cut, encode
        self._forget()

    def _forget(self) -> None:
        self._known = pa.array([], pa.string())  # words seen, none twice
        self._ids = np.empty(0, np.uint32)  # of the words seen, one after another
        self._ends = np.zeros(1, np.int64)  # where each word's ids end; the first ends nothing

    def __call__(self, texts: Sequence[str]) -> Encoded:
        return concatenated([self._some(part) for part in batches(texts)])

    def _some(self, texts: Sequence[str]) -> Encoded:
        cut = self._cut(texts)
        if not len(cut.words):
            return Encoded(np.empty(0, np.uint32), np.zeros(len(texts), np.int64))
        # words seen come first and keep their numbers; new ones are numbered as they come
        coded = pa.chunked_array([self._known, cut.words]).dictionary_encode().chunks[-1]
        self._learn(coded.dictionary)
        ids, ends = self._taken(coded.indices)
        if len(self._known) > MOST_WORDS or self._known.nbytes > MOST_BYTES or len(self._ids) > MOST_IDS:
            self._forget()
        reached = np.concatenate([np.zeros(1, np.int64), ends[cut.up_to]])
        return Encoded(ids, reached[1:] - reached[:-1])

    def _learn(self, words: pa.StringArray) -> None:
        new = words.slice(len(self._known))
        if len(new):
            encoded = self._encode(new)
            self._ids = np.concatenate([self._ids, encoded.ids])
            self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(encoded.lengths)])
            self._known = words

    def _taken(self, numbers: pa.Int32Array) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """The ids of words seen, and where those of each end, after a 0. Each word's ids are one string of bytes: strings are taken
        as a whole, which is several times as fast as taking every id."""
        offsets = pa.py_buffer((4 * self._ends).astype(np.int32))
        taken = pa.BinaryArray.from_buffers(pa.binary(), len(self._ends) - 1, [None, offsets, pa.py_buffer(self._ids)]).take(numbers)
        _, offsets, data = taken.buffers()
        ends = np.frombuffer(offsets, np.int32, len(taken) + 1) >> 2
        return np.frombuffer(data, np.uint32, int(ends[-1])), ends


def batches(texts: Sequence[str], together: int = TOGETHER) -> Iterator[Sequence[str]]:
    """Runs of texts of so many letters, or of one longer text."""
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    first = 0
    while first < len(texts):
        reached = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, reached + together, side="right")))
        yield texts[first:last]
        first = last
