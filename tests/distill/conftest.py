"""Tiny towers and batches for the distillation tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.feed.batch import IGNORE, Batch
from training.objectives.language import LanguageHead
from training.objectives.sequence import SequenceHead
from training.objectives.tower import Tower

VOCAB = 60
BERT = BackboneConfig(
    vocab=VOCAB,
    width=32,
    layers=4,
    heads=4,
    positions=24,
    causal=False,
    norm="post",
    embedding_norm=True,
    segments=2,
    dropout=0.1,
    init_std=0.2,
)
GPT = BackboneConfig(
    vocab=VOCAB,
    width=32,
    layers=4,
    heads=4,
    positions=24,
    causal=True,
    norm="pre",
    embedding_norm=False,
    activation="gelu_tanh",
    dropout=0.1,
    init_std=0.2,
)


def tower(config: BackboneConfig, seed: int = 0) -> Tower:
    """Every parameter random, biases and norms too: a forgotten one shows."""
    torch.manual_seed(seed)
    backbone = Backbone(config)
    heads = [LanguageHead("next", backbone)] if config.causal else [LanguageHead("mlm", backbone), SequenceHead("pair", config, 2)]
    made = Tower(backbone, heads)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return made


def batch(config: BackboneConfig, rows: int = 6, length: int = 16, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCAB, (rows, length), generator=rng)
    keep = torch.arange(length)[None] < torch.randint(4, length + 1, (rows, 1), generator=rng)
    tokens = tokens.masked_fill(~keep, 0)
    if config.causal:
        labels = torch.cat([tokens[:, 1:], torch.full((rows, 1), IGNORE)], 1).masked_fill(~keep, IGNORE)
        labels = labels.masked_fill(torch.cat([~keep[:, 1:], torch.ones(rows, 1, dtype=torch.bool)], 1), IGNORE)
        return Batch(tokens, None, keep, {"next": labels})
    chosen = (torch.rand(tokens.shape, generator=rng) < 0.3) & keep
    segments = (torch.arange(length)[None] >= length // 2).long().repeat(rows, 1)
    return Batch(
        tokens.masked_fill(chosen, 3), segments, keep, {"mlm": tokens.masked_fill(~chosen, IGNORE), "pair": torch.arange(rows) % 2}
    )


@pytest.fixture(params=["bert", "gpt"])
def config(request: pytest.FixtureRequest) -> BackboneConfig:
    return BERT if request.param == "bert" else GPT


@pytest.fixture
def make_tower() -> Callable[..., Tower]:
    return tower


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    return batch
