"""The ids of many texts from the ids of their words: each word is encoded once and looked up afterwards, all in arrays.

Exact wherever a tokenizer encodes the words of a text independently of each other, as all but sentencepiece do. Text repeats
its words, so most of the work is looking up; what is kept is bounded, and kept or not, the ids are the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.cuts import Cutter

MOST_WORDS = 1 << 18  # kept: some 50 MB
MOST_IDS = 1 << 22  # of the words kept: 16 MB
LONGEST_KEPT = 64  # letters of a word
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


class WordIds:
    """cut: texts to words; encode: words, none of them twice, to the ids of each."""

    def __init__(self, cut: Cutter, encode: Callable[[list[str]], Encoded]) -> None:
        self._cut, self._encode = cut, encode
        self._forget()

    def _forget(self) -> None:
        self._slots: dict[str, int] = {}  # word -> its number among the words seen
        self._ids = np.empty(0, np.uint32)
        self._ends = np.zeros(1, np.int64)  # where each word's ids end; the first ends nothing

    def __call__(self, texts: Sequence[str]) -> Encoded:
        parts = [self._some(part) for part in batches(texts)]
        return Encoded(
            np.concatenate([np.empty(0, np.uint32), *(part.ids for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)]),
        )

    def _some(self, texts: Sequence[str]) -> Encoded:
        cut = self._cut(texts)
        if not len(cut.words):
            return Encoded(np.empty(0, np.uint32), np.zeros(len(texts), np.int64))
        coded = cut.words.dictionary_encode()
        slots = self._slots_of(coded.dictionary.to_pylist())[coded.indices.to_numpy()]
        firsts, counts = self._ends[slots], self._ends[slots + 1] - self._ends[slots]
        ends = np.cumsum(counts)
        ids = self._ids[np.repeat(firsts - (ends - counts), counts) + np.arange(int(ends[-1]))]
        lengths = np.diff(np.concatenate([[0], ends])[cut.up_to], prepend=0)
        if len(self._slots) > MOST_WORDS or len(self._ids) > MOST_IDS:
            self._forget()
        return Encoded(ids, lengths)

    def _slots_of(self, words: list[str]) -> NDArray[np.int64]:
        find = self._slots.get
        slots = np.array([find(word, -1) for word in words], np.int64)
        new = np.flatnonzero(slots < 0)
        if len(new):
            fresh = [words[number] for number in new.tolist()]
            first = len(self._ends) - 1
            encoded = self._encode(fresh)
            self._ids = np.concatenate([self._ids, encoded.ids])
            self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(encoded.lengths)])
            slots[new] = np.arange(first, first + len(fresh))
            self._slots.update((word, first + at) for at, word in enumerate(fresh) if len(word) <= LONGEST_KEPT)
        return slots


def batches(texts: Sequence[str], together: int = TOGETHER) -> Iterator[Sequence[str]]:
    """Runs of texts of so many letters, or of one longer text."""
    first = size = 0
    for at, text in enumerate(texts):
        if size and size + len(text) > together:
            yield texts[first:at]
            first, size = at, 0
        size += len(text)
    if first < len(texts):
        yield texts[first:]
