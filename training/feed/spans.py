"""Which positions to hide: single tokens, whole words, or runs of words, never more than each sequence's budget.

Everything is done for all sequences at once, and depends on the keys alone. Letters: B sequences, L positions, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.feed.random import U64, below, draws, fold, halves, unit

I64 = NDArray[np.int64]
BOOL = NDArray[np.bool_]
LENGTHS, LEFT = 1, 2  # streams under a sequence's key: how long each span is, and the words that fill up what is left


def choose(maskable_BL: BOOL, budget_B: I64, key_B: U64) -> BOOL:
    """Exactly min(budget, maskable) positions of each sequence, every set of that size equally likely.

    Each position gets a random number with its own place in the lowest bits, so that no two are equal; the smallest win.
    """
    batch = len(maskable_BL)
    ticket = _tickets(maskable_BL, key_B)
    wanted = np.minimum(budget_B, maskable_BL.sum(1))
    ranked = np.sort(ticket, axis=1)
    last = ranked[np.arange(batch), np.maximum(wanted - 1, 0)]
    chosen: BOOL = (ticket <= last[:, None]) & maskable_BL & (wanted > 0)[:, None]
    return chosen


def _tickets(there: BOOL, key_B: U64) -> NDArray[np.uint32]:
    """A random number for each place, no two of a row equal; places that are not there come last."""
    length = there.shape[1]
    place_bits = max(1, int(length - 1).bit_length())
    front = np.uint32((1 << 31) - (1 << place_bits))
    ticket = halves(key_B, length) & front
    ticket |= np.arange(length, dtype=np.uint32)
    ticket |= np.uint32(1 << 31) * ~there  # the back of the queue
    return ticket


def choose_again(maskable_BL: BOOL, budget_B: I64, key_B: U64) -> BOOL:
    """As many draws as the budget says, with replacement: a position drawn twice is one position (of 19 about 17.7 remain)."""
    chosen = np.zeros_like(maskable_BL)
    wide = int(budget_B.max(initial=0))
    rows = maskable_BL.argsort(axis=1, kind="stable")[:, ::-1]  # the maskable ones first, in some fixed order
    drawn = below(draws(key_B, wide), maskable_BL.sum(1)[:, None])
    row, number = np.nonzero((np.arange(wide) < budget_B[:, None]) & (maskable_BL.sum(1) > 0)[:, None])
    chosen[row, rows[row, drawn[row, number]]] = True
    return chosen


@dataclass(frozen=True)
class Words:
    """of_BL: the word at each position, -1 where nothing may be hidden; how many tokens a word has, 0 beyond a row's last;
    whether the next word stands right behind it."""

    of_BL: I64
    lengths_BW: I64
    joined_BW: BOOL

    @classmethod
    def of(cls, tokens_BL: I64, maskable_BL: BOOL, word_start: BOOL) -> Words:
        """A word begins where its piece says so, and after everything that may not be hidden."""
        after = np.zeros_like(maskable_BL)
        after[:, 1:] = maskable_BL[:, :-1]
        first_BL = maskable_BL & (word_start[tokens_BL] | ~after)
        of_BL = np.where(maskable_BL, np.cumsum(first_BL, 1) - 1, -1)
        batch, wide = len(tokens_BL), int(of_BL.max(initial=-1)) + 1
        row, column = np.nonzero(maskable_BL)
        flat = np.bincount(row * wide + of_BL[row, column], minlength=batch * wide)
        row, column = np.nonzero(first_BL & after)
        joined_BW = np.zeros((batch, wide), bool)
        joined_BW[row, of_BL[row, column] - 1] = True
        return cls(of_BL, flat.reshape(batch, wide).astype(np.int64), joined_BW)

    def positions(self, taken_BW: BOOL) -> BOOL:
        """The positions of these words."""
        if not taken_BW.shape[1]:
            return np.zeros(self.of_BL.shape, bool)
        chosen: BOOL = np.take_along_axis(taken_BW, np.maximum(self.of_BL, 0), 1) & (self.of_BL >= 0)
        return chosen


def choose_words(words: Words, budget_B: I64, key_B: U64) -> BOOL:
    """Words [B, W] in random order, each taken if it still fits (create_pretraining_data.py, whole word masking)."""
    return _fill(words.lengths_BW, words.lengths_BW > 0, budget_B, key_B)


def _fill(lengths_BW: I64, free_BW: BOOL, budget_B: I64, key_B: U64) -> BOOL:
    """Walks the words in random order, all that fit in front of the first that does not at a time: as what is left shrinks
    each time, and longer words can never fit again, few rounds do."""
    order = np.argsort(_tickets(free_BW, key_B), axis=1)
    length = np.take_along_axis(np.where(free_BW, lengths_BW, 0), order, 1)
    taken, left = np.zeros_like(free_BW), budget_B.copy()
    while True:
        fits = (length > 0) & ~taken & (length <= left[:, None])
        part = fits & (np.cumsum(np.where(fits, length, 0), 1) <= left[:, None])
        if not part.any():
            break
        taken |= part
        left -= np.where(part, length, 0).sum(1)
    chosen = np.zeros_like(taken)
    np.put_along_axis(chosen, order, taken, 1)
    return chosen


def choose_spans(words: Words, budget_B: I64, key_B: U64, longest: int) -> NDArray[np.int32]:
    """The number of the span each word is in, in the order in which they were drawn; 0: in none.

    Lan et al. 2020, section 4.1: a span has n words with p(n) ~ 1/n. Starts are tried in random order; a span stays within
    one run of words and overlaps no other, and the length drawn waits until a start has room for it, so that no length is
    rejected more often than another. The last is shortened to what is left; single words use up the rest of the budget.
    """
    lengths_BW, batch = words.lengths_BW, len(budget_B)
    wide = lengths_BW.shape[1]
    numbers = np.zeros((batch, wide + longest), np.int32)
    run = np.ones_like(lengths_BW)  # words from here on without a gap
    for _ in range(longest - 1):
        run[:, :-1] = np.where(words.joined_BW[:, :-1], np.minimum(run[:, 1:] + 1, longest), 1)
    drawn = np.minimum(_span_lengths(budget_B, key_B, longest), run.max(1, initial=1)[:, None])
    ends = np.concatenate([np.zeros((batch, 1), np.int64), np.cumsum(lengths_BW, 1)], 1)
    order = np.argsort(_tickets(lengths_BW > 0, key_B), axis=1) if wide else np.zeros((batch, 0), np.int64)
    count, left, made = (lengths_BW > 0).sum(1), budget_B.copy(), np.zeros(batch, np.int64)
    for turn in range(wide):
        row = np.flatnonzero((left > 0) & (turn < count))
        if not len(row):
            break
        word, size = order[row, turn], drawn[row, made[row]]
        free = run[row, word] >= size
        for step in range(longest):
            free &= (numbers[row, word + step] == 0) | (step >= size)
        row, word, size = row[free], word[free], size[free]
        for _ in range(longest - 1):
            size = np.where((ends[row, word + size] - ends[row, word] > left[row]) & (size > 1), size - 1, size)
        cost = ends[row, word + size] - ends[row, word]
        fits = cost <= left[row]
        row, word, size = row[fits], word[fits], size[fits]
        left[row] -= cost[fits]
        made[row] += 1
        for step in range(longest):
            inside = step < size
            numbers[row[inside], word[inside] + step] = made[row[inside]]
    numbers = numbers[:, :wide]
    rest = _fill(lengths_BW, (numbers == 0) & (lengths_BW > 0), left, fold(key_B, LEFT))
    return np.where(rest, made[:, None] + np.cumsum(rest, 1), numbers).astype(np.int32)


def _span_lengths(budget_B: I64, key_B: U64, longest: int) -> I64:
    """As many lengths as a sequence can need."""
    share = np.cumsum(1 / np.arange(1, longest + 1))
    uniform = unit(draws(fold(key_B, LENGTHS), int(budget_B.max(initial=0)) + 1))
    return 1 + np.searchsorted(share[:-1] / share[-1], uniform, side="right")
