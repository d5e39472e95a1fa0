"""A shuffled order that is computed, not stored: place i of a keyed permutation of 0..n-1, for any n.

A Feistel network permutes the words of b bits; places that land at n or beyond are sent through it again until they
fall inside ("cycle walking", Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 3). Both steps
are bijections, so the whole is one. Since 2^b < 2n or b is at its floor, a place walks less than two steps on average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.feed.random import GOLDEN, U64, mix, words

ROUNDS = 6
SMALLEST = 8  # bits: on fewer, six rounds reach too few of the permutations
STEPS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * GOLDEN  # each round its own function


def permute(place: Any, n: int, key: U64) -> NDArray[np.int64]:
    """Which example stands at `place` (integers in [0, n)). key: one, or one for each place."""
    walking = words(place).copy()
    keys = np.broadcast_to(key, walking.shape)
    bits = max(SMALLEST, int(n - 1).bit_length())
    limit = np.uint64(n)
    walking = _feistel(walking, bits, keys)
    outside = np.flatnonzero(walking >= limit)
    while len(outside):
        moved = _feistel(walking[outside], bits, keys[outside])
        walking[outside] = moved
        outside = outside[moved >= limit]
    return walking.view(np.int64)


def _feistel(x: U64, bits: int, key: U64) -> U64:
    """Halves of unequal width change places each round, so b need not be even."""
    low_bits = bits // 2
    for number in range(ROUNDS):
        high_bits = bits - low_bits
        low = x & np.uint64((1 << low_bits) - 1)
        high = x >> np.uint64(low_bits)
        noise = mix(low + key + STEPS[number]) >> np.uint64(64 - high_bits)
        x = (low << np.uint64(high_bits)) | (high ^ noise)
        low_bits = high_bits
    return x
