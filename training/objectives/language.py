"""Next token and masked token: one kind of head that scores the vocabulary with the embedding matrix itself."""

from __future__ import annotations

from torch import Tensor, nn

from training.backbone.transformer import ACTIVATIONS, Backbone, Hidden, initialise
from training.feed.batch import IGNORE
from training.objectives.tower import Head, over
from training.objectives.vocabulary import Vocabulary


class Transform(nn.Module):
    """BERT's step before the vocabulary: dense, activation, norm, at the embedding's width (ALBERT, ELECTRA)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        c = backbone.config
        self.dense, self.norm = nn.Linear(c.width, c.embedding_width), nn.LayerNorm(c.embedding_width, c.eps)
        self.activation = ACTIVATIONS[c.head_activation or c.activation]
        initialise(self, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


class LanguageHead(Head):
    """Models that read both ways have the transform and a bias of their own; those that read one way have neither."""

    def __init__(self, name: str, backbone: Backbone, weight: float = 1.0) -> None:
        super().__init__()
        c = backbone.config
        self.name, self.weight = name, weight
        self.transform = nn.Identity() if c.causal else Transform(backbone)
        embedding = backbone.embedding.token.weight
        self.scores = Vocabulary(c.embedding_width, c.vocab_rows, bias=not c.causal, device="meta" if c.tied else embedding.device)
        self.scores.retained = c.vocab
        if c.tied:
            self.scores.weight = embedding  # one parameter under two names
        else:
            initialise(self.scores, c)
        if self.scores.bias is not None:
            self.scores.bias = nn.Parameter(embedding.new_zeros(c.vocab_rows))

    def logits(self, hidden: Hidden, at_BL: Tensor | None = None) -> Tensor:
        states = hidden.last_BLD if at_BL is None else hidden.last_BLD[at_BL]
        return self.scores(self.transform(states))

    def judge(self, hidden: Hidden, labels: Tensor, denominator: float | None = None) -> tuple[Tensor, Tensor | None]:
        """As any head's, but the scores of all places never stand in memory at once."""
        states, labels_N = hidden.last_BLD.flatten(0, -2), labels.flatten()
        at_N = (labels_N != IGNORE).nonzero().squeeze(1)
        if len(at_N) < len(labels_N):
            states, labels_N = states.index_select(0, at_N), labels_N[at_N]
        loss, right = self.scores(self.transform(states), labels_N, count_hits=not self.training)
        return loss / over(denominator, len(labels_N)), right
