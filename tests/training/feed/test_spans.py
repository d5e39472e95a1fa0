from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.feed.masking import IGNORE, Masker, Masking, budget
from training.feed.random import fold
from training.feed.spans import Words, choose_again, choose_spans, choose_words

SPECIALS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
VOCAB = 500
STARTS = np.arange(VOCAB) % 3 != 0  # every third piece goes on with the word before it
STARTS[:5] = True


def sequences(rng: np.random.Generator, batch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """[CLS] A [SEP] B [SEP] and padding: ids and what may be hidden."""
    tokens = rng.integers(5, VOCAB, (batch, length))
    maskable = np.ones((batch, length), bool)
    for row in range(batch):
        cut, end = rng.integers(1, max(2, length // 2)), rng.integers(max(1, length // 2), length)
        maskable[row, [0, cut, end]] = False
        maskable[row, end:] = False
        tokens[row, ~maskable[row]] = SPECIALS["sep"]
    return tokens, maskable


def words_of(tokens: np.ndarray, maskable: np.ndarray) -> list[list[list[int]]]:
    """Positions of each word of each row, found one by one."""
    rows = []
    for row, may in zip(tokens.tolist(), maskable.tolist(), strict=True):
        words: list[list[int]] = []
        for place, (token, allowed) in enumerate(zip(row, may, strict=True)):
            if allowed and (STARTS[token] or not may[place - 1] or not place):
                words.append([place])
            elif allowed:
                words[-1].append(place)
        rows.append(words)
    return rows


def one_by_one(words: list[list[int]], wanted: int, order: list[int]) -> set[int]:
    """What BERT's create_pretraining_data.py does with a shuffled list of words."""
    chosen: set[int] = set()
    for number in order:
        if len(chosen) + len(words[number]) <= wanted:
            chosen |= set(words[number])
    return chosen


@given(st.integers(1, 5), st.integers(4, 60), st.integers(0, 2**40), st.floats(0.02, 0.9), st.integers(0, 9))
def test_words_are_hidden_whole_up_to_the_budget(batch: int, length: int, seed: int, rate: float, most: int) -> None:
    tokens, maskable = sequences(np.random.default_rng(seed), batch, length)
    wanted = budget(maskable.sum(1), rate, most)
    words = Words.of(tokens, maskable, STARTS)
    taken = choose_words(words, wanted, fold(seed, np.arange(batch)))
    chosen = words.positions(taken)
    for row, groups in enumerate(words_of(tokens, maskable)):
        inside = set(np.flatnonzero(chosen[row]).tolist())
        assert inside == {place for group in groups if group[0] in inside for place in group}
        left = wanted[row] - len(inside)
        assert left >= 0 and all(len(group) > left for group in groups if group[0] not in inside)


def test_the_vectorised_walk_is_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, maskable = sequences(np.random.default_rng(3), 200, 64)
    words = Words.of(tokens, maskable, STARTS)
    orders = []

    def spy(array: np.ndarray, axis: int) -> np.ndarray:
        orders.append(real(array, axis=axis))
        return orders[-1]

    real = np.argsort
    monkeypatch.setattr("training.feed.spans.np.argsort", spy)
    wanted = budget(maskable.sum(1), 0.15)
    chosen = words.positions(choose_words(words, wanted, fold(5, np.arange(200))))
    for row, groups in enumerate(words_of(tokens, maskable)):
        order = [number for number in orders[0][row].tolist() if number < len(groups)]
        assert set(np.flatnonzero(chosen[row]).tolist()) == one_by_one(groups, int(wanted[row]), order)


@given(st.integers(1, 5), st.integers(4, 60), st.integers(0, 2**40), st.floats(0.02, 0.9), st.integers(1, 4))
def test_spans_are_runs_of_whole_words_that_use_up_the_budget(batch: int, length: int, seed: int, rate: float, longest: int) -> None:
    tokens, maskable = sequences(np.random.default_rng(seed), batch, length)
    wanted = budget(maskable.sum(1), rate)
    words = Words.of(tokens, maskable, STARTS)
    numbers = choose_spans(words, wanted, fold(seed, np.arange(batch)), longest)
    for row, groups in enumerate(words_of(tokens, maskable)):
        spans: dict[int, list[int]] = {}
        for word, number in enumerate(numbers[row, : len(groups)].tolist()):
            spans.setdefault(number, []).append(word)
        free = spans.pop(0, [])
        assert not numbers[row, len(groups) :].any()
        for span in spans.values():
            assert len(span) <= longest and span == list(range(span[0], span[0] + len(span)))
            assert all(groups[a][-1] + 1 == groups[b][0] for a, b in pairwise(span))  # never across a special
        left = wanted[row] - sum(len(groups[word]) for span in spans.values() for word in span)
        assert left >= 0 and all(len(groups[word]) > left for word in free)


def test_span_lengths_are_as_one_to_a_half_to_a_third() -> None:
    """The first five of a sequence are never shortened here: 5 x 3 tokens are below the budget of 19."""
    rng, seen = np.random.default_rng(0), np.zeros(4, int)
    starts = np.ones(VOCAB, bool)
    for part in range(10):
        tokens = rng.integers(5, VOCAB, (4096, 128))
        maskable = np.ones(tokens.shape, bool)
        maskable[:, [0, 60, 127]] = False
        words = Words.of(tokens, maskable, starts)
        numbers = choose_spans(words, np.full(4096, 19), fold(8, part, np.arange(4096)), 3)
        for number in range(1, 6):
            seen += np.bincount((numbers == number).sum(1), minlength=4)
    assert seen[0] == 0 and seen.sum() > 200_000
    assert stats.chisquare(seen[1:], seen.sum() * np.array([6, 3, 2]) / 11).pvalue > 1e-4


@pytest.mark.parametrize("unit", ["word", "span"])
def test_over_a_million_hidden_tokens_the_budget_and_the_shares_hold(unit: str) -> None:
    rng = np.random.default_rng(1)
    masker = Masker.of(VOCAB, SPECIALS, Masking(unit=unit), STARTS)
    shown = np.zeros(3, int)
    places = np.zeros(128, int)
    for part in range(14):
        original = rng.integers(5, VOCAB, (4096, 128))
        original[:, [0, 60, 127]] = SPECIALS["sep"]
        maskable, tokens = original != SPECIALS["sep"], original.copy()
        labels = masker(tokens, maskable, np.full(4096, 128), fold(2, part, np.arange(4096)))
        chosen = labels != IGNORE
        assert chosen.sum(1).max() == 19 and chosen.sum(1).mean() > 18.99  # a word of one token is nearly always left
        assert np.array_equal(tokens[~chosen], original[~chosen]) and np.array_equal(labels[chosen], original[chosen])
        hidden, other = chosen & (tokens == SPECIALS["mask"]), chosen & (tokens != SPECIALS["mask"]) & (tokens != original)
        shown += np.array([hidden.sum(), other.sum(), (chosen & (tokens == original)).sum()])
        places += chosen.sum(0)
    itself = 0.1 / (VOCAB - 5)
    assert shown.sum() > 1_000_000
    assert stats.chisquare(shown, np.array([0.8, 0.1 - itself, 0.1 + itself]) * shown.sum()).pvalue > 1e-4
    assert places[[0, 60, 127]].sum() == 0
    inner = places[8:52] / places[8:52].mean()  # away from the edges no place is preferred
    assert np.abs(inner - 1).max() < 0.06


def test_electra_draws_positions_with_replacement_and_shows_no_random_token() -> None:
    """Of 19 draws over 125 places 125 (1 - (124/125)^19) = 17.71 are different (reference: about 17.7 at length 128)."""
    rng = np.random.default_rng(4)
    masker = Masker.of(VOCAB, SPECIALS, Masking(mask=0.85, random=0.0, with_replacement=True))
    hidden = kept = 0
    places = np.zeros(128, int)
    for part in range(16):
        original = rng.integers(5, VOCAB, (4096, 128))
        maskable, tokens = np.ones(original.shape, bool), original.copy()
        maskable[:, [0, 60, 127]] = False
        labels = masker(tokens, maskable, np.full(4096, 128), fold(3, part, np.arange(4096)))
        chosen = labels != IGNORE
        assert chosen.sum(1).max() <= 19 and not (chosen & ~maskable).any()
        assert set(np.unique(tokens[tokens != original])) == {SPECIALS["mask"]}
        hidden, kept = hidden + (tokens != original).sum(), kept + (chosen & (tokens == original)).sum()
        places += chosen.sum(0)
    total = hidden + kept
    assert total > 1_000_000 and total / (16 * 4096) == pytest.approx(125 * (1 - (124 / 125) ** 19), rel=1e-3)
    assert stats.binomtest(int(hidden), int(total), 0.85).pvalue > 1e-4
    assert np.abs(np.delete(places, [0, 60, 127]) / places.sum() * 125 - 1).max() < 0.06


def test_with_replacement_nothing_to_draw_from_gives_nothing() -> None:
    maskable = np.zeros((3, 8), bool)
    maskable[1, 5] = True
    chosen = choose_again(maskable, np.array([2, 4, 1]), fold(1, np.arange(3)))
    assert np.array_equal(chosen, maskable)


def test_a_batch_without_words_or_rows_is_no_trap() -> None:
    for tokens in (np.zeros((0, 8), int), np.zeros((2, 8), int)):
        words = Words.of(tokens, np.zeros(tokens.shape, bool), STARTS)
        wanted, key = np.ones(len(tokens), int), fold(1, np.arange(len(tokens)))
        assert not words.positions(choose_words(words, wanted, key)).any()
        assert not words.positions(choose_spans(words, wanted, key, 3) > 0).any()
