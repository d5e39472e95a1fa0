"""The losses are DistilBERT's, and fall into none of the known traps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill import losses
from distill.losses import hidden_cosine, lessons


def seeded(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def nobody(rows: Tensor) -> Tensor:
    return torch.full((len(rows),), -100)


def soft(student: Tensor, teacher: Tensor, temperature: float, over: float | None = None) -> Tensor:
    return lessons(student, teacher, nobody(student), temperature, soft_over=over)[0]


def the_reference(
    s_BLV: Tensor, t_BLV: Tensor, hs_BLD: Tensor, ht_BLD: Tensor, labels_BL: Tensor, keep_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """DistilBERT's three terms written from its paper with torch's own loss classes: T=2, non-padding positions, last layer."""
    temperature, vocab, width = 2.0, s_BLV.shape[-1], hs_BLD.shape[-1]
    at = keep_BL.unsqueeze(-1)
    s, t = s_BLV.masked_select(at).view(-1, vocab), t_BLV.masked_select(at).view(-1, vocab)
    kl = nn.KLDivLoss(reduction="batchmean")(torch.log_softmax(s / temperature, -1), torch.softmax(t / temperature, -1)) * temperature**2
    hs, ht = hs_BLD.masked_select(at).view(-1, width), ht_BLD.masked_select(at).view(-1, width)
    cosine = nn.CosineEmbeddingLoss(reduction="mean")(hs, ht, torch.ones(len(hs)))
    hard = nn.CrossEntropyLoss(ignore_index=-100)(s_BLV.view(-1, vocab), labels_BL.view(-1))
    return kl, hard, cosine


def test_the_three_terms_and_their_gradients_are_those_of_distilbert() -> None:
    hs, ht = seeded(3, 7, 5, seed=2), seeded(3, 7, 5, seed=3)
    mine, theirs, t = seeded(3, 7, 11).requires_grad_(), seeded(3, 7, 11).requires_grad_(), seeded(3, 7, 11, seed=1)
    keep = torch.arange(7)[None] < torch.tensor([7, 4, 2])[:, None]
    labels = torch.where(keep & (torch.arange(7) % 3 == 0), 5, -100)
    ours = (*lessons(mine[keep], t[keep], labels[keep], 2.0), hidden_cosine(hs[keep], ht[keep]))
    reference = the_reference(theirs, t, hs, ht, labels, keep)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    (5 * ours[0] + 2 * ours[1]).backward()
    (5 * reference[0] + 2 * reference[1]).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-5)


@given(st.integers(1, 9), st.integers(2, 40), st.floats(0.5, 8.0), st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_losses_worked_on_in_pieces_are_autograds(rows: int, vocab: int, temperature: float, chunk: int, seed: int) -> None:
    labels = torch.where(torch.arange(rows) % 2 == 0, torch.arange(rows) % vocab, -100)
    mine, theirs, t = (
        seeded(rows, vocab, seed=seed).requires_grad_(),
        seeded(rows, vocab, seed=seed).requires_grad_(),
        seeded(rows, vocab, seed=9),
    )
    before, losses.CHUNK = losses.CHUNK, chunk
    try:
        ours = sum(lessons(mine, t, labels, temperature, soft_over=3.0, true_over=2.0))
    finally:
        losses.CHUNK = before
    kl = nn.functional.kl_div((theirs / temperature).log_softmax(-1), (t / temperature).softmax(-1), reduction="sum") * temperature**2
    hard = nn.functional.cross_entropy(theirs, labels, reduction="sum")
    ours.backward()
    (kl / 3 + hard / 2).backward()
    torch.testing.assert_close(ours.detach(), (kl / 3 + hard / 2).detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def gradient_norm(temperature: float) -> float:
    student = seeded(64, 30).requires_grad_()
    soft(student, seeded(64, 30, seed=1), temperature).backward()
    return float(student.grad.norm())


def test_the_square_of_the_temperature_keeps_the_gradient_at_its_size() -> None:
    assert gradient_norm(20.0) / gradient_norm(10.0) == pytest.approx(1.0, abs=0.03)  # 0.25 without the square


def test_the_same_positions_twice_change_no_loss() -> None:
    s, t, labels = seeded(9, 6), seeded(9, 6, seed=1), torch.arange(9) % 6
    once, twice = lessons(s, t, labels, 2.0), lessons(s.repeat(2, 1), t.repeat(2, 1), labels.repeat(2), 2.0)
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(hidden_cosine(s.repeat(2, 1), t.repeat(2, 1)), hidden_cosine(s, t))


def test_the_divergence_is_forward_and_nought_when_both_agree() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    forward, backward = float(soft(unsure, sure, 1.0)), float(soft(sure, unsure, 1.0))
    assert forward == pytest.approx(math.log(4), abs=0.02)  # a sure teacher: the student's surprise
    assert backward > 5.0  # the student's certainty would cost far more the other way round
    assert float(soft(sure, sure, 2.0)) == pytest.approx(0.0, abs=1e-7)


def test_parts_of_a_batch_divided_by_the_whole_count_sum_to_the_whole_loss() -> None:
    s, t, labels = seeded(10, 6), seeded(10, 6, seed=1), torch.arange(10) % 6

    def part(a: int, b: int) -> Tensor:
        return torch.stack([*lessons(s[a:b], t[a:b], labels[a:b], 2.0, soft_over=10, true_over=10), hidden_cosine(s[a:b], t[a:b], 10)])

    torch.testing.assert_close(part(0, 3) + part(3, 10), part(0, 10))


def test_losses_are_float32_and_no_position_is_no_loss() -> None:
    half = seeded(4, 6).bfloat16().requires_grad_()
    both = lessons(half, half.detach(), torch.arange(4), 2.0)
    assert both[0].dtype == both[1].dtype == hidden_cosine(half, half).dtype == torch.float32
    sum(both).backward()
    assert half.grad.dtype == torch.bfloat16
    none = torch.empty(0, 6, requires_grad=True)
    for loss in (*lessons(none, none.detach(), torch.empty(0, dtype=torch.long), 2.0), hidden_cosine(none, none)):
        assert float(loss.detach()) == 0.0


def test_a_second_backward_fails_rather_than_lie() -> None:
    student = seeded(4, 6).requires_grad_()
    loss = soft(student, seeded(4, 6, seed=1), 2.0)
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()
