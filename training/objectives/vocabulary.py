"""The vocabulary's scores and their cross-entropy, a few rows at a time: all logits of a batch never stand in memory in float32.

The gradient is made with the loss, while the scores are at hand (as in Liger Kernel, Hsu et al. 2024, section 3.2), so nothing
of size [N, V] waits for the backward pass.

Letters: N predicted places, E embedding width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}  # of scores at once: enough rows to keep the products of matrices fast
CACHE = {"cpu": 2 << 20, "cuda": 512 << 20}  # of float32 probabilities at once: what a CPU's own cache holds
TINY = 1e-30  # a chance that float32 still holds with all its digits


class Vocabulary(nn.Linear):
    """A linear map to the vocabulary that can also say, without ever holding all scores, how wrong they are.

    A module of its own, so that ZeRO-3 gathers its weight around the whole of it. Rows from `retained` on are padding of the table:
    they have no logits and no share in the softmax.
    """

    retained: int | None = None

    def forward(self, states_NE: Tensor, labels_N: Tensor | None = None, count_hits: bool = False) -> Any:
        """Scores [..., V]; with labels the summed cross-entropy in float32 and, if asked, the number of right answers."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.retained is not None and self.retained < self.out_features:
            weight, bias = weight[: self.retained], None if bias is None else bias[: self.retained]
        if labels_N is None:
            return nn.functional.linear(states_NE, weight, bias)
        device = states_NE.device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states_NE.dtype
        if not torch.is_grad_enabled():  # a Function asks its inputs alone whether they want a gradient
            states_NE, weight, bias = states_NE.detach(), weight.detach(), None if bias is None else bias.detach()
        with torch.autocast(device, enabled=False):
            loss, right = _Entropy.apply(states_NE, weight, bias, labels_N, cast, count_hits)
        return loss, right if count_hits else None


class _Entropy(torch.autograd.Function):
    """Sum of the cross-entropies of states @ weight.T + bias, products in `cast`, all else in float32."""

    @staticmethod
    def forward(
        ctx: Any, states_NE: Tensor, weight_VE: Tensor, bias_V: Tensor | None, labels_N: Tensor, cast: torch.dtype, count_hits: bool
    ) -> tuple[Tensor, Tensor]:
        states, weight = states_NE.detach().to(cast), weight_VE.detach().to(cast)
        bias = None if bias_V is None else bias_V.detach().to(cast)
        to_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        to_weight: Tensor | None = None
        to_bias: Tensor | None = None
        losses_N = torch.zeros(len(labels_N), dtype=torch.float32, device=states.device)
        right = torch.zeros((), dtype=torch.long, device=states.device)
        rows = max(1, BYTES.get(states.device.type, BYTES["cuda"]) // (weight.shape[0] * weight.element_size()))
        for start in range(0, max(1, len(labels_N)), rows):  # once where nothing is asked, too: gradients are zeros then, not absent
            part = slice(start, start + rows)
            scores = nn.functional.linear(states[part], weight, bias)
            if count_hits:
                right += (scores.argmax(-1) == labels_N[part]).sum()
            _judge(scores, labels_N[part], losses_N[part])  # from here on the gradient of the scores
            if to_states is not None:
                torch.mm(scores, weight, out=to_states[part])
            if ctx.needs_input_grad[1]:
                to_weight = _added(to_weight, scores.T @ states[part])
            if ctx.needs_input_grad[2]:
                to_bias = _added(to_bias, scores.sum(0, dtype=torch.float32))
        ctx.mark_non_differentiable(right)
        ctx.save_for_backward(to_states, to_weight, to_bias)
        ctx.types = [None if x is None else x.dtype for x in (states_NE, weight_VE, bias_V)]
        return losses_N.sum(), right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        made = [None if x is None else _times(x, grad, kind) for x, kind in zip(ctx.saved_tensors, ctx.types, strict=True)]
        return (*made, None, None, None)


def _added(whole: Tensor | None, part: Tensor) -> Tensor:
    """Parts are added up in float32; one alone stays as it is."""
    return part if whole is None else whole.float().add_(part)


def _times(x: Tensor, factor: Tensor, kind: torch.dtype) -> Tensor:
    """Rounded once, and copied no more often than it must be."""
    if x.dtype is torch.float32:
        return (x * factor).to(kind)
    return x * factor if x.dtype is kind else x.to(kind).mul_(factor)


def _judge(scores: Tensor, labels: Tensor, losses: Tensor) -> None:
    """Writes each row's cross-entropy to `losses` and turns `scores`, in place, to their gradient: probabilities less the label's one."""
    rows = max(1, CACHE.get(scores.device.type, CACHE["cuda"]) // (4 * scores.shape[1]))
    for start in range(0, len(labels), rows):
        part = slice(start, start + rows)
        some, label = scores[part], labels[part, None]
        chances = some.softmax(-1, dtype=torch.float32)
        of_labels = chances.gather(1, label)
        losses[part] = _surprise(of_labels, chances, some, label).squeeze(1)
        some.copy_(chances.scatter_(1, label, of_labels - 1))


def _surprise(of_labels: Tensor, chances: Tensor, scores: Tensor, label: Tensor) -> Tensor:
    """-log of the labels' chances, those too small for float32 too. A GPU is not asked whether there are any: it would be waited for."""
    if of_labels.device.type == "cpu" and bool((of_labels > TINY).all()):
        return -of_labels.log()
    # the highest chance is 1 / sum(exp(score - highest)): its logarithm gives the sum without a second pass of exponentials
    whole = scores.amax(-1, keepdim=True).float() - chances.amax(-1, keepdim=True).log()
    return whole - scores.gather(1, label).float()
