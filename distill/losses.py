"""What a student is told: how far its guesses, its hidden states and its answers are from where they should be.

Every loss is a sum over the positions given to it, divided by `denominator` (the global count, from the loop) or by their own
number; in float32 whatever the tower computes in. Positions are picked by the caller, so padding never reaches a loss.

Letters: N positions, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.objectives.tower import IGNORE, over

CHUNK = 1 << 18  # scores worked on at once: 1 MiB, so that the many small steps of a softmax stay in a CPU's cache


def lessons(
    student_NV: Tensor,
    teacher_NV: Tensor,
    labels_N: Tensor,
    temperature: float,
    *,
    soft_over: float | None = None,
    true_over: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The teacher's word and the data's on the same scores, in one pass.

    First KL(teacher || student) at a temperature, times its square, so that the gradient keeps its size (Hinton et al. 2015,
    section 2); then the cross-entropy where there is a label.
    """
    soft, true = _Lessons.apply(student_NV, teacher_NV, labels_N, temperature)
    return soft / over(soft_over, len(labels_N)), true / over(true_over, int((labels_N != IGNORE).sum()))


def hidden_cosine(student_ND: Tensor, teacher_ND: Tensor, denominator: float | None = None) -> Tensor:
    """1 - cosine of the last hidden states (Sanh et al. 2019, section 2)."""
    apart = 1.0 - F.cosine_similarity(student_ND.float(), teacher_ND.float(), dim=-1)
    return apart.sum() / over(denominator, len(student_ND))


class _Lessons(torch.autograd.Function):
    """Written out because these scores are the largest tensors of a step: autograd would pass over them twenty times.

    d KL T^2 / d student = T (softmax(student / T) - softmax(teacher / T)); d CE / d student = softmax(student) - one_hot(label).
    """

    @staticmethod
    def forward(ctx: Any, student_NV: Tensor, teacher_NV: Tensor, labels_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        soft = student_NV.new_zeros((), dtype=torch.float32)
        slope_NV = torch.empty_like(student_NV, dtype=torch.float32)
        rows = max(1, CHUNK // student_NV.shape[-1])
        for s, t, slope in zip(student_NV.split(rows), teacher_NV.split(rows), slope_NV.split(rows), strict=True):
            mine = (s.float() / temperature).log_softmax(-1)
            theirs = (t.float() / temperature).log_softmax(-1)
            weight = theirs.exp()
            torch.sub(mine.exp(), weight, out=slope)
            soft += weight.mul_(theirs.sub_(mine)).sum()
        at_N = (labels_N != IGNORE).nonzero()[:, 0]
        own_NV, gold_N1 = student_NV[at_N].float().log_softmax(-1), labels_N[at_N][:, None]
        true = -own_NV.gather(1, gold_N1).sum()
        own_NV = own_NV.exp_().scatter_add_(1, gold_N1, own_NV.new_full((), -1.0).expand(gold_N1.shape))
        ctx.kept, ctx.temperature, ctx.dtype = (slope_NV, own_NV, at_N), temperature, student_NV.dtype
        return soft * temperature**2, true

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slope_NV, own_NV, at_N = ctx.kept
        ctx.kept = None  # worked on in place: a second backward has nothing to start from
        slope_NV.mul_(grads[0] * ctx.temperature).index_add_(0, at_N, own_NV.mul_(grads[1]))
        return slope_NV.to(ctx.dtype), None, None, None
