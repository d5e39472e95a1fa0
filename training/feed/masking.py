"""Hide tokens for the masked language model: a fixed number in each sequence, drawn anew for each key.

Devlin et al. 2019, section 3.1: 15% of the positions are predicted; of those 80% show [MASK], 10% a random token,
10% the token itself. Letters: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from training.feed.batch import IGNORE
from training.feed.random import GOLDEN, MIX2, U64, below, mix
from training.feed.spans import BOOL, I64, Words, choose, choose_again, choose_spans, choose_words

UNITS = ("token", "word", "span")


@dataclass(frozen=True)
class Masking:
    """What is hidden, and how. As it stands: BERT's masks, drawn anew in each epoch.

    ALBERT: unit="span". ELECTRA's released code: mask=0.85, random=0, with_replacement=True. BERT's later models: unit="word".
    """

    rate: float = 0.15  # of a sequence's tokens, specials counted; the share of them that may be hidden is a little smaller
    mask: float = 0.8  # of the chosen ones; the rest after `mask` and `random` stays as it is
    random: float = 0.1
    unit: str = "token"  # "word": whole words; "span": runs of 1 to `ngram` whole words with p(n) ~ 1/n
    ngram: int = 3
    with_replacement: bool = False  # a position may be drawn twice, so somewhat fewer are hidden
    static_copies: int = 0  # k > 0: all draws of epoch e, pairs and masks, are those of epoch e % k, as if k copies had been written
    max_predictions: int = 0  # most tokens hidden in a sequence; 0: as many as the rate says

    def __post_init__(self) -> None:
        if not (0 < self.rate < 1 and self.mask >= 0 and self.random >= 0 and self.mask + self.random <= 1 + 1e-9):
            raise ConfigError(f"masking: rate {self.rate}, mask {self.mask} and random {self.random} are not shares of a whole")
        if self.unit not in UNITS:
            raise ConfigError(f"masking.unit {self.unit!r} is none of {', '.join(UNITS)}")
        if self.ngram < 1 or self.static_copies < 0 or self.max_predictions < 0:
            raise ConfigError(
                f"masking: ngram {self.ngram} is at least 1, static_copies {self.static_copies} and "
                f"max_predictions {self.max_predictions} at least 0"
            )
        if self.with_replacement and self.unit != "token":
            raise ConfigError(f"masking.with_replacement draws single tokens; take it out, or unit {self.unit!r}")


@dataclass(frozen=True)
class Masker:
    """plain: the ids a random replacement may be, which is every id that is no special; word_start: of each id, None for
    single tokens, which need none."""

    mask_id: int
    plain: I64
    masking: Masking = field(default_factory=Masking)
    word_start: BOOL | None = None

    @classmethod
    def of(cls, vocab: int, specials: dict[str, int], masking: Masking, word_start: BOOL | None = None) -> Masker:
        if masking.unit != "token" and word_start is None:
            raise ConfigError(f"masking.unit {masking.unit!r} needs a tokenizer that knows where words begin")
        plain = np.setdiff1d(np.arange(vocab), np.array(list(specials.values())))
        return cls(specials["mask"], plain.astype(np.int64), masking, word_start)

    def __call__(self, tokens_BL: I64, maskable_BL: NDArray[np.bool_], lengths_B: I64, key_B: U64) -> I64:
        """Change tokens_BL in place; the labels. lengths_B counts the real tokens, specials included, as BERT's budget does."""
        chosen = self.choose(tokens_BL, maskable_BL, lengths_B, key_B)
        row, column = np.nonzero(chosen)
        labels_BL = np.full(tokens_BL.shape, IGNORE, np.int64)
        original = tokens_BL[row, column]
        labels_BL[row, column] = original
        fate = mix((key_B[row] ^ MIX2) + (column.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        shares = (self.masking.mask, self.masking.mask + self.masking.random)
        hide, swap = (np.uint64(min(share, 1.0) * 2**32) for share in shares)
        low = fate & np.uint64(0xFFFFFFFF)  # decides what happens; the upper half says which random token
        shown = np.where(low < swap, self.plain[below(fate, len(self.plain))], original)
        shown[low < hide] = self.mask_id
        tokens_BL[row, column] = shown
        return labels_BL

    def choose(self, tokens_BL: I64, maskable_BL: BOOL, lengths_B: I64, key_B: U64) -> BOOL:
        """The positions to predict. Never more than the budget; fewer only when no word that is left fits into it."""
        wanted = budget(lengths_B, self.masking.rate, self.masking.max_predictions)
        if self.masking.with_replacement:
            return choose_again(maskable_BL, wanted, key_B)
        if self.word_start is None or self.masking.unit == "token":
            return choose(maskable_BL, wanted, key_B)
        words = Words.of(tokens_BL, maskable_BL, self.word_start)
        if self.masking.unit == "word":
            return words.positions(choose_words(words, wanted, key_B))
        return words.positions(choose_spans(words, wanted, key_B, self.masking.ngram) > 0)


def budget(lengths_B: I64, rate: float, most: int = 0) -> I64:
    """round(rate x length), at least one, at most `most` if that is set."""
    wanted: I64 = np.maximum(1, np.floor(lengths_B * rate + 0.5).astype(np.int64))
    return np.minimum(wanted, most) if most else wanted
