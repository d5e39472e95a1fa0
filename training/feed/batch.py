"""What one step eats: token ids, and for every objective its labels.

Letters: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IGNORE = -100  # the label of a position nobody has to predict (torch's own default)


@dataclass
class Batch:
    """Labels lie under the name of their objective.

    "next" [B,L]: already shifted, labels[t] is the token after t, IGNORE at the end; "mlm" [B,L]: IGNORE where
    nothing was hidden; "pair" [B]: 0 = as written, 1 = random next (NSP) or swapped (SOP); "class" [B].
    A head divides its summed loss by denominators[name], or by its own count when that is missing.
    """

    tokens_BL: Tensor
    segments_BL: Tensor | None = None
    keep_BL: Tensor | None = None  # True where a real token stands; None = everywhere
    labels: dict[str, Tensor] = field(default_factory=dict)
    denominators: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.tokens_BL.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device, non_blocking=True)

        return replace(
            self,
            tokens_BL=self.tokens_BL.to(device, non_blocking=True),
            segments_BL=move(self.segments_BL),
            keep_BL=move(self.keep_BL),
            labels={name: x.to(device, non_blocking=True) for name, x in self.labels.items()},
            denominators=dict(self.denominators),
        )

    def count(self, name: str) -> int:
        """How many predictions `name` asks for."""
        return int((self.labels[name] != IGNORE).sum())

    def rows(self, start: int, stop: int) -> Batch:
        """Sequences [start, stop) as views. Denominators are left behind: they belong to the whole."""
        return Batch(
            tokens_BL=self.tokens_BL[start:stop],
            segments_BL=None if self.segments_BL is None else self.segments_BL[start:stop],
            keep_BL=None if self.keep_BL is None else self.keep_BL[start:stop],
            labels={name: x[start:stop] for name, x in self.labels.items()},
        )
