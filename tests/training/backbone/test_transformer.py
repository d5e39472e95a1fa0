from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from infra.errors import ConfigError
from training.backbone import attention
from training.backbone.attention import Sight, attend
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone, count_parameters

GPT = BackboneConfig(vocab=50, width=32, layers=3, heads=4, positions=24, causal=True, norm="pre", embedding_norm=False, eps=1e-5)
BERT = replace(GPT, causal=False, norm="post", embedding_norm=True, segments=2, eps=1e-12)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def noisy(config: BackboneConfig) -> Backbone:
    backbone = Backbone(config).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return backbone


def padding(rows: int, length: int, left: bool = False) -> torch.Tensor:
    keep = torch.arange(length)[None] < torch.linspace(length, 2, rows).long()[:, None]
    return keep.flip(1) if left else keep


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("config", [GPT, BERT, replace(GPT, band=5)], ids=["gpt", "bert", "banded"])
def test_written_out_attention_and_the_kernel_agree_in_value_and_gradient(config: BackboneConfig, left: bool) -> None:
    backbone, tokens, keep = noisy(config), torch.randint(50, (4, 20)), padding(4, 20, left)
    found = []
    for scores in (False, True):
        backbone.zero_grad()
        last = backbone(tokens, None, keep, attention_scores=scores).last_BLD
        (last[keep] ** 2).sum().backward()
        found.append((last.detach()[keep], backbone.blocks[0].attention.qkv.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=0)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-3, rtol=1e-4)


def test_scores_are_those_before_mask_and_softmax() -> None:
    backbone, tokens = noisy(GPT), torch.randint(50, (2, 9))
    hidden = backbone(tokens, attention_scores=True, every_layer=True)
    assert len(hidden.scores) == 3 and len(hidden.layers) == 4
    first = backbone.blocks[0]
    q, k, _ = first.attention.qkv(first.attention_norm(hidden.layers[0])).chunk(3, -1)
    by_hand = q[0, :, :8] @ k[0, :, :8].T / math.sqrt(8)
    torch.testing.assert_close(hidden.scores[0][0, 0], by_hand)
    assert (hidden.scores[0] < 0).any() and torch.isfinite(hidden.scores[0]).all()


def test_hidden_states_are_there_only_when_asked_for() -> None:
    hidden = noisy(BERT)(torch.randint(50, (2, 9)))
    assert hidden.layers == () and hidden.scores == ()


def test_a_later_token_never_changes_an_earlier_place() -> None:
    backbone, tokens = noisy(GPT), torch.randint(50, (2, 20))
    other = tokens.clone()
    other[:, 12:] = (other[:, 12:] + 1) % 50
    assert torch.equal(backbone(tokens).last_BLD[:, :12], backbone(other).last_BLD[:, :12])
    assert not torch.equal(backbone(tokens).last_BLD[:, 12:], backbone(other).last_BLD[:, 12:])


@pytest.mark.parametrize("config", [GPT, BERT, replace(BERT, position_offset=2)], ids=["gpt", "bert", "roberta"])
def test_what_stands_in_padding_changes_nothing(config: BackboneConfig) -> None:
    backbone, tokens, keep = noisy(config), torch.randint(50, (4, 20)), padding(4, 20)
    other = torch.where(keep, tokens, (tokens + 7) % 50)
    a, b = backbone(tokens, None, keep).last_BLD, backbone(other, None, keep).last_BLD
    torch.testing.assert_close(a[keep], b[keep], atol=0, rtol=0)
    short = backbone(tokens[3:, :2]).last_BLD
    torch.testing.assert_close(a[3:, :2], short, atol=1e-5, rtol=0)


