"""Hide tokens for the masked language model: a fixed number in each sequence, drawn anew for each key.

Devlin et al. 2019, section 3.1: 15% of the positions are predicted; of those 80% show [MASK], 10% a random token,
10% the token itself. Letters: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.feed.batch import IGNORE
from training.feed.random import GOLDEN, MIX2, U64, below, halves, mix

I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Masker:
    """plain: the ids a random replacement may be, which is every id that is no special."""

    mask_id: int
    plain: I64
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1

    @classmethod
    def of(cls, vocab: int, specials: dict[str, int], rate: float, mask_share: float, random_share: float) -> Masker:
        plain = np.setdiff1d(np.arange(vocab), np.array(list(specials.values())))
        return cls(specials["mask"], plain.astype(np.int64), rate, mask_share, random_share)

    def __call__(self, tokens_BL: I64, maskable_BL: NDArray[np.bool_], lengths_B: I64, key_B: U64) -> I64:
        """Change tokens_BL in place; the labels. lengths_B counts the real tokens, specials included, as BERT's budget does."""
        chosen = choose(maskable_BL, budget(lengths_B, self.rate), key_B)
        row, column = np.nonzero(chosen)
        labels_BL = np.full(tokens_BL.shape, IGNORE, np.int64)
        original = tokens_BL[row, column]
        labels_BL[row, column] = original
        fate = mix((key_B[row] ^ MIX2) + (column.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        hide, swap = (np.uint64(min(share, 1.0) * 2**32) for share in (self.mask_share, self.mask_share + self.random_share))
        low = fate & np.uint64(0xFFFFFFFF)  # decides what happens; the upper half says which random token
        shown = np.where(low < swap, self.plain[below(fate, len(self.plain))], original)
        shown[low < hide] = self.mask_id
        tokens_BL[row, column] = shown
        return labels_BL


def budget(lengths_B: I64, rate: float) -> I64:
    """round(rate x length), at least one."""
    wanted: I64 = np.maximum(1, np.floor(lengths_B * rate + 0.5).astype(np.int64))
    return wanted


def choose(maskable_BL: NDArray[np.bool_], budget_B: I64, key_B: U64) -> NDArray[np.bool_]:
    """Exactly min(budget, maskable) positions of each sequence, every set of that size equally likely.

    Each position gets a random number with its own place in the lowest bits, so that no two are equal; the smallest win.
    """
    batch, length = maskable_BL.shape
    place_bits = max(1, int(length - 1).bit_length())
    front = np.uint32((1 << 31) - (1 << place_bits))
    ticket = halves(key_B, length) & front
    ticket |= np.arange(length, dtype=np.uint32)
    ticket |= np.uint32(1 << 31) * ~maskable_BL  # the back of the queue
    wanted = np.minimum(budget_B, maskable_BL.sum(1))
    ranked = np.sort(ticket, axis=1)
    last = ranked[np.arange(batch), np.maximum(wanted - 1, 0)]
    chosen: NDArray[np.bool_] = (ticket <= last[:, None]) & maskable_BL & (wanted > 0)[:, None]
    return chosen
