"""Shards to batches: the batch of step s is a pure function of (examples, seed, s)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from infra.artifact import Artifact
from infra.errors import ConfigError
from training.feed.batch import Batch

OBJECTIVES = ("next", "mlm", "mlm+nsp", "mlm+sop")


class Feed(Protocol):
    """What the loop asks for. Nothing in it moves: any step may be asked for, in any order, again."""

    steps_per_epoch: int  # rounded up; the stream of train examples runs on over the edge of an epoch
    examples: int
    batch_size: int  # sequences in a global batch

    def slice(self, step: int, rank: int, world: int) -> Batch:
        """This rank's rows of global batch `step`: rows [B*rank//world, B*(rank+1)//world) of the same B for every world.
        In the last batch of a valid feed B may be smaller than batch_size, and so a rank's share may be empty."""
        ...

    def trace(self, step: int) -> list[tuple[str, int]]:
        """Which documents the global batch of `step` holds: (shard name, row in encode's documents side)."""
        ...


@dataclass(frozen=True)
class FeedConfig:
    """length: positions of a sequence. blocks: the block's length ("mlm" also takes block + 2: framed by [CLS] and [SEP])."""

    batch_size: int
    length: int
    seed: int = 0
    objective: str = "next"
    mask_rate: float = 0.15  # Devlin et al. 2019, section 3.1, with the two shares below
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"feed.objective {self.objective!r} is none of {', '.join(OBJECTIVES)}")


def open_feed(examples: Artifact, sentences: Artifact, tokenizer: Artifact, config: FeedConfig, split: str = "train") -> Feed:
    """train: shuffled anew each epoch, masked anew each time. valid: fixed order, fixed masks, last partial batch included."""
    raise ConfigError("the feed is being written")
