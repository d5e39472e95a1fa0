"""Which pairs must show sides of equal shape, so that the order of A and B does not show in their lengths and counts (SOP).

Text is not symmetric: a document's first sentences are short, and the sentence that fills a sequence is longer than others. So the longer
side is more often, or less often than in half of the pairs, the first one. Pairs are tiled by their shapes regardless of which side is
which, apart for the first, the last and the other chunks of documents, full or not. In each tile pairs of the more frequent order are
evened as often as it takes to leave equally many of both. Smaller tiles would balance chance too, and then one half of the documents
would show the opposite of the other.
Memory: 4 bytes per pair.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.feed.partners import tiled
from training.feed.views import BOOL, I64

TILE = 64  # pairs


def evened(sentences: tuple[I64, I64], tokens: tuple[I64, I64], kind: I64) -> NDArray[np.float32]:
    """The probability that a pair is to show equal sides. sentences, tokens: of A and of B; kind: pairs of one kind share tiles."""
    longer = _longer(sentences, tokens)
    (few, many), (short, long) = (_sorted(longer, *sides) for sides in (sentences, tokens))
    shape = short * 1000 // np.maximum(long, 1), 1000 * many // np.maximum(long, 1) - 1000 * few // np.maximum(short, 1)
    found = np.zeros(len(kind), np.float32)
    for one in np.unique(kind):
        rows = np.flatnonzero(kind == one)
        tiles = max(1, len(rows) // TILE)
        order = rows[tiled(tuple(column[rows] for column in shape), tiles)]
        tile = np.arange(len(order)) * tiles // len(order)
        first, all_of = np.bincount(tile, longer[order], tiles), np.bincount(tile, minlength=tiles)
        side = np.stack([all_of - first, first])[longer[order].astype(np.int64), tile]  # as many of the tile have the same side longer
        found[order] = np.maximum(0.0, 1.0 - (all_of[tile] - side) / side)
    return found


def _longer(sentences: tuple[I64, I64], tokens: tuple[I64, I64]) -> BOOL:
    """Whether A is the longer side; of two equal sides, in every second pair."""
    more = np.sign(tokens[0] - tokens[1]) * 2 + np.sign(sentences[0] - sentences[1])
    longer: BOOL = np.where(more == 0, np.arange(len(more)) % 2 == 0, more > 0)
    return longer


def _sorted(longer: BOOL, a: I64, b: I64) -> tuple[I64, I64]:
    """Of the shorter side, and of the longer one."""
    return np.where(longer, b, a), np.where(longer, a, b)
