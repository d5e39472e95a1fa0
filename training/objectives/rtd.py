"""Replaced-token detection: a small generator proposes, the discriminator doubts (ELECTRA, section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.transformer import ACTIVATIONS, Backbone, Hidden, initialise
from training.feed.batch import IGNORE, Batch
from training.objectives.draw import sample, uniform
from training.objectives.language import LanguageHead
from training.objectives.tower import Head, Losses, Tower, hits, over, read, weigh


class DoubtHead(Head):
    """One score a token: was it replaced? Labels are 1 (replaced), 0 (original), IGNORE (padding)."""

    def __init__(self, name: str, c: BackboneConfig, weight: float = 50.0) -> None:
        super().__init__()
        self.name, self.weight = name, weight
        self.dense, self.scores = nn.Linear(c.width, c.width), nn.Linear(c.width, 1)
        self.activation = ACTIVATIONS[c.activation]
        initialise(self, c)

    def logits(self, hidden: Hidden, at_BL: Tensor | None = None) -> Tensor:
        states = hidden.last_BLD if at_BL is None else hidden.last_BLD[at_BL]
        return self.scores(self.activation(self.dense(states))).squeeze(-1)

    def judge(self, hidden: Hidden, labels: Tensor, denominator: float | None = None) -> tuple[Tensor, Tensor | None]:
        doubt_N, replaced_N = self.predicted(hidden, labels)
        loss = F.binary_cross_entropy_with_logits(doubt_N, replaced_N.float(), reduction="sum") / over(denominator, replaced_N.numel())
        return loss, None if self.training else ((doubt_N.detach() > 0) == replaced_N.bool()).sum()


class GeneratorDiscriminator(Tower):
    """`backbone` is the discriminator: what is kept, exported and fine-tuned."""

    def __init__(self, generator: Backbone, discriminator: Backbone, weight: float = 50.0) -> None:
        share_embedding(generator, discriminator)
        super().__init__(discriminator, [LanguageHead("mlm", generator), DoubtHead("rtd", discriminator.config, weight)])
        self.generator = generator

    def forward(self, batch: Batch) -> Losses:
        guess, doubt = self.heads
        labels_BL = batch.labels["mlm"]
        chosen_BL = labels_BL != IGNORE
        hidden = read(self.generator, batch)
        guesses_NV = guess.logits(hidden, chosen_BL).float()
        wanted_N = labels_BL[chosen_BL]
        guess_loss = F.cross_entropy(guesses_NV, wanted_N, reduction="sum") / over(batch.denominators.get("mlm"), wanted_N.numel())
        corrupt_BL, replaced_BL = corrupt(batch, self.sample(guesses_NV, batch))
        doubt_hidden = read(self.backbone, batch, corrupt_BL)
        doubt_loss, right = doubt.judge(doubt_hidden, replaced_BL, batch.denominators.get("rtd"))
        right_parts = None if right is None else {"mlm": hits(guesses_NV, wanted_N), "rtd": right}
        return weigh({"mlm": (guess.weight, guess_loss), "rtd": (doubt.weight, doubt_loss)}, right_parts)

    def sample(self, logits_NV: Tensor, batch: Batch) -> Tensor:
        """One token a masked place at temperature 1; no gradient passes. A row is drawn alike on whichever rank, and in every exam."""
        chosen_BL = batch.labels["mlm"] != IGNORE
        written_BL = torch.where(chosen_BL, batch.labels["mlm"], batch.tokens_BL)
        return sample(logits_NV, uniform(written_BL, chosen_BL, batch.draws))

    def counts(self, batch: Batch) -> dict[str, int]:
        real = batch.tokens_BL.numel() if batch.keep_BL is None else int(batch.keep_BL.sum())
        return {"mlm": batch.count("mlm"), "rtd": real}

    def language_hidden(self, batch: Batch) -> Hidden:
        """The generator's hidden states: its head scores the vocabulary, the discriminator has none."""
        return read(self.generator, batch)

    @torch.no_grad()
    def detect(self, batch: Batch, logits_NV: Tensor) -> tuple[Tensor, Tensor]:
        """Replaced-token detection on what the generator samples from its scores at the masked positions.

        Returns the discriminator's logits [B, L] (above 0: replaced) and the labels [B, L]: 1 replaced, 0 original, IGNORE padding.
        The sample is a function of the batch alone, so two evaluations of the same model and batch agree.
        """
        corrupt_BL, replaced_BL = corrupt(batch, self.sample(logits_NV, batch))
        return self.head("rtd").logits(read(self.backbone, batch, corrupt_BL)).float(), replaced_BL


def corrupt(batch: Batch, sampled_N: Tensor) -> tuple[Tensor, Tensor]:
    """The discriminator's tokens and labels: a sampled token that equals the original counts as original."""
    labels_BL = batch.labels["mlm"]
    chosen_BL = labels_BL != IGNORE
    original_BL = torch.where(chosen_BL, labels_BL, batch.tokens_BL)
    corrupt_BL = original_BL.masked_scatter(chosen_BL, sampled_N)
    replaced_BL = (corrupt_BL != original_BL).long()
    if batch.keep_BL is not None:
        replaced_BL = replaced_BL.masked_fill(~batch.keep_BL.bool(), IGNORE)
    return corrupt_BL, replaced_BL


def share_embedding(generator: Backbone, discriminator: Backbone) -> None:
    """Tokens, positions, segments and their norm are one block for both; each has its own projection (ELECTRA, section 3.2)."""
    mine, theirs = generator.embedding, discriminator.embedding
    if generator.config.embedding_width != discriminator.config.embedding_width:
        raise ConfigError(
            f"the generator's embedding width {generator.config.embedding_width} differs from the discriminator's "
            f"{discriminator.config.embedding_width}; they share one embedding, so set both alike"
        )
    mine.token, mine.position, mine.segment, mine.norm = theirs.token, theirs.position, theirs.segment, theirs.norm
