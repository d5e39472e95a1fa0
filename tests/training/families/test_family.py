from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from infra.errors import ConfigError
from training.families.catalog import FAMILIES, family
from training.feed.batch import Batch
from training.objectives.sequence import SequenceHead

STEPS_BY_HEART = 200


def config_for(reference: SimpleNamespace, name: str):
    return reference.small_config(name, embedding_width=16 if name in ("albert", "electra") else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_alone_decides_the_weights(name: str, reference: SimpleNamespace) -> None:
    config = config_for(reference, name)
    before = torch.get_rng_state()
    one, two, other = (family(name).build(config, seed=s) for s in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    for (key, a), b, c in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), key
        assert a.dim() == 1 or not torch.equal(a, c), key


def test_without_a_seed_torchs_own_state_decides(reference: SimpleNamespace) -> None:
    config = config_for(reference, "bert")
    torch.manual_seed(5)
    a, b = (family("bert").build(config).backbone.embedding.token.weight for _ in range(2))
    assert not torch.equal(a, b)
    assert torch.equal(a, family("bert").build(config, seed=5).backbone.embedding.token.weight)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fresh_model_knows_nothing(name: str, reference: SimpleNamespace) -> None:
    """Its loss is the logarithm of the number of answers: the check that catches most wiring errors."""
    tower = family(name).build(config_for(reference, name), seed=0).eval()
    names = [h.name for h in tower.heads if h.name != "rtd"]
    batch = reference.make_batch(tower.config, names, 0, padded=True)
    answers = {"next": 61, "mlm": 61, "pair": 2, "rtd": 2}
    for part, loss in tower(batch).parts.items():
        assert loss.item() == pytest.approx(torch.tensor(float(answers[part])).log().item(), rel=0.05), part


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_one_batch_by_heart(name: str, reference: SimpleNamespace) -> None:
    """Each part of its loss ends below 0.1. ELECTRA's generator, whose embedding hears fifty times more of the doubt, is slower, and
    the doubt itself, about samples that change every time, ends below half of what guessing costs."""
    config = replace(config_for(reference, name), dropout=0.0, generator=float(name == "electra"))
    tower = family(name).build(config, seed=0)
    batch = reference.make_batch(config, [h.name for h in tower.heads if h.name != "rtd"], 0, padded=True)
    optimiser = torch.optim.AdamW(tower.parameters(), 5e-3)
    torch.manual_seed(0)
    for step in range(STEPS_BY_HEART):
        optimiser.param_groups[0]["lr"] = 5e-3 * min(1.0, (step + 1) / 20) * (1 - step / STEPS_BY_HEART)
        losses = tower(batch)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    for part, loss in losses.parts.items():
        most = {"rtd": 0.35, "mlm": 0.8}[part] if name == "electra" else 0.1
        assert loss.item() < most, (part, loss.item())


def test_every_parameter_of_a_tower_has_a_gradient(reference: SimpleNamespace) -> None:
    for name in FAMILIES:
        tower = family(name).build(config_for(reference, name), seed=0)
        batch = reference.make_batch(tower.config, [h.name for h in tower.heads if h.name != "rtd"], 0, padded=False)
        tower(batch).total.backward()
        assert [n for n, p in tower.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_a_task_starts_from_the_pretrained_pooler(name: str, reference: SimpleNamespace) -> None:
    found = family(name)
    tower = found.build(config_for(reference, name), seed=0)
    task = found.task_tower(tower, classes=5)
    head = task.head("class")
    assert isinstance(head, SequenceHead) and head.classes == 5
    assert task.backbone is tower.backbone
    assert torch.equal(head.pool.weight, tower.head("pair").pool.weight)
    assert head.dropout.p == 0.1


def test_a_causal_classifier_reads_the_last_real_token(reference: SimpleNamespace) -> None:
    found = family("gpt2")
    task = found.task_tower(found.build(config_for(reference, "gpt2"), seed=0), classes=3).eval()
    batch = reference.make_batch(task.config, ["class"], 0, padded=True)
    whole = task.head("class").logits(task.hidden(batch))
    for row, length in enumerate(batch.keep_BL.sum(1).tolist()):
        alone = task.head("class").logits(task.hidden(Batch(batch.tokens_BL[row : row + 1, :length])))
        torch.testing.assert_close(whole[row], alone[0], atol=1e-5, rtol=0)


def test_a_head_nobody_knows_is_refused(reference: SimpleNamespace) -> None:
    tower = family("gpt2").build(config_for(reference, "gpt2"))
    with pytest.raises(ConfigError, match=r"no head `pair`; it has \['next'\]"):
        tower.head("pair")
