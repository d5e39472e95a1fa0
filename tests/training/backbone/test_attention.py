"""Attention in four operations has the values and the gradient of attention written out: its gradient is our own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.backbone.attention import attend_at_once

ROWS, LENGTH, HEADS, WIDTH = 3, 7, 2, 8


def bias(kind: str) -> Tensor | None:
    """No mask, one for all rows, one a row that hides keys, one a row that hides pairs."""
    seen = {
        "none": None,
        "causal": torch.ones(LENGTH, LENGTH).tril(),
        "keys": torch.ones(ROWS, 1, 1, LENGTH).index_fill(-1, torch.tensor([5, 6]), 0),
        "parts": torch.stack([torch.block_diag(torch.ones(n, n), torch.ones(7 - n, 7 - n)) for n in (2, 3, 5)])[:, None],
    }[kind]
    return None if seen is None else torch.zeros_like(seen).double().masked_fill(seen == 0, torch.finfo(torch.float64).min)


def written_out(qkv: Tensor, added: Tensor | None, rate: float) -> Tensor:
    q, k, v = qkv.view(ROWS, LENGTH, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = (scores if added is None else scores + added).softmax(-1)
    kept = torch.empty(ROWS * HEADS, LENGTH, LENGTH, dtype=torch.bool).bernoulli_(1 - rate).view(weights.shape)
    return ((weights * kept / (1 - rate)) @ v).transpose(1, 2).reshape(ROWS, LENGTH, -1)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["none", "causal", "keys", "parts"])
def test_values_and_gradient_are_those_of_the_formula(kind: str, rate: float) -> None:
    torch.manual_seed(0)
    qkv, added = torch.randn(ROWS, LENGTH, 3 * WIDTH, dtype=torch.float64, requires_grad=True), bias(kind)

    def drawn(way: int) -> Tensor:
        torch.manual_seed(1)
        return written_out(qkv, added, rate) if way else attend_at_once(qkv, added, HEADS, rate)

    torch.testing.assert_close(drawn(0), drawn(1))
    wanted = torch.randn(ROWS, LENGTH, WIDTH, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad((drawn(way) * wanted).sum(), qkv)[0] for way in (0, 1))
    torch.testing.assert_close(mine, theirs)


def test_under_autocast_it_stays_in_the_precision_of_its_input() -> None:
    qkv = torch.randn(ROWS, LENGTH, 3 * WIDTH, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend_at_once(qkv, None, HEADS, 0.0)
    assert mixed.dtype is torch.bfloat16
    mixed.sum().backward()
    assert qkv.grad is not None and qkv.grad.dtype is torch.bfloat16
