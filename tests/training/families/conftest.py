"""A model of ours and the library's, with the same random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from training.backbone.config import BackboneConfig
from training.families.catalog import family
from training.feed.batch import IGNORE, Batch
from training.objectives.tower import Tower

SMALL: dict[str, Any] = {"vocab": 61, "width": 32, "layers": 3, "heads": 4, "ffn": 0, "embedding_width": 0, "positions": 24}


def small_config(name: str, **changes: Any) -> BackboneConfig:
    """The family's first size, shrunk."""
    return replace(next(iter(family(name).sizes.values())), **{**SMALL, **changes})


def disturb(model: torch.nn.Module, seed: int) -> None:
    """Weights of deviation 0.2, norms and biases away from 1 and 0: at 0.02 a wrong GELU hides below 1e-5."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=rng) * 0.2
            is_norm = "norm" in name.lower() or ".ln_" in name
            parameter.copy_(noise + 1.0 if is_norm and name.endswith("weight") else noise)


LENGTHS = (20, 13, 7, 1)


def make_batch(
    config: BackboneConfig, names: list[str], seed: int, padded: bool, segmented: bool = True, lengths: tuple[int, ...] = LENGTHS
) -> Batch:
    rng = torch.Generator().manual_seed(seed + 100)
    rows, length = len(lengths), 20
    tokens = torch.randint(5, config.vocab, (rows, length), generator=rng)
    keep = None
    if padded:
        keep = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
        tokens = tokens.masked_fill(~keep, 1)
    segments = (torch.arange(length)[None] >= 8).long().expand(rows, -1) if config.segments == 2 and segmented else None
    real = torch.ones(rows, length, dtype=torch.bool) if keep is None else keep
    labels: dict[str, torch.Tensor] = {}
    if "next" in names:
        following = torch.cat([tokens[:, 1:], torch.full((rows, 1), IGNORE)], 1)
        labels["next"] = following.masked_fill(~torch.cat([real[:, 1:], torch.zeros(rows, 1, dtype=torch.bool)], 1), IGNORE)
    if "mlm" in names:
        chosen = (torch.rand(rows, length, generator=rng) < 0.3) & real
        chosen[0, 3] = True
        labels["mlm"] = torch.randint(5, config.vocab, (rows, length), generator=rng).masked_fill(~chosen, IGNORE)
    for name in ("pair", "class"):
        if name in names:
            labels[name] = torch.tensor([0, 1, 1, 0] * rows)[:rows]
    return Batch(tokens, segments, keep, labels)


def theirs_for(tower: Tower, folder: Path) -> torch.nn.Module:
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(folder, attn_implementation="eager").eval()


def inputs(batch: Batch) -> dict[str, torch.Tensor]:
    out = {"input_ids": batch.tokens_BL}
    if batch.keep_BL is not None:
        out["attention_mask"] = batch.keep_BL.long()
    if batch.segments_BL is not None:
        out["token_type_ids"] = batch.segments_BL
    return out


@pytest.fixture
def reference() -> SimpleNamespace:
    return SimpleNamespace(small_config=small_config, disturb=disturb, make_batch=make_batch, theirs_for=theirs_for, inputs=inputs)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
