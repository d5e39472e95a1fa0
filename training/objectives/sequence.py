"""One label for a whole sequence: NSP, SOP, and every classification task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from training.backbone.config import BackboneConfig
from training.backbone.transformer import ACTIVATIONS, Hidden, initialise
from training.objectives.tower import Head

Pool = Literal["tanh", "gelu", "relu", "none"]
POOLS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": ACTIVATIONS["gelu"], "relu": ACTIVATIONS["relu"]}


class SequenceHead(Head):
    """Reads one place (0: the first token; -1: the last real one), pools it, scores the classes.

    The pooler is BERT's dense + tanh; ELECTRA has gelu, DistilBERT relu, GPT none (and no bias).
    """

    def __init__(
        self,
        name: str,
        c: BackboneConfig,
        classes: int,
        weight: float = 1.0,
        *,
        position: int = 0,
        pool: Pool = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.name, self.weight, self.position, self.classes = name, weight, position, classes
        self.pool = None if pool == "none" else nn.Linear(c.width, c.width)
        self.activation = POOLS.get(pool)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(c.width, classes, bias=pool != "none")
        initialise(self, c)

    def take_pooler(self, other: SequenceHead) -> None:
        """Start from another head's pooler, where both have one of the same kind."""
        if self.pool is not None and other.pool is not None and self.activation is other.activation:
            self.pool.load_state_dict(other.pool.state_dict())

    def read(self, hidden: Hidden) -> Tensor:
        """The hidden state [B, D] at the head's place."""
        if self.position >= 0 or hidden.keep_BL is None:
            return hidden.last_BLD[:, self.position]
        places_L = torch.arange(hidden.keep_BL.shape[1], device=hidden.keep_BL.device)
        last_B = (places_L * hidden.keep_BL.long()).argmax(-1)
        return hidden.last_BLD[torch.arange(len(last_B), device=last_B.device), last_B]

    def logits(self, hidden: Hidden, at_BL: Tensor | None = None) -> Tensor:
        """Scores [B, C]; `at_BL` here chooses rows [B], or in packed rows the places [B, L] where sequences are read."""
        packed = at_BL is not None and at_BL.dim() == 2
        x_BD = hidden.last_BLD[at_BL] if packed else self.read(hidden) if at_BL is None else self.read(hidden)[at_BL]
        if self.pool is not None and self.activation is not None:
            x_BD = self.activation(self.pool(x_BD))
        return self.scores(self.dropout(x_BD))
