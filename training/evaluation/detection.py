"""Replaced-token detection on the validation set: loss, accuracy, F1 and AUC of ELECTRA's discriminator against a constant answer.

The generator fills the masked positions with tokens that it samples; the discriminator scores every real token (Clark et al. 2020,
section 2). A sampled token that equals the original counts as original. The replaced tokens are the positive class.
Letters: B sequences, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from training.evaluation import metrics
from training.evaluation.metrics import Floats
from training.feed.batch import IGNORE

TOKENS, SCORES, LABELS = "rtd_tokens", "rtd_scores", "rtd_labels"  # tokens by sequence; score and label of every real token, in order


def sums(logits_BL: Tensor, labels_BL: Tensor) -> dict[str, Tensor]:
    """Sums by sequence [B], and the score and label of every real token [number of real tokens].

    logits_BL: above 0 means replaced. labels_BL: 1 replaced, 0 original, IGNORE for padding.
    """
    real_BL = labels_BL != IGNORE
    replaced_BL, called_BL = labels_BL == 1, (logits_BL > 0) & real_BL
    nats_BL = F.binary_cross_entropy_with_logits(logits_BL, replaced_BL.to(logits_BL.dtype), reduction="none")
    found = {
        TOKENS: real_BL,
        "rtd_nats": nats_BL * real_BL,
        "rtd_right": real_BL & (called_BL == replaced_BL),
        "rtd_replaced": replaced_BL,
        "rtd_called": called_BL,
        "rtd_found": called_BL & replaced_BL,
    }
    by_sequence = {name: values_BL.double().sum(1) for name, values_BL in found.items()}
    return by_sequence | {SCORES: logits_BL[real_BL], LABELS: replaced_BL[real_BL]}


def summary(by: Mapping[str, Floats], samples: int, seed: int) -> dict[str, Any]:
    """loss (nats), accuracy, f1 and auc with intervals drawn over sequences; baseline: always the same score, the base rate's.

    The baseline answers `original` for every token, or `replaced` should that be the majority. f1 is of the replaced tokens.
    """
    draw = {"samples": samples, "seed": seed}
    tokens, replaced = float(by[TOKENS].sum()), float(by["rtd_replaced"].sum())
    rate = replaced / max(tokens, 1.0)
    twice = 2.0 * by["rtd_found"]
    return {
        "tokens": int(tokens),
        "replaced_frac": round(rate, 6),
        "loss": metrics.bootstrap_ratio(by["rtd_nats"], by[TOKENS], **draw).record(),
        "accuracy": metrics.bootstrap_ratio(by["rtd_right"], by[TOKENS], **draw).record(),
        "f1": metrics.bootstrap_ratio(twice, by["rtd_called"] + by["rtd_replaced"], **draw).record(),
        "auc": metrics.bootstrap_auc(by[LABELS], by[SCORES], by[TOKENS].astype(np.int64), **draw).record(),
        "baseline": {
            "loss": round(_entropy(rate), 6),
            "accuracy": round(max(rate, 1.0 - rate), 6),
            "f1": round(2.0 * rate / (1.0 + rate), 6) if rate > 0.5 else 0.0,
            "auc": 0.5,
        },
    }


def _entropy(rate: float) -> float:
    """Of a coin, in nats: the loss of knowing the base rate and nothing else."""
    return -sum(p * math.log(p) for p in (rate, 1.0 - rate) if p > 0)
