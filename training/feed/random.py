"""Random numbers that are a function of a key and a counter: no state, any order, whole arrays at once.

A key is 64 bits, made from (seed, stream, epoch, example) by `fold`; draw i under a key is SplitMix64's i-th output
for that key as its seed (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"; the finaliser is
Stafford's variant 13, as in their Java code). `fold` puts every word through the finaliser before the next one is
added, so that neighbouring examples and epochs share nothing. Not for cryptography.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31, S11, S32 = (np.uint64(s) for s in (30, 27, 31, 11, 32))


def mix(x: U64) -> U64:
    """SplitMix64's finaliser: a bijection of 64-bit words in which every input bit moves about half of the output's."""
    x = x ^ (x >> S30)
    x *= MIX1
    x ^= x >> S27
    x *= MIX2
    x ^= x >> S31
    return x


def words(values: Any) -> U64:
    """Integers as 64-bit words (negative ones as two's complement), always an array of at least one dimension."""
    return np.atleast_1d(np.asarray(values)).astype(np.int64, copy=False).view(np.uint64)


def fold(*parts: Any) -> U64:
    """One key for each combination of parts: integers or arrays of them, broadcast together. Order counts."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = also(key, part)
    return key


def also(key: U64, part: Any) -> U64:
    """fold with one part more: also(fold(a, b), c) is fold(a, b, c)."""
    return mix((key ^ words(part)) + GOLDEN)


def draws(key: U64, count: int) -> U64:
    """[len(key), count] words, uniform over 64 bits."""
    counter = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return mix(key[:, None] + counter[None, :])


def halves(key: U64, count: int) -> NDArray[np.uint32]:
    """[len(key), count] words, uniform over 32 bits: two from each draw."""
    return draws(key, (count + 1) // 2).view(np.uint32)[:, :count]


def below(word: U64, bound: Any) -> NDArray[np.int64]:
    """Integers in [0, bound), bound < 2^32, by the upper 32 bits (Lemire 2019 without rejection: bias < bound / 2^32)."""
    return ((word >> S32) * words(bound) >> S32).view(np.int64)


def unit(word: U64) -> NDArray[np.float64]:
    """Numbers in [0, 1) with 53 random bits."""
    return (word >> S11).astype(np.float64) * 2.0**-53
