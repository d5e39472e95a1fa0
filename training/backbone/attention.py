"""Who looks at whom: the mask, and attention by the fused kernel or written out.

Letters: B batch, L length, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.backbone.config import BackboneConfig

SHORT = {torch.bfloat16: 1024, torch.float32: 512}  # positions up to which a CPU's fused kernel loses, measured


class Sight:
    """What each position may see, made once for all layers of a pass; None means everything.

    parts_BL: in rows of several sequences a token sees its own sequence only; padding is a part of its own and sees itself.
    """

    def __init__(self, config: BackboneConfig, tokens_BL: Tensor, keep_BL: Tensor | None, parts_BL: Tensor | None = None) -> None:
        self.length, self.device, self.config = tokens_BL.shape[1], tokens_BL.device, config
        self.keep = None if keep_BL is None else keep_BL.bool()[:, None, None, :]
        if parts_BL is not None:
            self.keep = (parts_BL[:, :, None] == parts_BL[:, None, :])[:, None]
        self.causal_only = config.causal and self.keep is None
        self._masks: dict[int, Tensor | None] = {}
        self._biases: dict[tuple[int, torch.dtype], Tensor | None] = {}
        self._blind: bool | None = None

    def band_of(self, layer: int) -> int:
        """Even layers are dense, odd ones banded, where the config asks for bands (GPT-3, section 2.1)."""
        band = self.config.band if layer % 2 else 0
        return band if band < self.length else 0

    def mask(self, layer: int) -> Tensor | None:
        """True where a query (row) may look at a key (column)."""
        band = self.band_of(layer)
        if band not in self._masks:
            self._masks[band] = self._make(band)
        return self._masks[band]

    def _make(self, band: int) -> Tensor | None:
        if not self.config.causal:
            return self.keep
        past = torch.ones(self.length, self.length, dtype=torch.bool, device=self.device).tril()
        if band:
            past = past.triu(1 - band)
        return past if self.keep is None else past & self.keep

    def bias(self, layer: int, dtype: torch.dtype) -> Tensor | None:
        """The mask as a number to add: 0 where a query may look at a key, else the lowest there is. Needs `blind` to be False."""
        key = self.band_of(layer), dtype
        if key not in self._biases:
            mask = self.mask(layer)
            lowest = torch.finfo(dtype).min
            self._biases[key] = None if mask is None else torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, lowest)
        return self._biases[key]

    @property
    def blind(self) -> bool:
        """Whether some position may see nothing at all. With a causal mask alone each sees itself."""
        if self._blind is None:
            self._blind = self.keep is not None and not bool(cast("Tensor", self.mask(0)).any(-1).all())
        return self._blind

    def prepare(self, x_BLD: Tensor) -> None:
        """Make what layers over x will ask for, so that compiled ones find it made: they cannot ask a tensor for its values."""
        kind = x_BLD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_BLD.dtype
        short = kind == "cpu" and self.length <= SHORT.get(dtype, 0)
        for layer in range(min(2, self.config.layers)):
            _ = self.bias(layer, dtype) if short and not self.blind else self.mask(layer)

    def fused(self, layer: int) -> tuple[Tensor | None, bool]:
        """The kernel's own causal mask where it says everything, else ours."""
        plain = self.causal_only and not self.band_of(layer)
        return (None, True) if plain else (self.mask(layer), False)


class Attention(nn.Module):
    """Query, key and value from one product, as many heads as the config says, one projection back."""

    def __init__(self, c: BackboneConfig, number: int = 0) -> None:
        super().__init__()
        self.heads, self.dropout = c.heads, c.attention_rate
        self.query_factor = (1.0 if c.scale_attention else math.sqrt(c.head_width)) / (number + 1 if c.scale_by_layer else 1)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.out = nn.Linear(c.width, c.width)

    def project(self, x_BLD: Tensor) -> Tensor:
        """Query, key and value [B, L, 3 D]; the query is scaled so that dividing the logits by the root of K gives the config's scale."""
        qkv_BLD: Tensor = self.qkv(x_BLD)
        if self.query_factor == 1.0:
            return qkv_BLD
        D = x_BLD.shape[-1]
        return torch.cat([qkv_BLD[..., :D] * self.query_factor, qkv_BLD[..., D:]], -1)

    def forward(self, x_BLD: Tensor, sight: Sight, layer: int, written_out: bool = False) -> tuple[Tensor, Tensor | None]:
        """The mixed values and, when written out, the scores before mask and softmax."""
        B, L, D = x_BLD.shape
        qkv_BLD = self.project(x_BLD)
        rate = self.dropout if self.training else 0.0
        if not written_out and kernel_is_slower(qkv_BLD) and not sight.blind:
            return self.out(attend_at_once(qkv_BLD, sight.bias(layer, qkv_BLD.dtype), self.heads, rate)), None
        q_BHLK, k_BHLK, v_BHLK = qkv_BLD.view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        if written_out or kernel_is_slower(q_BHLK):
            y_BHLK, scores_BHLL = attend(q_BHLK, k_BHLK, v_BHLK, sight.mask(layer), rate)
        else:
            mask, causal = sight.fused(layer)
            y_BHLK, scores_BHLL = F.scaled_dot_product_attention(q_BHLK, k_BHLK, v_BHLK, mask, rate, causal), None
        return self.out(y_BHLK.transpose(1, 2).reshape(B, L, D)), scores_BHLL