def test_with_an_offset_left_and_right_padding_give_the_same_states() -> None:
    backbone = noisy(replace(BERT, position_offset=2))
    tokens, pads = torch.randint(50, (2, 6)), torch.zeros(2, 4, dtype=torch.long)
    keep = torch.ones(2, 6, dtype=torch.bool)
    right = backbone(torch.cat([tokens, pads], 1), None, torch.cat([keep, pads.bool()], 1)).last_BLD[:, :6]
    left = backbone(torch.cat([pads, tokens], 1), None, torch.cat([pads.bool(), keep], 1)).last_BLD[:, 4:]
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("config", [GPT, BERT], ids=["gpt", "bert"])
def test_a_row_of_padding_alone_stays_finite(config: BackboneConfig, scores: bool) -> None:
    keep = padding(3, 8)
    keep[1] = False
    assert torch.isfinite(noisy(config)(torch.randint(50, (3, 8)), None, keep, attention_scores=scores).last_BLD).all()


def test_banded_layers_see_the_latest_positions_and_dense_ones_all() -> None:
    sight = Sight(replace(GPT, band=3), torch.zeros(1, 8, dtype=torch.long), None)
    places = torch.arange(8)
    distance = places[:, None] - places[None]
    assert torch.equal(sight.mask(1), (distance >= 0) & (distance < 3))
    assert torch.equal(sight.mask(0), distance >= 0)
    assert sight.fused(0) == (None, True)


def test_attention_is_the_equation() -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind(0)
    mixed, scores = attend(q, k, v, None, 0.0)
    torch.testing.assert_close(mixed, F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(scores, torch.einsum("bhik,bhjk->bhij", q, k) / math.sqrt(8))


def test_dropout_is_in_training_at_every_place_and_never_in_evaluation() -> None:
    tokens = torch.randint(50, (2, 12))
    backbone = noisy(replace(BERT, dropout=0.5))
    assert torch.equal(backbone(tokens).last_BLD, backbone(tokens).last_BLD)
    places = [backbone.embedding.dropout, *(b.dropout for b in backbone.blocks)]
    for place in [*places, "attention"]:
        backbone.eval()
        if place == "attention":
            backbone.blocks[0].attention.train()
        else:
            place.train()
        assert not torch.equal(backbone(tokens).last_BLD, backbone(tokens).last_BLD), place


def test_dropout_zero_changes_nothing_in_training() -> None:
    backbone, tokens = noisy(replace(BERT, dropout=0.0)), torch.randint(50, (2, 12))
    assert torch.equal(backbone.train()(tokens).last_BLD, backbone.eval()(tokens).last_BLD)


def test_a_sequence_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="25 tokens are more than the model's 24 positions"):
        Backbone(GPT)(torch.zeros(1, 25, dtype=torch.long))


def test_one_segment_row_serves_every_segment_and_no_row_ignores_them() -> None:
    tokens, segments = torch.randint(50, (2, 8)), torch.tensor([[0] * 4 + [1] * 4] * 2)
    for rows in (0, 1):
        backbone = noisy(replace(BERT, segments=rows))
        assert torch.equal(backbone(tokens, segments).last_BLD, backbone(tokens).last_BLD)
    backbone = noisy(BERT)
    assert not torch.equal(backbone(tokens, segments).last_BLD, backbone(tokens).last_BLD)


# ---- sharing -------------------------------------------------------------------------------------------------------------

ALBERT = BackboneConfig(
    vocab=30_000,
    width=768,
    layers=12,
    heads=12,
    positions=512,
    causal=False,
    norm="post",
    embedding_norm=True,
    embedding_width=128,
    segments=2,
)


@pytest.mark.parametrize(
    ("share", "parameters"), [("all", 11_683_584), ("attention", 63_647_232), ("ffn", 37_686_528), ("none", 89_650_176)]
)
def test_sharing_counts_are_those_of_alberts_table_4(share: str, parameters: int) -> None:
    pooler = 768 * 768 + 768
    with torch.device("meta"):
        assert count_parameters(Backbone(replace(ALBERT, share=share))) + pooler == parameters


