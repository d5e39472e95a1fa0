"""One draw from a distribution at every chosen place of a batch, which follows from what stands in the place's row.

Torch's own generators draw in the order of a rank's rows, so other ranks would draw otherwise for the same row. Here a row's draws
are a function of the step and the row's tokens: however a batch is shared out, each row is drawn alike.

Letters: B sequences, L positions, N chosen places, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN, MIX1, MIX2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # SplitMix64's, as signed words (feed/random.py)
BITS = 24  # of a draw: what float32 tells apart below 1


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on words of 64 bits, which torch keeps signed: what a shift drags in from the left is masked away."""
    x = (x ^ ((x >> 30) & (1 << 34) - 1)) * MIX1
    x = (x ^ ((x >> 27) & (1 << 37) - 1)) * MIX2
    return x ^ ((x >> 31) & (1 << 33) - 1)


def uniform(tokens_BL: Tensor, chosen_BL: Tensor, key: int) -> Tensor:
    """A number in [0, 1) for each chosen place [N]: of (key, all tokens of the row and which are chosen, the place in the row)."""
    places_L = torch.arange(1, tokens_BL.shape[1] + 1, device=tokens_BL.device)
    row_B = mix((mix(tokens_BL * 2 + chosen_BL) + places_L * GOLDEN) ^ key).sum(1)
    words_BL = mix(mix(row_B)[:, None] + places_L * GOLDEN)
    return (words_BL[chosen_BL] >> (64 - BITS) & (1 << BITS) - 1).float() * 2.0**-BITS


@torch.no_grad()
def sample(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The token [N] at which the chances, summed up in the vocabulary's order, pass the number drawn."""
    summed_NV = logits_NV.detach().float().softmax(-1).cumsum(-1)
    reached_N1 = uniform_N[:, None] * summed_NV[:, -1:]
    return torch.searchsorted(summed_NV, reached_N1, right=True).squeeze(1).clamp_max(logits_NV.shape[1] - 1)
