from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.feed.batch import IGNORE, Batch
from training.objectives.language import LanguageHead
from training.objectives.sequence import SequenceHead
from training.objectives.tower import Tower

BERT = BackboneConfig(
    vocab=50, width=32, layers=2, heads=4, positions=24, causal=False, norm="post", embedding_norm=True, segments=2, dropout=0.0
)
GPT = replace(BERT, causal=True, norm="pre", embedding_norm=False, segments=0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def bert_tower(weight: float = 1.0) -> Tower:
    backbone = Backbone(BERT)
    return Tower(backbone, [LanguageHead("mlm", backbone), SequenceHead("pair", BERT, 2, weight)])


def batch_of(rows: int, seed: int = 0, rate: float = 0.3) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, (rows, 12), generator=rng)
    chosen = torch.rand(rows, 12, generator=rng) < rate
    labels = {"mlm": tokens.masked_fill(~chosen, IGNORE), "pair": torch.randint(2, (rows,), generator=rng)}
    return Batch(tokens, (torch.arange(12) > 5).long().expand(rows, -1), None, labels)


def test_losses_are_those_of_full_logits() -> None:
    tower, batch = bert_tower().eval(), batch_of(6)
    hidden = tower.hidden(batch)
    everywhere = tower.head("mlm").logits(hidden)
    wanted = F.cross_entropy(everywhere.flatten(0, 1), batch.labels["mlm"].flatten(), ignore_index=IGNORE)
    pair = F.cross_entropy(tower.head("pair").logits(hidden), batch.labels["pair"])
    losses = tower(batch)
    torch.testing.assert_close(losses.parts["mlm"], wanted.detach())
    torch.testing.assert_close(losses.parts["pair"], pair.detach())
    torch.testing.assert_close(losses.total, wanted + pair)


def test_vocabulary_scores_are_computed_at_predicted_places_only() -> None:
    tower, batch = bert_tower(), batch_of(6)
    seen = []
    tower.head("mlm").scores.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    tower(batch)
    assert seen == [(batch.count("mlm"), 32)], "states"
    at = batch.labels["mlm"] != IGNORE
    torch.testing.assert_close(tower.language_logits(batch, at), tower.language_logits(batch)[at])


def test_a_heads_weight_counts_in_the_total_and_not_in_its_part() -> None:
    losses = bert_tower(weight=0.25)(batch_of(4))
    torch.testing.assert_close(losses.total.detach(), losses.parts["mlm"] + 0.25 * losses.parts["pair"])
    assert not losses.parts["mlm"].requires_grad


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 7), max_size=3, unique=True), seed=st.integers(0, 9), rate=st.sampled_from([0.02, 0.3]))
def test_a_batch_in_pieces_of_unequal_weight_has_the_gradient_of_the_whole(cuts: list[int], seed: int, rate: float) -> None:
    torch.manual_seed(seed)
    tower, batch = bert_tower(), batch_of(8, seed, rate)
    tower(batch).total.backward()
    whole = [p.grad.clone() for p in tower.parameters()]
    tower.zero_grad()
    edges = [0, *sorted(cuts), 8]
    for start, stop in pairwise(edges):
        piece = batch.rows(start, stop)
        piece.denominators = {name: float(max(batch.count(name), 1)) for name in batch.labels}
        tower(piece).total.backward()
    for mine, wanted in zip(tower.parameters(), whole, strict=True):
        torch.testing.assert_close(mine.grad, wanted, atol=1e-6, rtol=1e-4)


def test_nothing_to_predict_is_a_loss_of_zero_with_a_gradient() -> None:
    tower, batch = bert_tower(), batch_of(3, rate=0.0)
    losses = tower(batch)
    assert losses.parts["mlm"] == 0
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in tower.parameters())


def test_the_loss_is_float32_when_the_weights_are_not() -> None:
    tower = bert_tower().bfloat16()
    losses = tower(batch_of(4))
    assert losses.total.dtype == torch.float32
    assert losses.parts["mlm"] != losses.parts["mlm"].bfloat16().float()


def test_right_answers_are_counted_in_evaluation_only() -> None:
    tower, batch = bert_tower(), batch_of(6)
    assert tower.train()(batch).hits == {}
    hits = tower.eval()(batch).hits
    hidden = tower.hidden(batch)
    at = batch.labels["mlm"] != IGNORE
    assert hits["mlm"] == (tower.head("mlm").logits(hidden)[at].argmax(-1) == batch.labels["mlm"][at]).sum()
    assert hits["pair"] == (tower.head("pair").logits(hidden).argmax(-1) == batch.labels["pair"]).sum()
    assert tower.counts(batch) == {"mlm": batch.count("mlm"), "pair": 6}


def test_an_unlabelled_row_is_left_out() -> None:
    tower, batch = bert_tower().eval(), batch_of(4)
    batch.labels["pair"][2:] = IGNORE
    torch.testing.assert_close(tower(batch).parts["pair"], tower(batch.rows(0, 2)).parts["pair"])


def test_the_output_table_is_the_embedding() -> None:
    backbone = Backbone(GPT)
    tower = Tower(backbone, [LanguageHead("next", backbone)])
    assert tower.head("next").scores.weight is backbone.embedding.token.weight
    assert tower.head("next").scores.bias is None
    assert sum(p is backbone.embedding.token.weight for p in tower.parameters()) == 1


def test_a_second_head_on_a_trained_backbone_leaves_its_weights_alone() -> None:
    backbone = Backbone(BERT)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    LanguageHead("mlm", backbone)
    SequenceHead("class", BERT, 4)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("pool", ["tanh", "gelu", "relu", "none"])
def test_a_pooler_is_what_it_is_called(pool: str) -> None:
    backbone = Backbone(BERT).eval()
    head = SequenceHead("class", BERT, 3, position=2, pool=pool).eval()
    hidden = backbone(torch.randint(50, (4, 9)))
    x = hidden.last_BLD[:, 2]
    if pool != "none":
        x = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu}[pool](head.pool(x))
    torch.testing.assert_close(head.logits(hidden), head.scores(x))
    assert (head.scores.bias is None) == (pool == "none")
