"""What one step eats: token ids, and for every objective its labels.

Letters: B sequences, L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

IGNORE = -100  # the label of a position nobody has to predict (torch's own default)
ROWS = ("tokens_BL", "segments_BL", "keep_BL", "parts_BL", "places_BL")  # the tensors of a batch, beside its labels


@dataclass
class Batch:
    """Labels lie under the name of their objective.

    "next" [B,L]: already shifted, labels[t] is the token after t, IGNORE at the end; "mlm" [B,L]: IGNORE where
    nothing was hidden; "pair" [B]: 0 = as written, 1 = random next (NSP) or swapped (SOP); "class" [B].
    In packed rows "pair" is [B,L]: IGNORE but at the first token of each sequence.
    A head divides its summed loss by denominators[name], or by its own count when that is missing.
    """

    tokens_BL: Tensor
    segments_BL: Tensor | None = None
    keep_BL: Tensor | None = None  # True where a real token stands; None = everywhere
    labels: dict[str, Tensor] = field(default_factory=dict)
    denominators: dict[str, float] = field(default_factory=dict)
    parts_BL: Tensor | None = None  # which of a row's sequences a token is of: it sees that one only; -1: padding. None = one sequence
    places_BL: Tensor | None = None  # each token's place in its own sequence; None = its place in the row
    draws: int = 0  # what draws that must not depend on how rows are shared out follow from, beside the row; an exam's is always 0

    def __len__(self) -> int:
        return int(self.tokens_BL.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while it computes. Needs one."""
        return self._each(Tensor.pin_memory)

    def _each(self, do: Callable[[Tensor], Tensor]) -> Batch:
        """A batch with every tensor changed."""
        changed: dict[str, Any] = {name: do(x) for name in ROWS if (x := getattr(self, name)) is not None}
        return replace(self, **changed, labels={name: do(x) for name, x in self.labels.items()}, denominators=dict(self.denominators))

    def count(self, name: str) -> int:
        """How many predictions `name` asks for."""
        return int((self.labels[name] != IGNORE).sum())

    def rows(self, start: int, stop: int) -> Batch:
        """Sequences [start, stop) as views. Denominators are left behind: they belong to the whole."""
        return replace(self._each(lambda x: x[start:stop]), denominators={})

    def blank(self) -> Batch:
        """One sequence of the same length in which nothing is to be predicted: for a rank with nothing to do beside others that have.

        All of it is padding (ELECTRA predicts at every real token), and one part, so that no position is left without any to see.
        """
        tensors = {name: x.new_zeros((1, *x.shape[1:])) for name in ROWS if (x := getattr(self, name)) is not None}
        nowhere = torch.zeros_like(tensors["tokens_BL"])
        tensors |= {"keep_BL": nowhere.bool(), "parts_BL": nowhere}
        return Batch(**tensors, labels={name: x.new_full((1, *x.shape[1:]), IGNORE) for name, x in self.labels.items()})
