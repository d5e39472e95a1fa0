"""Which other document a pair gets its random B from (NSP): one of about as many sentences of about the same length.

A random B that is drawn without regard to the B it replaces gives the label away: its length, its number of sentences and its position
in a document follow another law given the shape of A. So the feed starts it at the position of the B it replaces, in a document that is
like the pair's own. Documents are sorted by sentences and tokens per sentence along a Z-order curve (Morton 1966) and cut into groups of
neighbors; with more text a group gets narrower. Memory: 16 bytes per document.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.feed.random import U64, below
from training.feed.views import I64

Floats = NDArray[np.float64]
GROUPS = 16  # so many at least, where groups of SMALLEST documents give as many
SMALLEST, LARGEST = 128, 256  # documents of a group: alike on the one hand, on the other new random Bs in every epoch
FEWEST, MOST, BUDGET = 24, 256, 1 << 17  # draws from a group, of which the best is taken: BUDGET over the documents, within bounds
BITS = 16  # of an axis: so many bits of quantiles

Cost = Callable[[I64, I64, U64], Floats]  # (positions in the call, candidate documents, words) -> how unlike; 0 is good enough


class Partners:
    """documents: ascending row numbers; axes [documents] each: what those of a group have alike, the most important first."""

    def __init__(self, documents: I64, axes: tuple[Floats, ...]) -> None:
        self._documents = documents
        self._order = np.argsort(_curve(axes), kind="stable").astype(np.uint32)
        self._rank = np.empty(len(documents), np.uint32)
        self._rank[self._order] = np.arange(len(documents), dtype=np.uint32)
        self._group = min(max(SMALLEST, len(documents) // GROUPS), LARGEST)
        self._draws = min(max(FEWEST, BUDGET // len(documents)), MOST)
        self.words = self._draws + 1  # of 64 random bits that a draw takes

    def draw(self, own: I64, words: U64, cost: Cost) -> tuple[I64, U64]:
        """For each document `own` another one of its group: the first that costs nothing, else the cheapest drawn; and the word drawn.

        words: [len(own), self.words]. Where every draw gave the document itself, one of all others is drawn.
        """
        size, mine = len(self._documents), np.searchsorted(self._documents, own)
        groups = max(1, size // self._group)
        group = np.minimum(self._rank[mine].astype(np.int64) // self._group, groups - 1)
        start, members = group * self._group, np.where(group == groups - 1, size - group * self._group, self._group)
        found, lowest, left = np.full(len(own), -1), np.full(len(own), np.inf), np.arange(len(own))
        word = words[:, -1].copy()
        for attempt in range(self._draws):
            drawn = self._order[start[left] + below(words[left, attempt], members[left])].astype(np.int64)
            costs = np.where(drawn != mine[left], cost(left, self._documents[drawn], words[left, attempt]), np.inf)
            better = costs < lowest[left]
            taken = left[better]
            found[taken], lowest[taken], word[taken] = drawn[better], costs[better], words[taken, attempt]
            left = left[lowest[left] > 0]
            if not len(left):
                break
        alone = np.flatnonzero(found < 0)
        others = below(words[alone, -1], size - 1)
        found[alone] = others + (others >= mine[alone])
        return self._documents[found], word


def _curve(axes: tuple[Floats, ...]) -> U64:
    """Position on the Z-order curve of the axes' ranks: bits are taken from the highest on, one axis after another."""
    key = np.zeros(len(axes[0]), np.uint64)
    levels = [_quantile(axis) for axis in axes]
    for bit in range(BITS - 1, -1, -1):
        for level in levels:
            key = (key << np.uint64(1)) | (level >> np.uint64(bit)) & np.uint64(1)
    return key


def _quantile(axis: Floats) -> U64:
    """The rank of each value as a share of all, in BITS bits; equal values have one rank."""
    ordered = np.sort(axis)
    return (np.searchsorted(ordered, axis) * (1 << BITS) // len(axis)).astype(np.uint64)
