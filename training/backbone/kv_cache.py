"""Key-value cache: the forward pass of a causal backbone that computes only the tokens it has not seen yet.

Letters: B rows, L new tokens, T tokens in the cache, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from training.backbone.attention import Attention
from training.backbone.transformer import Backbone


class KVCache:
    """Keys and values of every layer, for rows that are padded on the left to one length.

    padding_B: how many padding tokens each row starts with; None: none. capacity: tokens that fit, padding included.
    """

    def __init__(self, backbone: Backbone, rows: int, capacity: int, padding_B: Tensor | None = None) -> None:
        c, like = backbone.config, backbone.embedding.token.weight
        if not c.causal:
            raise ConfigError("a bidirectional model has no key-value cache: each token reads those that follow it")
        shape = (2, rows, c.heads, capacity, c.head_width)
        self._layers = [like.new_empty(shape) for _ in range(c.layers)]
        self.backbone, self.length, self.capacity = backbone, 0, capacity
        self.padding_B = None if padding_B is None or not bool(padding_B.any()) else padding_B.to(like.device)

    def select(self, rows_R: Tensor) -> None:
        """Continue with these rows, in this order; one may be named several times (beams, samples)."""
        for number, layer in enumerate(self._layers):
            chosen = layer.new_empty((2, len(rows_R), *layer.shape[2:]))
            chosen[:, :, :, : self.length] = layer[:, :, :, : self.length].index_select(1, rows_R)
            self._layers[number] = chosen
        if self.padding_B is not None:
            self.padding_B = self.padding_B[rows_R]

    @torch.inference_mode()
    def extend(self, tokens_BL: Tensor) -> Tensor:
        """Append tokens to every row; the final hidden state [B, 1, D] of the last one.

        Raises ConfigError when the cache or the position table is full.
        """
        length, config = tokens_BL.shape[1], self.backbone.config
        start, end = self.length, self.length + length
        if end > min(self.capacity, config.positions):
            raise ConfigError(f"{end} tokens do not fit: the cache holds {self.capacity}, the model has {config.positions} positions")
        index_L = torch.arange(start, end, device=tokens_BL.device)
        places_BL = index_L[None] if self.padding_B is None else (index_L[None] - self.padding_B[:, None]).clamp(min=0)
        x_BLD = self.backbone.embedding(tokens_BL, None, None, places_BL)
        biases = [self._bias(index_L, end, band, x_BLD.dtype) for band in (0, config.band)]
        for number, block in enumerate(self.backbone.blocks):
            mixed_BLD = self._attend(number, block.attention, block.attention_input(x_BLD), end, biases[number % 2])
            x_BLD = block.after_attention(x_BLD, mixed_BLD)
        self.length = end
        return self.backbone.norm(x_BLD[:, -1:])

    def _attend(self, number: int, attention: Attention, x_BLD: Tensor, end: int, bias: Tensor | None) -> Tensor:
        B, L, D = x_BLD.shape
        q_BHLK, k_BHLK, v_BHLK = attention.project(x_BLD).view(B, L, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
        keys_BHTK, values_BHTK = self._layers[number][:, :, :, :end]
        keys_BHTK[:, :, self.length :], values_BHTK[:, :, self.length :] = k_BHLK, v_BHLK
        if L > 1:
            y_BHLK = F.scaled_dot_product_attention(q_BHLK, keys_BHTK, values_BHTK, bias)
        else:  # one query: two matrix-vector products are faster than the fused kernel
            scores_BHLT = (q_BHLK @ keys_BHTK.transpose(-1, -2)) / math.sqrt(q_BHLK.shape[-1])
            scores_BHLT = scores_BHLT if bias is None else scores_BHLT + bias
            y_BHLK = scores_BHLT.softmax(-1) @ values_BHTK
        return attention.out(y_BHLK.transpose(1, 2).reshape(B, L, D))

    def _bias(self, index_L: Tensor, end: int, band: int, dtype: torch.dtype) -> Tensor | None:
        """What is added to attention scores [B or 1, 1, L, T]: 0 where a query may see a key, else the lowest number; None: all 0."""
        if len(index_L) == 1 and self.padding_B is None and not 0 < band < end:
            return None
        key_T = torch.arange(end, device=index_L.device)
        seen = key_T[None, None] <= index_L[None, :, None]
        if band:
            seen = seen & (key_T[None, None] > index_L[None, :, None] - band)
        if self.padding_B is not None:
            seen = seen & (key_T[None, None] >= self.padding_B[:, None, None])
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
