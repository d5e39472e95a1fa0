"""The losses are DistilBERT's, and fall into none of the known traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.losses import hidden_cosine, soft_targets, true_labels


def seeded(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def the_reference(
    s_BLV: Tensor, t_BLV: Tensor, hs_BLD: Tensor, ht_BLD: Tensor, labels_BL: Tensor, keep_BL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """DistilBERT's three terms written from its paper with torch's own loss classes: T=2, non-padding positions, last layer."""
    temperature, vocab, width = 2.0, s_BLV.shape[-1], hs_BLD.shape[-1]
    at = keep_BL.unsqueeze(-1)
    s, t = s_BLV.masked_select(at).view(-1, vocab), t_BLV.masked_select(at).view(-1, vocab)
    soft = nn.KLDivLoss(reduction="batchmean")(torch.log_softmax(s / temperature, -1), torch.softmax(t / temperature, -1)) * temperature**2
    hs, ht = hs_BLD.masked_select(at).view(-1, width), ht_BLD.masked_select(at).view(-1, width)
    cosine = nn.CosineEmbeddingLoss(reduction="mean")(hs, ht, torch.ones(len(hs)))
    hard = nn.CrossEntropyLoss(ignore_index=-100)(s_BLV.view(-1, vocab), labels_BL.view(-1))
    return soft, cosine, hard


def test_the_three_terms_are_those_of_distilbert() -> None:
    s, t, hs, ht = seeded(3, 7, 11), seeded(3, 7, 11, seed=1), seeded(3, 7, 5, seed=2), seeded(3, 7, 5, seed=3)
    keep = torch.arange(7)[None] < torch.tensor([7, 4, 2])[:, None]
    labels = torch.where(keep & (torch.arange(7) % 3 == 0), 5, -100)
    ours = soft_targets(s[keep], t[keep], 2.0), hidden_cosine(hs[keep], ht[keep]), true_labels(s[labels != -100], labels[labels != -100])
    for mine, theirs in zip(ours, the_reference(s, t, hs, ht, labels, keep), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def gradient_norm(temperature: float) -> float:
    student = seeded(64, 30).requires_grad_()
    soft_targets(student, seeded(64, 30, seed=1), temperature).backward()
    return float(student.grad.norm())


def test_the_square_of_the_temperature_keeps_the_gradient_at_its_size() -> None:
    assert gradient_norm(20.0) / gradient_norm(10.0) == pytest.approx(1.0, abs=0.03)  # 0.25 without the square


def test_the_same_positions_twice_change_no_loss() -> None:
    s, t, labels = seeded(9, 6), seeded(9, 6, seed=1), torch.arange(9) % 6
    twice_s, twice_t = s.repeat(2, 1), t.repeat(2, 1)
    torch.testing.assert_close(soft_targets(twice_s, twice_t, 2.0), soft_targets(s, t, 2.0))
    torch.testing.assert_close(hidden_cosine(twice_s, twice_t), hidden_cosine(s, t))
    torch.testing.assert_close(true_labels(twice_s, labels.repeat(2)), true_labels(s, labels))


def test_the_divergence_is_forward_and_nought_when_both_agree() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    forward, backward = float(soft_targets(unsure, sure, 1.0)), float(soft_targets(sure, unsure, 1.0))
    assert forward == pytest.approx(math.log(4), abs=0.02)  # a sure teacher: the student's surprise
    assert backward > 5.0  # the student's certainty would cost far more the other way round
    assert float(soft_targets(sure, sure, 2.0)) == pytest.approx(0.0, abs=1e-7)


def test_parts_of_a_batch_divided_by_the_whole_count_sum_to_the_whole_loss() -> None:
    s, t, labels = seeded(10, 6), seeded(10, 6, seed=1), torch.arange(10) % 6
    for loss in (
        lambda a, b: soft_targets(s[a:b], t[a:b], 2.0, 10),
        lambda a, b: hidden_cosine(s[a:b], t[a:b], 10),
        lambda a, b: true_labels(s[a:b], labels[a:b], 10),
    ):
        torch.testing.assert_close(loss(0, 3) + loss(3, 10), loss(0, 10))


def test_losses_are_float32_and_no_position_is_no_loss() -> None:
    half = seeded(4, 6).bfloat16()
    assert soft_targets(half, half, 2.0).dtype == hidden_cosine(half, half).dtype == torch.float32
    none = torch.empty(0, 6, requires_grad=True)
    for loss in (soft_targets(none, none, 2.0), hidden_cosine(none, none), true_labels(none, torch.empty(0, dtype=torch.long))):
        assert float(loss.detach()) == 0.0
