"""Partner of each pair in an epoch: the pair of another document whose B it gets where its label is "random" (NSP).

Pairs are tiled by the sentences and tokens of A and B as Sort-Tile-Recursive packing tiles rectangles (Leutenegger et al. 1997), so that
the pairs of a tile are of nearly equal shape. Each epoch matches one half of a tile with the other half, rotated at random: if j is the
partner of i, i is the partner of j. Both halves are in the order of documents, so few matches are within one document; those pairs take the
next rotation, and where a tile is of one document, any pair of another one. Memory: 8 bytes per pair and 8 per document.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.feed.random import U64, below, fold
from training.feed.views import BOOL, I64

SMALLEST, LARGEST = 16, 256  # pairs of a tile: similar shapes on the one hand, different partners in every epoch on the other
TILES = 4096  # more pairs give larger tiles only when there are so many
ROTATIONS = 4  # that are tried until the partner is of another document
ROTATE, ANY = 1, 2  # streams of an epoch's key


class Partners:
    """shape: [pairs] each, the most important number last; document: [pairs], ascending."""

    def __init__(self, shape: tuple[I64, ...], document: I64) -> None:
        self._pairs = len(document)
        self._firsts = np.flatnonzero(np.diff(document, prepend=-1, append=document[-1] + 1))  # the first pair of each document
        size = tile_size(self._pairs)
        self._tiles, self._size = max(1, self._pairs // size), size
        order = tiled(shape, self._tiles)
        tile = np.minimum(np.arange(self._pairs) // size, self._tiles - 1)
        by_document = np.sort(tile * self._pairs + order) % self._pairs  # pairs are in the order of documents
        self._order = by_document.astype(np.uint32)
        self._rank = np.empty(self._pairs, np.uint32)
        self._rank[self._order] = np.arange(self._pairs, dtype=np.uint32)

    def of(self, index: I64, epoch: U64) -> I64:
        """The partner of each pair, under its epoch's key."""
        rank = self._rank[index].astype(np.int64)
        tile = np.minimum(rank // self._size, self._tiles - 1)
        first = tile * self._size
        members = np.where(tile == self._tiles - 1, self._pairs - first, self._size)
        half, place = np.maximum(members // 2, 1), rank - first
        turn, later = below(fold(epoch, ROTATE, tile), half), place >= half
        partner = self._rotated(first, members, half, place, later, turn)
        wrong = np.flatnonzero(self._same(index, partner))
        for number in range(1, ROTATIONS):
            if not len(wrong):
                return partner
            some = first[wrong], members[wrong], half[wrong], place[wrong], later[wrong]
            partner[wrong] = self._rotated(*some, turn[wrong] + number)
            wrong = wrong[self._same(index[wrong], partner[wrong])]
        if len(wrong):
            partner[wrong] = self._any(index[wrong], epoch[wrong])
        return partner

    def _rotated(self, first: I64, members: I64, half: I64, place: I64, later: BOOL, turn: I64) -> I64:
        """Place p of the first half and half + (p + turn) mod half belong together; the last of an odd tile takes from the first half."""
        there = np.where(later, (place - half - turn) % half, half + (place + turn) % half)
        partner: I64 = self._order[first + np.minimum(there, members - 1)].astype(np.int64)
        return partner

    def _document(self, index: I64) -> I64:
        return np.searchsorted(self._firsts, index, side="right") - 1

    def _same(self, one: I64, other: I64) -> BOOL:
        """Whether two pairs are of one document."""
        document = self._document(one)
        same: BOOL = (self._firsts[document] <= other) & (other < self._firsts[document + 1])
        return same

    def _any(self, index: I64, epoch: U64) -> I64:
        """Any pair of any other document."""
        document = self._document(index)
        begin, end = self._firsts[document], self._firsts[document + 1]
        drawn = below(fold(epoch, ANY, index), self._pairs - (end - begin))
        return drawn + np.where(drawn >= begin, end - begin, 0)


def tile_size(pairs: int) -> int:
    """How many pairs are in a tile."""
    return min(max(SMALLEST, pairs // TILES // 2 * 2), LARGEST)


def tiled(shape: tuple[NDArray[np.int64], ...], tiles: int) -> I64:
    """Pairs in the order of tiles: sorted by the first number and cut into slabs, each slab sorted by the next one, and so on."""
    order = np.argsort(shape[0], kind="stable")
    pairs, slabs, left = len(order), 1, len(shape)
    for column in shape[1:]:
        slabs *= max(1, round((tiles / slabs) ** (1 / left)))
        left -= 1
        slab = np.arange(pairs) * slabs // pairs
        order = order[np.lexsort((column[order], slab))]
    return order
