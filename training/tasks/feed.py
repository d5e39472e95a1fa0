"""Task examples as batches: like every feed a pure function of (examples, seed, step), the same rows for any number of ranks.

Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.tokenizer.frame import Encoded
from infra.errors import ConfigError
from training.feed.batch import Batch
from training.objectives.tower import Tower

LABEL = "class"  # the name of the labels in Batch.labels, and of the head that reads them
_ROUND = 8  # lengths are rounded up to this, so that few different shapes occur


class TaskFeed:
    """shuffle: training, a new order in every epoch, the stream running over its edge. Else: file order, last batch partial."""

    def __init__(
        self,
        encoded: Sequence[Encoded],
        classes: Sequence[int],
        *,
        batch_size: int,
        length: int,
        pad: int,
        segments: bool,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        if not encoded or len(encoded) != len(classes) or batch_size < 1:
            said = f"{len(encoded)} examples with {len(classes)} labels in batches of {batch_size}"
            raise ConfigError(f"{said} cannot be fed: all must be positive, every example has one label")
        self.encoded, self.classes = encoded, np.asarray(classes, dtype=np.int64)
        self.examples, self.batch_size = len(encoded), batch_size
        self.steps_per_epoch = -(-self.examples // batch_size)
        self.length, self.pad, self.segments, self.seed, self.shuffle = length, pad, segments, seed, shuffle

    def slice(self, step: int, rank: int, world: int) -> Batch:
        """Padded to the longest of the whole global batch, so that a row looks the same on every rank."""
        rows = self.rows(step)
        longest = max(len(self.encoded[row].tokens) for row in rows)
        wide = min(self.length, -(-longest // _ROUND) * _ROUND)
        return self._batch(rows[len(rows) * rank // world : len(rows) * (rank + 1) // world], wide)

    def trace(self, step: int) -> list[tuple[str, int]]:
        return [("task", int(row)) for row in self.rows(step)]

    def rows(self, step: int) -> NDArray[np.int64]:
        """Which examples the global batch of `step` holds."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        if not self.shuffle:
            return places[places < self.examples]
        epochs, within = np.divmod(places, self.examples)
        return np.concatenate([self._order(int(epoch))[within[epochs == epoch]] for epoch in np.unique(epochs)])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(self.examples)

    def _batch(self, rows: NDArray[np.int64], wide: int) -> Batch:
        tokens_BL = np.full((len(rows), wide), self.pad, dtype=np.int64)
        segments_BL, keep_BL = np.zeros_like(tokens_BL), np.zeros((len(rows), wide), dtype=bool)
        for place, row in enumerate(rows):
            one = self.encoded[row]
            end = len(one.tokens)
            tokens_BL[place, :end], segments_BL[place, :end], keep_BL[place, :end] = one.tokens, one.segments, True
        return Batch(
            torch.from_numpy(tokens_BL),
            torch.from_numpy(segments_BL) if self.segments else None,
            torch.from_numpy(keep_BL),
            {LABEL: torch.from_numpy(self.classes[rows])},
        )


@torch.no_grad()
def predict(tower: Tower, feed: TaskFeed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The true and the predicted class of every example, in the file's order; dropout off, every example once.

    A true class that the model does not know is IGNORE, which is negative.
    """
    tower.eval()
    gold, said = [], []
    for step in range(feed.steps_per_epoch):
        batch = feed.slice(step, 0, 1)
        gold.append(batch.labels[LABEL].numpy())
        said.append(tower.head(LABEL).logits(tower.hidden(batch)).float().argmax(-1).numpy())
    return np.concatenate(gold), np.concatenate(said)
