"""What a student is told: how far its guesses, its hidden states and its answers are from where they should be.

Every loss is a sum over the positions given to it, divided by `denominator` (the global count, from the loop) or by their own
number; in float32 whatever the tower computes in. Positions are picked by the caller, so padding never reaches a loss.

Letters: N positions, V vocabulary, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_targets(student_NV: Tensor, teacher_NV: Tensor, temperature: float, denominator: float | None = None) -> Tensor:
    """KL(teacher || student) at a temperature, times its square: the gradient keeps its size (Hinton et al. 2015, section 2)."""
    student = F.log_softmax(student_NV.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_NV.float() / temperature, dim=-1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return total * temperature**2 / _over(student_NV, denominator)


def hidden_cosine(student_ND: Tensor, teacher_ND: Tensor, denominator: float | None = None) -> Tensor:
    """1 - cosine of the last hidden states (Sanh et al. 2019, section 2)."""
    apart = 1.0 - F.cosine_similarity(student_ND.float(), teacher_ND.float(), dim=-1)
    return apart.sum() / _over(student_ND, denominator)


def true_labels(student_NV: Tensor, labels_N: Tensor, denominator: float | None = None) -> Tensor:
    """Cross-entropy with the data: masked tokens or next tokens, whichever the labels are."""
    return F.cross_entropy(student_NV.float(), labels_N, reduction="sum") / _over(student_NV, denominator)


def _over(rows: Tensor, denominator: float | None) -> float:
    """A batch without a single position has the loss 0, not NaN."""
    return max(float(rows.shape[0] if denominator is None else denominator), 1e-9)
