"""What a recipe may say about deduplication."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.corpus import minhash
from infra.artifact import how
from infra.errors import ConfigError

SURVIVOR_RULES = ("longest", "karma", "id")


@dataclass(frozen=True)
class DedupConfig:
    """jaccard: threshold of near duplicates, 1 for exact duplicates only. survivor: who stays, first difference decides.

    paragraphs: of the documents that stay, cut every paragraph (line) of at least paragraph_min_words words that stands elsewhere
    too; it stays where it comes first in the survivors' order. A document cut to fewer words than that goes.
    partition: rows that one task sorts in memory at once, some 100 bytes each.
    """

    jaccard: float = 0.8
    permutations: int = 112
    ngram: int = 5
    survivor: tuple[str, ...] = SURVIVOR_RULES
    paragraphs: bool = False
    paragraph_min_words: int = 8
    partition: int = how(1 << 21)

    def __post_init__(self) -> None:
        """Raises ConfigError on what cannot be done."""
        if not 0 < self.jaccard <= 1:
            raise ConfigError(f"dedup: jaccard {self.jaccard} is no similarity; choose one above 0 and up to 1")
        for name in ("permutations", "ngram", "paragraph_min_words", "partition"):
            if getattr(self, name) < 1:
                raise ConfigError(f"dedup: {name} ({getattr(self, name)}) must be at least 1")
        if unknown := [name for name in self.survivor if name not in SURVIVOR_RULES]:
            raise ConfigError(f"dedup: survivor has no rule {unknown[0]!r}; choose from {', '.join(SURVIVOR_RULES)}")

    @property
    def near(self) -> bool:
        return self.jaccard < 1

    @property
    def bands(self) -> tuple[int, int]:
        return minhash.bands(self.jaccard, self.permutations)
