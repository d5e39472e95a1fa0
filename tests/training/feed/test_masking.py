from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from infra.errors import ConfigError
from training.feed.masking import IGNORE, Masker, Masking, budget
from training.feed.random import fold
from training.feed.spans import choose

SPECIALS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
VOCAB = 500


def masker(rate: float = 0.15) -> Masker:
    return Masker.of(VOCAB, SPECIALS, Masking(rate))


@given(st.integers(1, 6), st.integers(2, 70), st.integers(0, 2**40), st.floats(0.01, 0.9))
def test_exactly_the_budget_is_chosen_and_only_where_it_may(batch: int, length: int, seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    maskable = rng.random((batch, length)) < 0.7
    wanted = budget(rng.integers(1, length + 1, batch), rate)
    chosen = choose(maskable, wanted, fold(seed, np.arange(batch)))
    assert not (chosen & ~maskable).any()
    assert chosen.sum(1).tolist() == np.minimum(wanted, maskable.sum(1)).tolist()


def test_the_budget_is_rounded_and_at_least_one() -> None:
    assert budget(np.array([1, 3, 10, 128, 512]), 0.15).tolist() == [1, 1, 2, 19, 77]


def test_over_a_million_masked_tokens_are_split_eighty_ten_ten() -> None:
    rng = np.random.default_rng(0)
    masked = kept = replaced = 0
    fresh = np.zeros(VOCAB, int)
    places = np.zeros(128, int)
    for part in range(14):
        original = rng.integers(5, VOCAB, (4096, 128))
        tokens, maskable = original.copy(), np.ones(original.shape, bool)
        maskable[:, [0, 60, 127]] = False
        labels = masker()(tokens, maskable, np.full(4096, 128), fold(1, part, np.arange(4096)))
        chosen = labels != IGNORE
        assert (chosen.sum(1) == 19).all() and np.array_equal(labels[chosen], original[chosen])
        assert np.array_equal(tokens[~chosen], original[~chosen])
        hidden = chosen & (tokens == SPECIALS["mask"])
        other = chosen & ~hidden & (tokens != original)
        masked, replaced, kept = masked + hidden.sum(), replaced + other.sum(), kept + (chosen & (tokens == original)).sum()
        fresh += np.bincount(tokens[other], minlength=VOCAB)
        places += chosen.sum(0)
    total = masked + replaced + kept
    assert total > 1_000_000
    swapped_to_itself = 0.1 / (VOCAB - 5)
    expected = np.array([0.8, 0.1 - swapped_to_itself, 0.1 + swapped_to_itself]) * total
    assert stats.chisquare([masked, replaced, kept], expected).pvalue > 1e-4
    assert fresh[:5].sum() == 0  # a random token is never a special
    assert stats.chisquare(fresh[5:]).pvalue > 1e-4
    assert places[[0, 60, 127]].sum() == 0
    assert stats.chisquare(np.delete(places, [0, 60, 127])).pvalue > 1e-4


def test_another_key_masks_elsewhere_and_the_same_key_the_same() -> None:
    original = np.full((64, 128), 9)
    maskable = np.ones(original.shape, bool)
    runs = [masker()(original.copy(), maskable, np.full(64, 128), fold(1, epoch, np.arange(64))) for epoch in (0, 1, 0)]
    assert np.array_equal(runs[0], runs[2])
    overlap = ((runs[0] != IGNORE) & (runs[1] != IGNORE)).sum() / (runs[0] != IGNORE).sum()
    assert overlap == pytest.approx(19 / 128, abs=0.04)


def test_a_sequence_with_nothing_to_hide_is_left_alone() -> None:
    tokens = np.array([[2, 3, 0, 0]])
    labels = masker()(tokens, np.zeros((1, 4), bool), np.array([2]), fold(1))
    assert (labels == IGNORE).all() and tokens.tolist() == [[2, 3, 0, 0]]


def test_no_sequence_has_more_predictions_than_the_most() -> None:
    tokens = np.full((8, 128), 9)
    capped = Masker.of(VOCAB, SPECIALS, Masking(max_predictions=5))
    labels = capped(tokens, np.ones(tokens.shape, bool), np.full(8, 128), fold(1, np.arange(8)))
    assert ((labels != IGNORE).sum(1) == 5).all()


def test_masks_that_cannot_be_are_refused() -> None:
    wrongs = ({"rate": 1.0}, {"mask": 0.8, "random": 0.3}, {"unit": "letter"}, {"ngram": 0}, {"unit": "word", "with_replacement": True})
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="masking"):
            Masking(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="where words begin"):
        Masker.of(VOCAB, SPECIALS, Masking(unit="span"))
