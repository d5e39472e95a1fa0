"""Draws follow the chances, and each row's are its own: the same in whatever company it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from training.feed.random import mix as mix_of_numpy
from training.objectives.draw import mix, sample, uniform


def rows(count: int, length: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(30_000, (count, length), generator=rng), torch.rand((count, length), generator=rng) < 0.3


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_signed_words_are_mixed_as_unsigned_ones_are(words: list[int]) -> None:
    theirs = mix_of_numpy(np.array(words, np.int64).view(np.uint64)).view(np.int64)
    assert mix(torch.tensor(words)).tolist() == theirs.tolist()


def test_the_numbers_are_uniform_and_other_steps_and_rows_have_others() -> None:
    tokens, chosen = rows(4000)
    found = uniform(tokens, chosen, 5)
    assert len(found) == int(chosen.sum()) and found.min() >= 0 and found.max() < 1
    assert kstest(found.numpy(), "uniform").pvalue > 0.01
    other = uniform(tokens, chosen, 6)
    assert kstest(other.numpy(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(found.numpy(), other.numpy())[0, 1]) < 0.02
    assert len(found.unique()) > 0.99 * len(found), "neighbouring places and rows share nothing"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_a_row_is_drawn_alike_in_whatever_company(seed: int, cut: int) -> None:
    tokens, chosen = rows(8, seed=seed)
    whole = uniform(tokens, chosen, seed)
    parts = torch.cat([uniform(tokens[part], chosen[part], seed) for part in (slice(0, cut), slice(cut, 8))])
    assert torch.equal(whole, parts)


def test_one_token_or_one_mask_more_makes_another_row() -> None:
    tokens, chosen = rows(1)
    before = uniform(tokens, chosen, 0)
    other = tokens.clone()
    other[0, 3] += 1
    assert not torch.isclose(uniform(other, chosen, 0), before).any()
    more = chosen.clone()
    at = int((~chosen[0]).nonzero()[0])
    more[0, at] = True
    kept = [n for n, place in enumerate(more[0].nonzero().flatten().tolist()) if place != at]
    assert not torch.isclose(uniform(tokens, more, 0)[kept], before).any()


@pytest.mark.parametrize("odds", [[0.5, 0.3, 0.15, 0.05], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
def test_samples_follow_the_chances(odds: list[float]) -> None:
    at = (torch.arange(40_000) + 0.5) / 40_000
    drawn = sample(torch.tensor(odds).log().expand(40_000, len(odds)), at)
    assert drawn.bincount(minlength=len(odds)).tolist() == pytest.approx([40_000 * p for p in odds], abs=2)


def test_the_edges_of_the_unit_interval_are_tokens_too() -> None:
    logits = torch.zeros(2, 7, requires_grad=True)
    drawn = sample(logits, torch.tensor([0.0, 1 - 2.0**-24]))
    assert drawn.tolist() == [0, 6] and not drawn.requires_grad
    assert sample(torch.zeros(0, 7), torch.zeros(0)).shape == (0,)
