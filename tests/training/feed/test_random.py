from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.feed.random import below, draws, fold, halves, mix, unit, words

MASK = 2**64 - 1


def splitmix(seed: int, count: int) -> list[int]:
    """Steele, Lea, Flood 2014, written out with Python's integers."""
    found = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


@given(st.integers(0, MASK))
def test_draws_are_splitmix64_with_the_key_as_seed(seed: int) -> None:
    assert draws(np.array([seed], np.uint64), 5)[0].tolist() == splitmix(seed, 5)


def test_the_published_first_output_for_seed_0() -> None:
    assert int(draws(np.zeros(1, np.uint64), 1)[0, 0]) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("what", ["counter", "example", "epoch", "seed"])
def test_words_are_uniform_along_every_direction(what: str) -> None:
    n = 1 << 18
    counted = {"counter": lambda: draws(fold(7), n)[0], "example": lambda: fold(7, 2, 0, np.arange(n))}
    counted |= {"epoch": lambda: fold(7, 2, np.arange(n), 5), "seed": lambda: fold(np.arange(n), 2, 0, 5)}
    word = counted[what]()
    for bits in (word >> np.uint64(56), word & np.uint64(255)):
        assert stats.chisquare(np.bincount(bits.astype(int), minlength=256)).pvalue > 1e-4
    assert stats.kstest(unit(word), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(unit(word[:-1]), unit(word[1:]))[0, 1]) < 0.01


def test_flipping_one_bit_of_a_key_flips_half_of_the_bits() -> None:
    keys = mix(np.arange(2000, dtype=np.uint64))
    for bit in (0, 17, 63):
        changed = mix(keys) ^ mix(keys ^ np.uint64(1 << bit))
        assert np.bitwise_count(changed).mean() == pytest.approx(32, abs=0.5)


def test_every_part_of_a_key_and_their_order_count() -> None:
    keys = {int(fold(*parts)[0]) for parts in ((1, 2, 3), (1, 3, 2), (2, 1, 3), (1, 2), (1, 2, 0), (1, 2, -3))}
    assert len(keys) == 6


@given(st.integers(1, 2**32 - 1))
def test_bounded_draws_stay_in_bounds(bound: int) -> None:
    found = below(draws(fold(bound), 100)[0], bound)
    assert found.min() >= 0 and found.max() < bound


def test_bounded_draws_are_uniform_and_halves_share_nothing() -> None:
    assert stats.chisquare(np.bincount(below(draws(fold(3), 70_000)[0], 7))).pvalue > 1e-4
    pair = halves(fold(np.arange(5000)), 8)
    assert pair.shape == (5000, 8) and pair.dtype == np.uint32
    assert np.abs(np.corrcoef(pair.T.astype(float)) - np.eye(8)).max() < 0.06


def test_negative_and_large_integers_have_words_of_their_own() -> None:
    assert words([-1, 2**62]).tolist() == [MASK, 2**62]
