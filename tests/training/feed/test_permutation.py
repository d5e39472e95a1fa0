from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.feed.permutation import permute
from training.feed.random import fold


@given(st.integers(1, 3000), st.integers(-(2**60), 2**60))
def test_it_is_a_bijection_for_any_number_and_seed(n: int, seed: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, fold(seed))), np.arange(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1, 200_003])
def test_it_is_a_bijection_around_powers_of_two(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, fold(1))), np.arange(n))


def test_places_can_be_asked_for_one_by_one_and_with_a_key_each() -> None:
    places = np.arange(500)
    keys = fold(9, places % 3)
    together = permute(places, 500, keys)
    assert [int(permute(p, 500, fold(9, p % 3))[0]) for p in range(500)] == together.tolist()


def test_huge_numbers_of_examples_need_no_memory() -> None:
    found = permute(np.arange(1000), 10**12, fold(1))
    assert len(set(found.tolist())) == 1000 and found.min() >= 0 and found.max() < 10**12
    assert stats.kstest(found / 1e12, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("n", [4, 5])
def test_all_orders_of_a_few_examples_are_equally_likely(n: int) -> None:
    trials = 24_000
    found = permute(np.tile(np.arange(n), trials), n, fold(3, np.repeat(np.arange(trials), n))).reshape(trials, n)
    orders = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    counts = np.bincount([orders[tuple(row)] for row in found.tolist()], minlength=len(orders))
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_part_and_epochs_differ() -> None:
    n = 10_000
    one, two = permute(np.arange(n), n, fold(1, 0)), permute(np.arange(n), n, fold(1, 1))
    assert np.abs(one - np.arange(n)).mean() == pytest.approx(n / 3, rel=0.05)  # what a random order gives
    assert np.abs(np.diff(one)).mean() == pytest.approx(n / 3, rel=0.05)
    assert (one == two).sum() < 10
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
