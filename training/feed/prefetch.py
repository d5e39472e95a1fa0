"""The next batches, made by threads while the model computes: what is in them does not change, only when they are made.

Threads suffice: numpy lets go of the interpreter where the time is spent (sorting, mixing, copying). Nothing that was made ahead
and not used counts as seen, as a batch depends on its step alone.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from training.feed.batch import Batch
from training.feed.order import Feed, sequences


class Prefetched:
    """A Feed over another. workers: threads, each making one of the next steps' batches; pinned where there is a GPU to copy to."""

    def __init__(self, feed: Feed, workers: int) -> None:
        self.feed, self.workers = feed, workers
        self.batch_size, self.examples, self.steps_per_epoch = feed.batch_size, feed.examples, feed.steps_per_epoch
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="feed")
        self._coming: dict[tuple[int, int, int], Future[Batch]] = {}

    def slice(self, step: int, rank: int, world: int) -> Batch:
        coming = {(step + more, rank, world) for more in range(self.workers + 1)}
        for key in [key for key in self._coming if key not in coming]:
            self._coming.pop(key).cancel()
        for key in sorted(coming - self._coming.keys()):
            self._coming[key] = self._pool.submit(self._made, *key)
        return self._coming[step, rank, world].result()

    def sequences(self, step: int) -> int:
        return sequences(self.feed, step)

    def trace(self, step: int) -> list[tuple[str, int]]:
        return self.feed.trace(step)

    def _made(self, step: int, rank: int, world: int) -> Batch:
        batch = self.feed.slice(step, rank, world)
        return batch.pinned() if torch.cuda.is_available() else batch
