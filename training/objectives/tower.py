"""A tower turns a batch into losses: the training loop knows nothing else about a model.

Letters: B batch, L length, D width, N predicted places, C classes (or vocabulary).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone, Hidden
from training.feed.batch import IGNORE, Batch


@dataclass
class Losses:
    """`total` is what the loop descends; the rest is for people and carries no gradient."""

    total: Tensor
    parts: dict[str, Tensor]  # each loss by name, unweighted, normalised as in `total`
    hits: dict[str, Tensor] = field(default_factory=dict)  # right predictions, a count; filled in evaluation mode only


class Head(nn.Module):
    """Looks at hidden states and at its own labels, and says how wrong it is."""

    name: str
    weight: float = 1.0

    def logits(self, hidden: Hidden, at_BL: Tensor | None = None) -> Tensor:
        """Scores at every place, or only where `at_BL` is True (then [N, C])."""
        raise TypeError(f"{type(self).__name__} must say how it scores")

    def predicted(self, hidden: Hidden, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 scores [N, C] and labels [N] of the places that have a label."""
        at = labels != IGNORE
        return self.logits(hidden, at).float(), labels[at]

    def forward(self, hidden: Hidden, labels: Tensor, denominator: float | None = None) -> Tensor:
        """The sum over predicted places, divided by `denominator`, or else by their number."""
        return self.judge(hidden, labels, denominator)[0]

    def judge(self, hidden: Hidden, labels: Tensor, denominator: float | None = None) -> tuple[Tensor, Tensor | None]:
        """The loss, and in evaluation mode the number of right answers."""
        scores_NC, labels_N = self.predicted(hidden, labels)
        loss = F.cross_entropy(scores_NC, labels_N, reduction="sum") / over(denominator, labels_N.numel())
        return loss, None if self.training else hits(scores_NC, labels_N)


class Tower(nn.Module):
    """Backbone and heads: a batch goes in, losses come out."""

    def __init__(self, backbone: Backbone, heads: Iterable[Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = cast("list[Head]", nn.ModuleList(heads))

    @property
    def config(self) -> BackboneConfig:
        return self.backbone.config

    def head(self, name: str) -> Head:
        for head in self.heads:
            if head.name == name:
                return head
        raise ConfigError(f"this model has no head `{name}`; it has {[h.name for h in self.heads]}")

    def hidden(self, batch: Batch, *, every_layer: bool = False, attention_scores: bool = False) -> Hidden:
        return read(self.backbone, batch, every_layer=every_layer, attention_scores=attention_scores)

    def forward(self, batch: Batch) -> Losses:
        hidden = self.hidden(batch)
        judged = {h.name: (h.weight, *h.judge(hidden, batch.labels[h.name], batch.denominators.get(h.name))) for h in self.heads}
        return weigh({n: (w, x) for n, (w, x, _) in judged.items()}, {n: k for n, (_, _, k) in judged.items() if k is not None})

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many places each part of the loss predicts in this batch: what denominators are made of."""
        return {head.name: batch.count(head.name) for head in self.heads}

    def language_hidden(self, batch: Batch) -> Hidden:
        """Hidden states that the language head reads: the backbone's own, unless the model has a second one for them."""
        return self.hidden(batch)

    def language_logits(self, batch: Batch, at_BL: Tensor | None = None) -> Tensor:
        """Vocabulary scores [B, L, V], or [N, V] where `at_BL` is True."""
        return self.language_head().logits(self.language_hidden(batch), at_BL)

    def language_head(self) -> Head:
        """The head that scores the vocabulary: the next token's or the masked one's."""
        names = [h.name for h in self.heads if h.name in ("next", "mlm")]
        return self.head(names[0] if names else "next")


def read(backbone: Backbone, batch: Batch, tokens_BL: Tensor | None = None, **asked: bool) -> Hidden:
    """A backbone's hidden states of a batch, or of other tokens in the places of the batch's."""
    tokens_BL = batch.tokens_BL if tokens_BL is None else tokens_BL
    hidden: Hidden = backbone(tokens_BL, batch.segments_BL, batch.keep_BL, parts_BL=batch.parts_BL, places_BL=batch.places_BL, **asked)
    return hidden


def weigh(parts: Mapping[str, tuple[float, Tensor]], right: Mapping[str, Tensor] | None = None) -> Losses:
    """Parts (weight, loss) to one total."""
    total = torch.stack([weight * loss for weight, loss in parts.values()]).sum()
    return Losses(total, {name: loss.detach() for name, (_, loss) in parts.items()}, dict(right or {}))


def over(denominator: float | None, own: int) -> float:
    """What a sum is divided by; a batch in which nothing is predicted has loss 0, not NaN."""
    return float(denominator) if denominator is not None else float(max(own, 1))


@torch.no_grad()
def hits(scores_NC: Tensor, labels_N: Tensor) -> Tensor:
    """How often the highest score is the label's."""
    return (scores_NC.argmax(-1) == labels_N).sum()
