from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.feed.batch import IGNORE, Batch
from training.objectives.rtd import GeneratorDiscriminator, corrupt

BIG = BackboneConfig(
    vocab=50,
    width=32,
    layers=2,
    heads=4,
    positions=24,
    causal=False,
    norm="post",
    embedding_norm=True,
    segments=2,
    embedding_width=24,
    dropout=0.0,
)
SMALL = replace(BIG, width=16, heads=2, ffn=32)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def towers() -> GeneratorDiscriminator:
    return GeneratorDiscriminator(Backbone(SMALL), Backbone(BIG))


def batch_of(padded: bool = True) -> Batch:
    tokens, keep = torch.randint(5, 50, (6, 12)), torch.arange(12)[None] < torch.tensor([12, 12, 10, 8, 5, 3])[:, None]
    chosen = (torch.rand(6, 12) < 0.3) & keep
    labels = tokens.masked_fill(~chosen, IGNORE)
    return Batch(tokens.masked_fill(chosen, 4), None, keep if padded else None, {"mlm": labels})


def original(batch: Batch) -> torch.Tensor:
    return torch.where(batch.labels["mlm"] != IGNORE, batch.labels["mlm"], batch.tokens_BL)


def test_a_sampled_token_that_is_the_original_counts_as_original() -> None:
    batch = batch_of()
    chosen = batch.labels["mlm"] != IGNORE
    wanted = batch.labels["mlm"][chosen]
    sampled = wanted.clone()
    sampled[::2] = (sampled[::2] + 1) % 50
    seen, replaced = corrupt(batch, sampled)
    assert torch.equal(seen[~chosen], original(batch)[~chosen])
    assert torch.equal(seen[chosen], sampled)
    assert torch.equal(replaced[chosen], (sampled != wanted).long())
    assert (replaced[~chosen & batch.keep_BL] == 0).all()
    assert (replaced[~batch.keep_BL] == IGNORE).all()


def test_without_padding_every_place_is_doubted() -> None:
    batch = batch_of(padded=False)
    _, replaced = corrupt(batch, batch.labels["mlm"][batch.labels["mlm"] != IGNORE])
    assert (replaced == 0).all()


def test_the_doubt_gives_the_generator_no_gradient() -> None:
    tower, batch = towers(), batch_of()
    tower.heads[0].weight, tower.heads[1].weight = 0.0, 1.0
    tower(batch).total.backward()
    shared = {id(p) for p in tower.backbone.parameters()}
    own = [p for m in (tower.generator, tower.heads[0]) for p in m.parameters() if id(p) not in shared]
    assert len(own) > 20
    assert all(p.grad is None or not p.grad.any() for p in own)
    assert tower.backbone.embedding.token.weight.grad.any()


def test_the_shared_embedding_hears_both() -> None:
    tower, batch = towers(), batch_of()
    weight, found = tower.backbone.embedding.token.weight, []
    for guess, doubt in ((1.0, 0.0), (0.0, 50.0), (1.0, 50.0)):
        tower.zero_grad()
        tower.heads[0].weight, tower.heads[1].weight = guess, doubt
        torch.manual_seed(3)
        tower(batch).total.backward()
        found.append(weight.grad.clone())
    assert found[0].any() and found[1].any()
    torch.testing.assert_close(found[0] + found[1], found[2], atol=1e-5, rtol=1e-4)


def test_embeddings_are_one_storage_and_projections_are_not() -> None:
    tower = towers()
    mine, theirs = tower.generator.embedding, tower.backbone.embedding
    for part in ("token", "position", "segment", "norm"):
        assert getattr(mine, part) is getattr(theirs, part)
    assert mine.up is not theirs.up and mine.up.out_features == 16
    assert tower.heads[0].scores.weight is theirs.token.weight
    state = towers().state_dict()
    tower.load_state_dict(state)
    assert tower.generator.embedding.token.weight is tower.backbone.embedding.token.weight


def test_the_total_is_the_guess_and_fifty_times_the_doubt() -> None:
    losses = towers()(batch_of())
    torch.testing.assert_close(losses.total.detach(), losses.parts["mlm"] + 50 * losses.parts["rtd"])


def test_the_doubt_is_measured_on_real_tokens_only() -> None:
    tower, batch = towers().eval(), batch_of()
    chosen = batch.labels["mlm"] != IGNORE
    guesses = tower.language_logits(batch, chosen)
    seen, replaced = corrupt(batch, tower.sample(guesses, batch))
    doubt = tower.heads[1].logits(tower.backbone(seen, None, batch.keep_BL))
    wanted = F.binary_cross_entropy_with_logits(doubt[batch.keep_BL], replaced[batch.keep_BL].float())
    losses = tower(batch)
    torch.testing.assert_close(losses.parts["rtd"], wanted.detach())
    assert tower.counts(batch) == {"mlm": int(chosen.sum()), "rtd": int(batch.keep_BL.sum())}
    assert losses.hits["rtd"] == ((doubt > 0) == (replaced == 1))[batch.keep_BL].sum()


def test_evaluation_leaves_torchs_random_state_alone() -> None:
    tower, batch = towers().eval(), batch_of()
    before = torch.get_rng_state()
    first = tower(batch).total
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, tower(batch).total)


def test_two_widths_of_embedding_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="embedding width 16 differs from the discriminator's 24"):
        GeneratorDiscriminator(Backbone(replace(SMALL, embedding_width=16)), Backbone(BIG))
