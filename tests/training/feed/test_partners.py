from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from training.feed.partners import Partners
from training.feed.random import fold


def partners(documents: list[int], seed: int = 0) -> tuple[Partners, np.ndarray]:
    rng, owner = np.random.default_rng(seed), np.repeat(np.arange(len(documents)), documents)
    return Partners(tuple(rng.integers(1, 60, len(owner)) for _ in range(4)), owner), owner


@pytest.mark.parametrize("documents", [[1, 1], [50, 1], [3, 4, 2], [1] * 33, [7] * 100, [400, 2, 1, 60]])
def test_a_partner_is_always_of_another_document(documents: list[int]) -> None:
    found, owner = partners(documents)
    index = np.arange(len(owner))
    for epoch in range(20):
        partner = found.of(index, fold(epoch, np.zeros(len(index))))
        assert (owner[partner] != owner).all()


def test_partners_are_mutual_and_change_with_the_epoch() -> None:
    found, owner = partners([4] * 500)
    index = np.arange(len(owner))
    epochs = [found.of(index, fold(epoch, np.zeros(len(index)))) for epoch in range(4)]
    assert all(np.mean(partner[partner] == index) > 0.95 for partner in epochs)
    assert all(np.mean(one == other) < 0.3 for one, other in pairwise(epochs))


def test_a_partner_does_not_depend_on_what_else_is_asked_for() -> None:
    found, owner = partners([3] * 50)
    index = np.arange(len(owner))
    complete = found.of(index, fold(1, np.zeros(len(index))))
    assert np.array_equal(found.of(index[17:31], fold(1, np.zeros(14))), complete[17:31])
