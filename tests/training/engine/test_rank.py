"""Keys of a step's random draws: 63 bits of all numbers, in their order."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.engine.rank import key_of, reseed

WORD = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(WORD, min_size=1, max_size=5), st.data())
def test_a_key_has_63_bits_and_follows_from_every_number_and_their_order(numbers: list[int], data: st.DataObject) -> None:
    key = key_of(*numbers)
    assert 0 <= key < 2**63 and key == key_of(*numbers)
    place, other = data.draw(st.integers(0, len(numbers) - 1)), data.draw(WORD)
    changed = [*numbers[:place], other, *numbers[place + 1 :]]
    assert (key_of(*changed) == key) == (other == numbers[place])
    assert key_of(*numbers, 0) != key
    assert (key_of(*reversed(numbers)) == key) == (numbers[::-1] == numbers)


def test_neighbouring_steps_and_ranks_share_no_key_and_half_of_the_bits() -> None:
    keys = np.array([key_of(seed, step, rank, 0) for seed in range(3) for step in range(500) for rank in range(8)], np.uint64)
    assert len(set(keys.tolist())) == len(keys)
    assert abs(np.bitwise_count(keys[1:] ^ keys[:-1]).mean() - 31.5) < 0.2


def test_a_generator_goes_on_from_the_numbers_alone() -> None:
    reseed(7, 3, 1, 0)
    drawn = torch.rand(4)
    torch.rand(9)
    reseed(7, 3, 1, 0)
    assert torch.equal(torch.rand(4), drawn)
    reseed(7, 3, 0, 1)
    assert not torch.equal(torch.rand(4), drawn)
