"""Which word n-grams come twice in a document, for all documents of a batch and all n, exactly.

An n-gram can come twice only if its first n - 1 words do. So one sort of single words leaves the few positions
worth a second look, and each longer n looks at fewer still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus.words import Flags, Hashes, Ints, Words


@dataclass(frozen=True)
class Repeats:
    """All positions at which an n-gram starts that its document holds more than once."""

    n: int
    positions: Ints
    counts: Ints  # how often the n-gram at this position comes
    again: Flags  # not its first time


def repeats(words: Words, longest: int) -> Iterator[Repeats]:
    """Repeats for n = 1 ... longest."""
    alive = np.arange(len(words.ids))
    ends = words.starts[1:][words.document]
    keys = _pair(words.document, words.ids)
    for n in range(1, longest + 1):
        group, counts, first = _groups(keys, alive)
        twice = counts[group] > 1
        alive, group = alive[twice], group[twice]
        yield Repeats(n, alive, counts[group], first[group] != alive)
        fits = alive + n < ends[alive]
        alive, group = alive[fits], group[fits]
        keys = _pair(group, words.ids[alive + n])


def top_share(words: Words, found: Repeats) -> NDArray[np.float64]:
    """Characters of the n-gram that comes most often (of equals, the longest), all its occurrences, over all characters."""
    best_count = np.zeros(words.documents, np.int64)
    document = words.document[found.positions]
    np.maximum.at(best_count, document, found.counts)
    size = (words.before[found.positions + found.n] - words.before[found.positions]) * found.counts
    best = np.zeros(words.documents, np.int64)
    most = found.counts == best_count[document]
    np.maximum.at(best, document[most], size[most])
    return best / np.maximum(words.characters, 1)


def again_share(words: Words, found: Repeats) -> NDArray[np.float64]:
    """Characters inside n-grams that had come before, each counted once, over all characters."""
    if not found.again.any():
        return np.zeros(words.documents)
    starts = found.positions[found.again]
    ends = np.minimum(starts + found.n, np.append(starts[1:], len(words.ids)))  # up to the next one: nothing is counted twice
    size = words.before[ends] - words.before[starts]
    total = np.bincount(words.document[starts], weights=size, minlength=words.documents)
    share: NDArray[np.float64] = total / np.maximum(words.characters, 1)
    return share


def _pair(high: Ints, low: Ints) -> Hashes:
    """Both fit 32 bits: a batch holds no more words than that."""
    return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)


def _groups(keys: Hashes, positions: Ints) -> tuple[Ints, Ints, Ints]:
    """For each key its group; for each group its size and its first position."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.concatenate((starts, [len(keys)])))
    group = np.empty(len(keys), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), counts)
    return group, counts, np.minimum.reduceat(positions[order], starts)
