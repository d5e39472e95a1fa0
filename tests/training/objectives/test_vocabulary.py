"""The loss that never holds all scores against torch's own cross-entropy of all of them, value and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.feed.batch import IGNORE, Batch
from training.objectives import vocabulary
from training.objectives.language import LanguageHead
from training.objectives.tower import Tower
from training.objectives.vocabulary import Vocabulary

WIDTH, VOCAB = 8, 37


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three rows, judged two at a time: every boundary is crossed."""
    monkeypatch.setattr(vocabulary, "BYTES", {"cpu": 3 * VOCAB * 4, "cuda": 1})
    monkeypatch.setattr(vocabulary, "CACHE", {"cpu": 2 * VOCAB * 4, "cuda": 1})


def made(rows: int, bias: bool, seed: int, size: float = 1.0) -> tuple[Vocabulary, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    scores = Vocabulary(WIDTH, VOCAB, bias=bias)
    return scores, (size * torch.randn(rows, WIDTH)).requires_grad_(), torch.randint(VOCAB, (rows,))


def gradients(loss: torch.Tensor, *of: torch.Tensor | None) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [x for x in of if x is not None]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 11), st.booleans(), st.integers(0, 99), st.sampled_from([0.01, 1.0, 300.0]))
def test_it_is_the_cross_entropy_of_all_scores(rows: int, bias: bool, seed: int, size: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        few_rows(patch)
        scores, states, labels = made(rows, bias, seed, size)
        loss, right = scores(states, labels, count_hits=True)
        logits = scores(states)
        wanted = F.cross_entropy(logits, labels, reduction="sum")
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
        assert int(right) == int((logits.argmax(-1) == labels).sum())
        own = gradients(0.3 * loss, states, scores.weight, scores.bias)
        theirs = gradients(0.3 * wanted, states, scores.weight, scores.bias)
        for one, other in zip(own, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, size))


def test_in_half_precision_the_loss_is_float32s_and_the_gradient_rounds_as_autocasts(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)
    scores, states, labels = made(40, True, 3)
    exact = F.cross_entropy(scores(states), labels, reduction="sum")
    best = gradients(exact, states, scores.weight, scores.bias)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = scores(states, labels)
        usual = F.cross_entropy(scores(states).float(), labels, reduction="sum")
    assert loss.dtype == torch.float32
    assert loss.bfloat16().float() != loss
    torch.testing.assert_close(loss, usual, rtol=1e-6, atol=0)
    for mine, theirs, wanted in zip(
        gradients(loss, states, scores.weight, scores.bias), gradients(usual, states, scores.weight, scores.bias), best, strict=True
    ):
        assert mine.dtype == torch.float32
        assert (mine - wanted).norm() <= 1.2 * (theirs - wanted).norm() + 1e-3 * wanted.norm()


def test_what_is_frozen_gets_no_gradient_and_nothing_is_made_without_one() -> None:
    scores, states, labels = made(5, True, 0)
    scores.requires_grad_(False)
    loss, _ = scores(states, labels)
    loss.backward()
    assert scores.weight.grad is None
    assert states.grad is not None
    scores.requires_grad_(True)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        assert not scores(states, labels)[0].requires_grad
    assert counted.get_total_flops() == 2 * 5 * WIDTH * VOCAB, "the scores alone"


def test_a_score_that_is_not_finite_makes_a_loss_that_is_not() -> None:
    scores, states, labels = made(5, False, 0)
    with torch.no_grad():
        states[3, 2] = float("nan")
    assert not torch.isfinite(scores(states, labels)[0])


def tower(causal: bool) -> Tower:
    torch.manual_seed(1)
    norm = "pre" if causal else "post"
    body = Backbone(
        BackboneConfig(
            vocab=VOCAB, width=16, layers=2, heads=2, positions=10, causal=causal, norm=norm, embedding_norm=not causal, dropout=0.0
        )
    )
    return Tower(body, [LanguageHead("next" if causal else "mlm", body)])


@pytest.mark.parametrize("causal", [True, False], ids=["gpt", "bert"])
@pytest.mark.parametrize("micros", [1, 3])
def test_the_tied_matrix_gathers_both_gradients_over_micro_batches(causal: bool, micros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)
    model = tower(causal)
    name = model.heads[0].name
    torch.manual_seed(2)
    tokens = torch.randint(VOCAB, (6, 10))
    labels = torch.randint(VOCAB, (6, 10)).masked_fill(torch.rand(6, 10) < 0.4, IGNORE)
    denominator = float((labels != IGNORE).sum())
    for rows in range(0, 6, 6 // micros):
        part = slice(rows, rows + 6 // micros)
        model(Batch(tokens[part], labels={name: labels[part]}, denominators={name: denominator})).total.backward()
    own = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    logits = model.heads[0].logits(model.hidden(Batch(tokens)))
    F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE).backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(own[n], p.grad, rtol=1e-4, atol=1e-6, msg=n)


def test_nothing_predicted_is_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    model = tower(False)
    batch = Batch(torch.randint(VOCAB, (2, 10)), labels={"mlm": torch.full((2, 10), IGNORE)})
    total = model(batch).total
    total.backward()
    assert total.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_all_scores_never_stand_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    few_rows(monkeypatch)
    scores, states, labels = made(60, True, 0)
    made_shapes: list[torch.Size] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made_shapes.append(out.shape) if isinstance(out, torch.Tensor) else None
            return out

    with Watch():
        scores(states, labels)[0].backward()
    assert max(s[0] for s in made_shapes if len(s) == 2 and s[1] == VOCAB and s[0] != WIDTH) == 3
