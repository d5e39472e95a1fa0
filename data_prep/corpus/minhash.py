"""Shingles of a document, their sketch, and the bands by which near duplicates find each other. Plain numpy, a batch at once.

Broder 1997 (shingles, resemblance); Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4 (bands).
The sketch is Dahlgaard, Knudsen and Thorup 2017 (arXiv:1704.04370, "Fast Similarity Sketching"): each shingle falls into
one slot a round, the smallest value of the earliest round stays, and rounds go on only for documents with empty slots.
A long document needs one round instead of one pass a permutation, and a short one gets no copied slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.corpus.words import Hashes, Ints, Words, bare, lowered

RECALL = 0.999  # of pairs that lie exactly at the threshold: false candidates cost a comparison, lost ones cannot be found again
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Shingles:
    """hashes[starts[d]:starts[d + 1]] are document d's shingles, repeated ones too; none for a document without a letter or digit."""

    hashes: Hashes
    starts: Ints

    @property
    def documents(self) -> int:
        return len(self.starts) - 1

    def of(self, document: int) -> Hashes:
        """The document's shingles as a sorted set."""
        return np.unique(self.hashes[self.starts[document] : self.starts[document + 1]])


def mixed(values: Hashes) -> Hashes:
    """Steele, Lea and Flood 2014 (SplitMix): every bit of the answer hangs on every bit of the question."""
    values = values + _STEP
    high = values >> np.uint64(30)  # one array more, not one for each step
    for factor, shift in zip(_MIX, (np.uint64(27), np.uint64(31)), strict=True):
        values ^= high
        values *= factor
        np.right_shift(values, shift, out=high)
    values ^= high
    return values


def shingles(words: Words, n: int) -> Shingles:
    """Runs of n words without case and punctuation. A document with fewer words has one shingle: all of them."""
    hashes = words.hashes(bare)[words.ids]
    real = hashes != 0
    kept = np.concatenate(([0], np.cumsum(real)))
    hashes, starts = hashes[real], kept[words.starts]
    counts = np.diff(starts)
    runs = rolled(hashes, n)
    whole = np.where(counts >= n, counts - n + 1, np.minimum(counts, 1))
    short = np.flatnonzero((counts > 0) & (counts < n))
    places = np.repeat(starts[:-1] - np.concatenate(([0], np.cumsum(whole)[:-1])), whole) + np.arange(whole.sum())
    result = runs[places]
    firsts = np.concatenate(([0], np.cumsum(whole)))
    for document in short:
        result[firsts[document]] = rolled(hashes[starts[document] : starts[document + 1]], int(counts[document]))[0]
    return Shingles(result, firsts)


def exact_keys(words: Words, texts: Sequence[str] | pa.Array) -> Hashes:
    """Two numbers a document, xxh3_128 of its words in lower case; of the bare text when there is no word."""
    spelt = words.hashes(lowered)[words.ids]
    keys = np.empty((words.documents, 2), np.uint64)
    for d in range(words.documents):
        part = spelt[words.starts[d] : words.starts[d + 1]].tobytes() or _text(texts[d]).encode()
        number = xxhash.xxh3_128_intdigest(part)
        keys[d] = number >> 64, number & 0xFFFFFFFFFFFFFFFF
    return keys


def _text(value: str | pa.StringScalar) -> str:
    return value if isinstance(value, str) else value.as_py() or ""


def signatures(found: Shingles, slots: int) -> Hashes:
    """The sketch: two documents agree in a slot with a probability that is their Jaccard similarity."""
    table = np.full(found.documents * slots, _EMPTY, np.uint64)
    hashes, owner = found.hashes, np.repeat(np.arange(found.documents), np.diff(found.starts))
    filled = np.zeros(found.documents, np.int64)
    for number in range(2 * slots):
        value = mixed(hashes ^ mixed(np.full(1, number, np.uint64)))
        slot = ((value >> _HALF) * np.uint64(slots)) >> _HALF if number < slots else np.full(1, number - slots, np.uint64)
        place = owner * slots + slot.astype(np.int64)
        if number:  # an earlier round's value is smaller anyhow
            empty = table[place] == _EMPTY
            place, value = place[empty], value[empty]
        np.minimum.at(table, place, (np.uint64(number) << _HALF) | (value & _LOW))
        if number:  # a short document takes many rounds: none may cost more than its shingles
            place.sort()
            first = np.diff(place, prepend=-1) > 0
            filled += np.bincount(place[first] // slots, minlength=found.documents)
        else:
            filled += (table.reshape(-1, slots) != _EMPTY).sum(axis=1)
        stay = (filled < slots)[owner]
        if not stay.all():
            hashes, owner = hashes[stay], owner[stay]
        if not len(owner):
            break
    return table.reshape(-1, slots)


def bands(threshold: float, slots: int, recall: float = RECALL) -> tuple[int, int]:
    """(bands, rows): the most rows a band, so the fewest false candidates, that still find `recall` of the pairs at the threshold."""
    for rows in range(slots, 1, -1):
        number = slots // rows
        if 1 - (1 - threshold**rows) ** number >= recall:
            return number, rows
    return slots, 1


def band_keys(sketch: Hashes, number: int, rows: int) -> Hashes:
    """One number for each document and band, equal when all slots of the band are."""
    used = sketch[:, : number * rows].reshape(len(sketch), number, rows)
    keys = np.zeros((len(sketch), number), np.uint64)
    for row in range(rows):
        keys = mixed(keys ^ used[:, :, row])
    return keys


def estimate(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity two sketches tell."""
    return float(np.mean(one == other))


def jaccard(one: Hashes, other: Hashes) -> float:
    """The true similarity of two sorted sets of shingles; two empty sets are unlike everything."""
    if not len(one) or not len(other):
        return 0.0
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


def found_at(similarity: float, number: int, rows: int) -> float:
    """The probability that a pair of this similarity shares a band."""
    return 1 - math.pow(1 - math.pow(similarity, rows), number)


def rolled(hashes: Hashes, n: int) -> Hashes:
    """At each position one number for the n hashes from there on; the last n - 1 positions hold garbage."""
    result = hashes.copy()
    for step in range(1, min(n, len(hashes))):
        result = mixed(result)
        result[: len(hashes) - step] += hashes[step:]
    return mixed(result)
