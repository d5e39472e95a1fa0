"""GPT-3's alternating dense and locally banded attention (Brown et al. 2020, section 2.1), against loops over pairs of positions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.backbone.attention import Attention, Sight
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.families.catalog import family

SMALL = BackboneConfig(vocab=30, width=16, layers=4, heads=2, positions=16, causal=True, norm="pre", embedding_norm=False, band=3)


def sees(layer: int, query: int, key: int, band: int) -> bool:
    """Layers 0, 2, 4 … are dense; 1, 3, 5 … see the latest `band` positions, their own included."""
    return key <= query and (layer % 2 == 0 or not band or query - key < band)


@settings(max_examples=60, deadline=None)
@given(layer=st.integers(0, 3), band=st.integers(0, 14), length=st.integers(1, 12), seed=st.integers(0, 9))
def test_the_mask_is_what_loops_say(layer: int, band: int, length: int, seed: int) -> None:
    keep = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) < 0.8
    sight = Sight(replace(SMALL, band=band), torch.zeros(2, length, dtype=torch.long), keep)
    mask = sight.mask(layer)
    assert mask is not None
    whole = mask.expand(2, 1, length, length)[:, 0]
    for row in range(2):
        wanted = [[sees(layer, q, k, band) and bool(keep[row, k]) for k in range(length)] for q in range(length)]
        assert whole[row].tolist() == wanted


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layer", [0, 1])
@torch.no_grad()
def test_attention_is_what_loops_compute(layer: int, padded: bool, written_out: bool) -> None:
    torch.manual_seed(0)
    attention, x_BLD = Attention(SMALL).eval(), torch.randn(2, 10, 16)
    for parameter in attention.parameters():
        parameter.normal_(std=0.5)
    keep = torch.arange(10)[None] < torch.tensor([10, 6])[:, None] if padded else None
    found, _ = attention(x_BLD, Sight(SMALL, torch.zeros(2, 10, dtype=torch.long), keep), layer, written_out)
    q, k, v = attention.qkv(x_BLD).view(2, 10, 3, 2, 8).unbind(2)
    for row in range(2):
        for query in range(10 if keep is None else int(keep[row].sum())):
            mixed = []
            for head in range(2):
                keys = [j for j in range(10) if sees(layer, query, j, 3) and (keep is None or keep[row, j])]
                weights = torch.stack([q[row, query, head] @ k[row, j, head] / math.sqrt(8) for j in keys]).softmax(0)
                mixed.append(sum(w * v[row, j, head] for w, j in zip(weights, keys, strict=True)))
            torch.testing.assert_close(found[row, query], attention.out(torch.cat(mixed)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_through_two_layers_a_far_token_is_seen_by_the_dense_layer_alone() -> None:
    torch.manual_seed(0)
    backbone = Backbone(replace(SMALL, layers=2, init_std=0.3)).eval()
    tokens = torch.randint(30, (1, 12))
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % 30
    assert not torch.equal(backbone(tokens).last_BLD[:, -1], backbone(other).last_BLD[:, -1]), "layer 0 is dense"
    backbone.blocks[0].attention.out.weight.zero_()  # now layer 0 mixes nothing
    assert torch.equal(backbone(tokens).last_BLD[:, 3:], backbone(other).last_BLD[:, 3:]), "layer 1 sees three positions"


def test_gpt3_is_dense_unless_a_recipe_says_otherwise() -> None:
    assert {c.band for c in family("gpt3").sizes.values()} == {0}
    tower = family("gpt3").build(replace(family("gpt3").sizes["tiny"], vocab=50, width=16, ffn=64, embedding_width=16, heads=2, band=128))
    assert [tower.config.band, *(Sight(tower.config, torch.zeros(1, 200), None).band_of(i) for i in range(4))] == [128, 0, 128, 0, 128]
