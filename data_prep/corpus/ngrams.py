"""Which word n-grams come twice in a document, for all documents of a batch and all n, exactly.

An n-gram can come twice only if its first n - 1 words do. So one sort of single words leaves the few positions
worth a second look, and each longer n looks at fewer still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus.words import Hashes, Ints, Words


@dataclass(frozen=True)
class Repeats:
    """All positions at which an n-gram starts that its document holds more than once."""

    n: int
    positions: Ints
    counts: Ints  # how often the n-gram at this position comes
    groups: Ints  # equal for equal n-grams of a document, and for no others


def repeats(words: Words, longest: int) -> Iterator[Repeats]:
    """Repeats for n = 1 ... longest."""
    alive = np.arange(len(words.ids))
    ends = words.starts[1:][words.document]
    keys = _pair(words.document, words.ids)
    for n in range(1, longest + 1):
        group, counts = _groups(keys)
        twice = counts[group] > 1
        alive, group = alive[twice], group[twice]
        yield Repeats(n, alive, counts[group], group)
        fits = alive + n < ends[alive]
        alive, group = alive[fits], group[fits]
        keys = _pair(group, words.ids[alive + n])


def top_characters(words: Words, found: Repeats) -> NDArray[np.float64]:
    """Characters of the n-gram that comes most often (of equals, the first one), with a space between its words, times its occurrences.

    An n-gram that comes once is the most frequent one too, where none comes twice; 0 for a document of fewer than n words.
    """
    best = np.zeros(words.documents, np.int64)
    document = words.document[found.positions]
    np.maximum.at(best, document, found.counts)
    most = np.flatnonzero(found.counts == best[document])
    repeated, first = np.unique(document[most], return_index=True)
    place = words.starts[:-1].copy()
    place[repeated] = found.positions[most[first]]
    long = words.counts >= found.n
    size = np.zeros(words.documents, np.int64)
    size[long] = _characters(words, place[long], found.n) + _gaps(words, place[long], found.n)
    total: NDArray[np.float64] = (size * np.maximum(best, 1)).astype(np.float64)
    return total


def again_characters(words: Words, found: Repeats) -> NDArray[np.float64]:
    """Characters of the words in n-grams that had come before. Read from left to right: after such an n-gram reading goes on behind
    it, so that no character counts twice, and only n-grams that were read count as having come before."""
    taken, seen, free = [], set(), 0
    for position, group in zip(found.positions.tolist(), found.groups.tolist(), strict=True):
        if position < free:
            continue
        if group in seen:
            taken.append(position)
            free = position + found.n
        else:
            seen.add(group)
    starts = np.array(taken, np.int64)
    size = _characters(words, starts, found.n)
    return np.bincount(words.document[starts], weights=size, minlength=words.documents).astype(np.float64)


def _characters(words: Words, places: Ints, n: int) -> Ints:
    size: Ints = words.before[places + n] - words.before[places]
    return size


def _gaps(words: Words, places: Ints, n: int) -> Ints:
    """Spaces inside the n-grams: none before or behind a character that is a word by itself."""
    total = np.full(len(places), n - 1, np.int64)
    if words.crowded.any():
        alone = words.crowded[words.ids]
        for step in range(n - 1):
            total -= alone[places + step] | alone[places + step + 1]
    return total


def _pair(high: Ints, low: Ints) -> Hashes:
    """Both fit 32 bits: a batch holds no more words than that."""
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)


def _groups(keys: Hashes) -> tuple[Ints, Ints]:
    """For each key its group; for each group its size."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.concatenate((starts, [len(keys)])))
    group = np.empty(len(keys), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), counts)
    return group, counts
