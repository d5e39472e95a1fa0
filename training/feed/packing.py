"""Several short sequences in one row, so that little is computed for padding: which stands where, and the batch moved there.

What is in a step stays the same: the sequences of the padded batch, their masks and labels, only laid out in fewer rows. The
layout follows from the lengths of the whole global batch, which every rank knows from the plan without reading a token.
Letters: N sequences, R rows, W width of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.feed.batch import IGNORE, Batch
from training.feed.views import I64, spans


@dataclass(frozen=True)
class Layout:
    """row_N, at_N: the row of each sequence and the place where it begins; number_N: how many stand before it in its row."""

    row_N: I64
    at_N: I64
    number_N: I64
    rows: int

    def share(self, rank: int, world: int) -> tuple[I64, Layout]:
        """Which sequences lie in this rank's rows, [R*rank//world, R*(rank+1)//world), and their layout there."""
        first, last = self.rows * rank // world, self.rows * (rank + 1) // world
        mine = np.flatnonzero((self.row_N >= first) & (self.row_N < last))
        return mine, Layout(self.row_N[mine] - first, self.at_N[mine], self.number_N[mine], last - first)


def pack(lengths_N: I64, width: int) -> Layout:
    """Longest first, each into the fullest row that has room for it (best fit decreasing; Johnson 1973 bounds it by 11/9 of the
    fewest rows). A set bit r of `open_` says that some row has r places left: the lowest one that is high enough is the fullest.
    """
    order = np.argsort(-lengths_N, kind="stable").tolist()
    row, at, number = (np.zeros(len(order), np.int64) for _ in range(3))
    waiting: dict[int, list[tuple[int, int]]] = {}  # by what is left: (row, sequences in it)
    open_, rows, sizes = 0, 0, lengths_N.tolist()
    for one in order:
        size = sizes[one]
        fitting = open_ >> size
        if fitting:
            left = size + ((fitting & -fitting).bit_length() - 1)
            place, count = waiting[left].pop()
            if not waiting[left]:
                open_ ^= 1 << left
        else:
            left, place, count, rows = width, rows, 0, rows + 1
        row[one], at[one], number[one] = place, width - left, count
        if left > size:
            waiting.setdefault(left - size, []).append((place, count + 1))
            open_ |= 1 << (left - size)
    return Layout(row, at, number, rows)


def move(batch: Batch, lengths_N: I64, layout: Layout, pad: int) -> Batch:
    """The sequences of a padded batch in their packed places. Positions count from each sequence's beginning."""
    wide, shape = batch.tokens_BL.shape[1], (layout.rows, batch.tokens_BL.shape[1])
    begins = layout.row_N * wide + layout.at_N
    origin = np.full(layout.rows * wide, -1, np.int64)  # where the padded batch holds what belongs here; nowhere for padding
    origin[spans(begins, lengths_N)] = spans(np.arange(len(lengths_N)) * wide, lengths_N)
    empty = np.flatnonzero(origin < 0)

    def moved(values: Tensor, fill: int) -> NDArray[Any]:
        found = values.numpy().reshape(-1).take(origin, mode="wrap") if len(lengths_N) else np.full(0, fill)
        found[empty] = fill
        return found.reshape(shape)

    def labelled(values: Tensor) -> NDArray[Any]:
        if values.dim() == 2:
            return moved(values, IGNORE)
        found = np.full(layout.rows * wide, IGNORE, np.int64)  # one label a sequence: at its first token
        found[begins] = values.numpy()
        return found.reshape(shape)

    numbers = np.append(layout.number_N, 0)[origin // wide]
    parts = numbers if batch.parts_BL is None else numbers * wide + moved(batch.parts_BL, 0).reshape(-1)
    parts[empty] = -1
    places = origin % wide if batch.places_BL is None else moved(batch.places_BL, 0).reshape(-1)
    places[empty] = 0
    return Batch(
        torch.from_numpy(moved(batch.tokens_BL, pad)),
        None if batch.segments_BL is None else torch.from_numpy(moved(batch.segments_BL, 0)),
        torch.from_numpy(parts.reshape(shape) >= 0),
        {name: torch.from_numpy(labelled(values)) for name, values in batch.labels.items()},
        parts_BL=torch.from_numpy(parts.reshape(shape)),
        places_BL=torch.from_numpy(places.reshape(shape)),
    )