@pytest.mark.parametrize("share", ["attention", "ffn", "all"])
def test_the_gradient_of_a_shared_layer_is_the_sum_over_its_uses(share: str) -> None:
    shared = noisy(replace(BERT, share=share))
    alone = Backbone(BERT).eval()
    alone.load_state_dict(shared.state_dict())
    tokens = torch.randint(50, (3, 10))
    for backbone in (shared, alone):
        backbone(tokens).last_BLD.pow(3).sum().backward()
    parts = {"attention": ["attention.qkv", "attention_norm"], "ffn": ["ffn.up", "ffn_norm"]}
    for kind, names in parts.items():
        for name in names:
            uses = torch.stack([block.get_submodule(name).weight.grad for block in alone.blocks])
            wanted = uses.sum(0) if share in (kind, "all") else uses[0]
            torch.testing.assert_close(shared.blocks[0].get_submodule(name).weight.grad, wanted, rtol=1e-3, atol=1e-3)


# ---- initialisation ------------------------------------------------------------------------------------------------------


def test_residual_projections_start_smaller_and_all_else_at_two_hundredths() -> None:
    config = replace(GPT, vocab=500, width=256, positions=256, layers=4, ffn=0, embedding_width=0, residual_init=True)
    for name, parameter in Backbone(config).named_parameters():
        if parameter.dim() == 2:
            small = name.endswith(("attention.out.weight", "ffn.down.weight"))
            wanted = 0.02 / math.sqrt(8) if small else 0.02
            assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name
            assert abs(parameter.mean().item()) < wanted / 20
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm" in name and name.endswith("weight")))), name


def test_a_truncated_normal_ends_at_two_deviations() -> None:
    backbone = Backbone(replace(BERT, vocab=5000, truncated_init=True))
    weight = backbone.embedding.token.weight
    assert weight.abs().max() <= 0.04
    assert weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.02)  # of a normal cut at two deviations
    assert Backbone(replace(BERT, vocab=5000)).embedding.token.weight.abs().max() > 0.04


@pytest.mark.parametrize("config", [GPT, BERT], ids=["gpt", "bert"])
def test_half_precision_takes_the_shorter_way_and_stays_near_full_precision(config: BackboneConfig) -> None:
    backbone, tokens, keep = noisy(config), torch.randint(50, (4, 20)), padding(4, 20)
    exact = backbone(tokens, None, keep).last_BLD[keep]
    rough = backbone.bfloat16()(tokens, None, keep).last_BLD[keep].float()
    assert rough.dtype == torch.float32
    assert ((rough - exact).norm() / exact.norm()).item() < 0.03


@pytest.mark.parametrize("config", [GPT, replace(GPT, band=3), BERT], ids=["gpt", "banded", "bert"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_short_way_and_the_fused_kernel_agree_with_their_gradients(
    config: BackboneConfig, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, tokens = noisy(config), torch.randint(50, (4, 20))
    keep = None if packed else padding(4, 20)
    parts = torch.arange(20).div(7, rounding_mode="floor").expand(4, -1) if packed else None
    seen = []
    for bound in (1024, 0):
        monkeypatch.setattr(attention, "SHORT", {torch.float32: bound})
        backbone.zero_grad()
        out = backbone(tokens, None, keep, parts_BL=parts).last_BLD
        (out if keep is None else out[keep]).pow(2).sum().backward()
        seen.append([out if keep is None else out[keep], *(p.grad for p in backbone.parameters() if p.grad is not None)])
    for one, other in zip(*seen, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_a_row_that_may_see_nothing_takes_the_way_that_gives_it_nothing() -> None:
    keep = torch.ones(2, 6, dtype=torch.bool)
    sight = Sight(BERT, torch.zeros(2, 6, dtype=torch.long), keep)
    assert not sight.blind
    keep[1] = False
    assert Sight(BERT, torch.zeros(2, 6, dtype=torch.long), keep).blind
