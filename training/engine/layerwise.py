"""Adam as BERT, ELECTRA and ALBERT were trained with it: without bias correction, and with a rate for each matrix (LAMB)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Adapted(torch.optim.Optimizer):
    """Adam with decoupled decay; the step of a group that names its `shape` is scaled to the size of its weights.

    Such a group holds one matrix: whole, or, under ZeRO, this rank's share of it as a flat vector whose padding is zero and
    stays zero. The scale is |weights| / |step| over the whole matrix (LAMB: You et al. 2020, algorithm 2, phi the identity),
    so the squares are summed over the ranks before it is taken. Without `shape` the scale is 1. Without bias correction the
    first steps are smaller: 0.1 / sqrt(0.001) of the gradient's sign, as in BERT's released optimiser.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        bias_correction: bool = True,
    ) -> None:
        usual = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "bias_correction": bias_correction, "shape": None}
        super().__init__(groups, usual)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    direction = self._direction(weights, group)
                    weights.add_(direction.mul_(-group["lr"] * scale(weights, direction, group["shape"])))
        return loss

    def _direction(self, weights: Tensor, group: dict[str, Any]) -> Tensor:
        """Adam's normalised momentum, and the decay."""
        state, (beta1, beta2), gradient = self.state[weights], group["betas"], weights.grad
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        done = int(state["step"]) if group["bias_correction"] else 0
        mean_scale = 1 / (1 - beta1**done) if done else 1.0
        root = square.sqrt().div_(math.sqrt(1 - beta2**done) if done else 1.0).add_(group["eps"])
        return torch.div(mean, root).mul_(mean_scale).add_(weights, alpha=group["weight_decay"])


def scale(weights: Tensor, direction: Tensor, shape: tuple[int, ...] | None) -> float | Tensor:
    """The trust ratio; 1 where nothing is adapted, or where weights or step are zero (algorithm 2 leaves these open)."""
    if shape is None:
        return 1.0
    squares = torch.stack([weights.float().square().sum(), direction.float().square().sum()])
    if tuple(weights.shape) != tuple(shape) and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(squares)  # a share of the matrix: the norms are the whole's
    size, length = squares.sqrt().unbind()
    return torch.where((size > 0) & (length > 0), size / length.clamp_min(1e-38), torch.ones_like(size))
