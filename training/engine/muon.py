"""Muon: the momentum of a hidden matrix is made orthogonal before it is taken as a step (Jordan et al. 2024, "Muon: An optimizer for
hidden layers in neural networks"); embeddings, heads and vectors go by AdamW.

torch.optim.Muon needs whole matrices; this one also takes a rank's share of one, as ZeRO hands it out. Steps are as long as AdamW's
(Liu et al. 2025, "Muon is scalable for LLM training", equation 4), so one rate fits all groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.engine.layerwise import Adapted

COEFFICIENTS, ITERATIONS, EPS = (3.4445, -4.7750, 2.0315), 5, 1e-7  # Jordan et al. 2024, as in torch.optim.Muon
LENGTH = 0.2  # root mean square of AdamW's usual steps (Liu et al. 2025, section 2.2)


class Muon(Adapted):
    """Groups with `orthogonal` hold one matrix each, of the shape `matrix`: whole, or this rank's share of it as a flat vector."""

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, momentum: float = 0.95) -> None:
        super().__init__(({"orthogonal": False, "matrix": None, **group} for group in groups), lr=lr, betas=betas, eps=eps)
        self.momentum = momentum

    def _direction(self, weights: Tensor, group: dict[str, Any]) -> Tensor:
        if not group["orthogonal"]:
            return super()._direction(weights, group)
        state, gradient = self.state[weights], weights.grad
        assert gradient is not None
        if not state:  # under the names that ZeRO's conversion to other ranks knows; the second is not used
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - self.momentum)
        share, rows_columns = gradient.lerp(state["exp_avg"], self.momentum), group["matrix"]
        step = orthogonal(whole(share, rows_columns)) * (LENGTH * math.sqrt(max(rows_columns)))
        return own_share(step, weights).add_(weights, alpha=group["weight_decay"])


def whole(share: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix that the ranks hold shares of; all ranks call it alike. What ZeRO filled the last share up with is cut off."""
    if tuple(share.shape) == tuple(shape):
        return share
    parts = [share]
    if dist.is_initialized() and dist.get_world_size() > 1:
        parts = [torch.empty_like(share) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, share.contiguous())
    return torch.cat(parts)[: shape[0] * shape[1]].view(shape)


def own_share(step: Tensor, weights: Tensor) -> Tensor:
    """The part of a whole step that moves these weights; zero where they are filled up."""
    if step.shape == weights.shape:
        return step
    size = weights.numel()
    first = size * (dist.get_rank() if dist.is_initialized() else 0)
    part = step.flatten()[first : first + size]
    return torch.cat([part, part.new_zeros(size - len(part))])


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V' of a matrix U S V': its singular values, whatever they were, come to lie between 0.5 and 1.5.

    A quintic Newton-Schulz iteration; in bfloat16 on a GPU, as published, in float32 on a CPU.
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.bfloat16 if matrix.device.type == "cuda" else torch.float32)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp_min(EPS)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)
