"""Short sequences first, long ones later: one feed after another, each for its share of the steps.

Devlin et al. 2019, appendix A.2: 90% of the steps at length 128, the rest at 512, for the long positions alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.feed.batch import Batch
from training.feed.order import StepFeed


def borders(shares: Sequence[float], steps: int) -> list[int]:
    """The first step of each part, and the number of all steps."""
    ends = np.rint(np.cumsum(shares) * steps).astype(int).tolist()
    return [0, *ends[:-1], steps]


class Curriculum:
    """A Feed of several. firsts: the step with which each begins; within a part steps count from there.

    batch_size is that of the largest global batch, for which micro-batches are cut: longer sequences are fewer, the tokens alike.
    """

    def __init__(self, feeds: Sequence[StepFeed], firsts: Sequence[int]) -> None:
        self.feeds, self.firsts = list(feeds), list(firsts)
        self.batch_size = max(feed.batch_size for feed in feeds)
        self.examples, self.steps_per_epoch = feeds[-1].examples, feeds[-1].steps_per_epoch

    def sequences(self, step: int) -> int:
        """In a global batch of as many tokens as this step's, of the shortest sequences: micro-batches are cut by it."""
        feed, own = self.part(step)
        return -(-feed.sequences(own) * self.batch_size // feed.batch_size)

    def slice(self, step: int, rank: int, world: int) -> Batch:
        feed, own = self.part(step)
        return feed.slice(own, rank, world)

    def trace(self, step: int) -> list[tuple[str, int]]:
        feed, own = self.part(step)
        return feed.trace(own)

    def about(self, step: int) -> dict[str, int]:
        feed, own = self.part(step)
        return feed.about(own)

    def part(self, step: int) -> tuple[StepFeed, int]:
        """The feed of a step, and the step's number in it. Steps after the last belong to the last part."""
        number = max(0, int(np.searchsorted(self.firsts, step, side="right")) - 1)
        return self.feeds[number], step - self.firsts[number]