def kernel_is_slower(x: Tensor) -> bool:
    """On a CPU, for rows that are not long. Forward and backward of 2048 tokens, 6 heads of 64, in ms, written out and fused:

    bfloat16, 128 positions 5 and 17, 256: 7 and 16, 512: 12 and 27, 1024: 22 and 33; float32 6 and 22, 11 and 17, 20 and 24, 47 and 25.
    """
    return x.device.type == "cpu" and x.shape[-2] <= SHORT.get(x.dtype, 0)


def attend(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mask: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
    """Attention written out (Vaswani et al. 2017, equation 1); the scores are scaled, and not yet masked."""
    scores_BHLL = q_BHLK @ k_BHLK.transpose(-1, -2) / math.sqrt(q_BHLK.shape[-1])
    seen = scores_BHLL if mask is None else scores_BHLL.masked_fill(~mask, torch.finfo(scores_BHLL.dtype).min)
    weights_BHLL = seen.float().softmax(-1).to(seen.dtype)
    if mask is not None:  # a row that may see nothing gets nothing, as the fused kernel has it
        weights_BHLL = weights_BHLL.masked_fill(~mask, 0.0)
    return F.dropout(weights_BHLL, rate, training=rate > 0) @ v_BHLK, scores_BHLL


def attend_at_once(qkv_BLD: Tensor, bias: Tensor | None, heads: int, rate: float) -> Tensor:
    """The same in four operations, from a row of query, key and value [B, L, 3 D] to the mixed values [B, L, D].

    The mask is added in place, softmax rounds its float32 only once, and the gradient is written where the next product
    reads it. No position may be blind (Sight.blind): its weights would be equal, not zero.
    """
    with torch.autocast(qkv_BLD.device.type, enabled=False):
        mixed_BLD: Tensor = _AtOnce.apply(qkv_BLD, bias, heads, rate)
    return mixed_BLD


class _AtOnce(torch.autograd.Function):
    """Letters: N = B H, the heads of all rows."""

    @staticmethod
    def forward(ctx: Any, qkv_BLD: Tensor, bias: Tensor | None, heads: int, rate: float) -> Tensor:
        B, L, D = qkv_BLD.shape
        qkv_NLK = qkv_BLD.view(B, L, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, B * heads, L, -1)
        q, k, v = qkv_NLK
        scale = 1 / math.sqrt(q.shape[-1])
        start = bias if bias is not None and bias.dim() == 2 else None  # one mask for all rows: the product begins with it
        scores = torch.baddbmm(q.new_zeros(()) if start is None else start, q, k.transpose(1, 2), beta=int(start is not None), alpha=scale)
        if bias is not None and start is None:
            scores.view(B, heads, L, L).add_(bias)
        weights = scores.softmax(-1)
        seen, kept = torch.native_dropout(weights, rate, True) if rate else (weights, None)
        ctx.save_for_backward(qkv_NLK, weights, kept, None if kept is None else seen)
        ctx.scale, ctx.heads = scale / (1 - rate), heads  # what dropout makes larger, after softmax's gradient instead of before
        return (seen @ v).view(B, heads, L, -1).transpose(1, 2).reshape(B, L, D // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLD: Tensor) -> tuple[Tensor | None, ...]:
        qkv_NLK, weights, kept, seen = ctx.saved_tensors
        q, k, v = qkv_NLK
        B, L, D = grad_BLD.shape
        grad = grad_BLD.view(B, L, ctx.heads, -1).transpose(1, 2).reshape(B * ctx.heads, L, -1)
        made = torch.empty_like(qkv_NLK)
        to_q, to_k, to_v = made
        torch.bmm((weights if kept is None else seen).transpose(1, 2), grad, out=to_v)
        of_weights = grad @ v.transpose(1, 2)
        of_scores = torch._softmax_backward_data(of_weights if kept is None else of_weights.mul_(kept), weights, -1, weights.dtype)
        torch.baddbmm(to_q, of_scores, k, beta=0, alpha=ctx.scale, out=to_q)
        torch.baddbmm(to_k, of_scores.transpose(1, 2), q, beta=0, alpha=ctx.scale, out=to_k)
        return made.view(3, B, ctx.heads, L, -1).permute(1, 3, 0, 2, 4).reshape(B, L, 3 * D), None, None, None
