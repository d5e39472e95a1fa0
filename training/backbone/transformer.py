"""The one transformer.

Letters: B batch, L length, D width, E embedding width, H heads, K width of a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from infra.errors import ConfigError
from training.backbone.attention import Attention, Sight
from training.backbone.config import BackboneConfig


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by a sigmoid (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "quick_gelu": quick_gelu,
}


KINDS_OF_LAYERS = 64  # by width, mask, training or not: beyond so many torch would compute the next one uncompiled, without a word


@dataclass
class Hidden:
    """What heads may look at. `layers` and `scores` are empty unless asked for: distillation is the only asker."""

    last_BLD: Tensor
    layers: tuple[Tensor, ...] = ()  # the embedding's output, then each block's: layers + 1 tensors
    scores: tuple[Tensor, ...] = ()  # per layer: attention scores, scaled, before mask and softmax, [B, H, L, L]
    keep_BL: Tensor | None = None


class Embedding(nn.Module):
    """Token + position (+ segment), normed where the config says so, brought to the model's width last."""

    def __init__(self, c: BackboneConfig) -> None:
        super().__init__()
        self.offset, self.longest = c.position_offset, c.positions
        self.token = nn.Embedding(c.vocab_rows, c.embedding_width)
        self.position = nn.Embedding(c.positions + c.position_offset, c.embedding_width)
        self.segment = nn.Embedding(c.segments, c.embedding_width) if c.segments else None
        self.norm = nn.LayerNorm(c.embedding_width, c.eps) if c.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(c.embedding_rate)
        self.up = nn.Linear(c.embedding_width, c.width) if c.embedding_width != c.width else nn.Identity()

    def places(self, tokens_BL: Tensor, keep_BL: Tensor | None, places_BL: Tensor | None = None) -> Tensor:
        """Rows of the position table; with an offset only real tokens count, and padding has the row before them."""
        length = tokens_BL.shape[1]
        if places_BL is not None:
            return places_BL + self.offset
        if length > self.longest:
            raise ConfigError(f"{length} tokens are more than the model's {self.longest} positions; cut the text or raise `positions`")
        if self.offset == 0 or keep_BL is None:
            return torch.arange(self.offset, self.offset + length, device=tokens_BL.device)[None]
        keep = keep_BL.long()
        return keep.cumsum(1) * keep + self.offset - 1

    def forward(self, tokens_BL: Tensor, segments_BL: Tensor | None, keep_BL: Tensor | None, places_BL: Tensor | None = None) -> Tensor:
        x_BLE = self.token(tokens_BL) + self.position(self.places(tokens_BL, keep_BL, places_BL))
        if self.segment is not None:
            no_segment = segments_BL is None or self.segment.num_embeddings == 1  # RoBERTa's one row serves both segments
            x_BLE = x_BLE + self.segment(torch.zeros_like(tokens_BL) if no_segment else segments_BL)
        return self.up(self.dropout(self.norm(x_BLE)))


class FeedForward(nn.Module):
    """Each place by itself: up, activation, down."""

    def __init__(self, c: BackboneConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(c.width, c.ffn), nn.Linear(c.ffn, c.width)
        self.activation = ACTIVATIONS[c.activation]

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BLD)))


class Block(nn.Module):
    """Two sublayers, each wrapped in a residual; the norm stands before (GPT-2) or after (GPT-1, BERT).

    What layers share is taken from the first block, a sublayer together with its norm (ALBERT, table 4).
    """

    def __init__(self, c: BackboneConfig, first: Block | None = None, number: int = 0) -> None:
        super().__init__()
        attention_of = first if c.share in ("attention", "all") else None
        ffn_of = first if c.share in ("ffn", "all") else None
        self.pre, self.dropout = c.norm == "pre", nn.Dropout(c.dropout)
        self.attention: Attention = attention_of.attention if attention_of else Attention(c, number)
        self.attention_norm: nn.LayerNorm = attention_of.attention_norm if attention_of else nn.LayerNorm(c.width, c.eps)
        self.ffn: FeedForward = ffn_of.ffn if ffn_of else FeedForward(c)
        self.ffn_norm: nn.LayerNorm = ffn_of.ffn_norm if ffn_of else nn.LayerNorm(c.width, c.eps)

    def forward(self, x_BLD: Tensor, sight: Sight, layer: int, written_out: bool = False) -> tuple[Tensor, Tensor | None]:
        mixed_BLD, scores = self.attention(self.attention_input(x_BLD), sight, layer, written_out)
        return self.after_attention(x_BLD, mixed_BLD), scores

    def attention_input(self, x_BLD: Tensor) -> Tensor:
        """What attention reads of the residual stream [B, L, D]."""
        return self.attention_norm(x_BLD) if self.pre else x_BLD

    def after_attention(self, x_BLD: Tensor, mixed_BLD: Tensor) -> Tensor:
        """Both residual additions and the feed-forward sublayer, given attention's output; all are [B, L, D]."""
        x_BLD = x_BLD + self.dropout(mixed_BLD)
        if self.pre:
            return x_BLD + self.dropout(self.ffn(self.ffn_norm(x_BLD)))
        x_BLD = self.attention_norm(x_BLD)
        return self.ffn_norm(x_BLD + self.dropout(self.ffn(x_BLD)))


class Backbone(nn.Module):
    """Embedding and blocks: token ids in, hidden states out."""

    def __init__(self, c: BackboneConfig) -> None:
        super().__init__()
        self.config, self.embedding = c, Embedding(c)
        first = Block(c)
        self.blocks = cast("list[Block]", nn.ModuleList([first, *(Block(c, first, number) for number in range(1, c.layers))]))
        self.norm = nn.LayerNorm(c.width, c.eps) if c.norm == "pre" else nn.Identity()
        self.recompute = 0  # every so many-th layer keeps its input alone and is computed again for its gradient; 0: none
        self.compiled = False  # by compiled()
        initialise(self, c)
        self._shrink_residuals()

    def _shrink_residuals(self) -> None:
        if not self.config.residual_init:
            return
        std = self.config.init_std / math.sqrt(2 * self.config.layers)
        for projection in {id(m): m for b in self.blocks for m in (b.attention.out, b.ffn.down)}.values():
            draw(projection.weight, std, self.config.truncated_init)

    def forward(
        self,
        tokens_BL: Tensor,
        segments_BL: Tensor | None = None,
        keep_BL: Tensor | None = None,
        *,
        parts_BL: Tensor | None = None,
        places_BL: Tensor | None = None,
        every_layer: bool = False,
        attention_scores: bool = False,
    ) -> Hidden:
        """parts_BL and places_BL: which of a row's sequences each token is of, and its place in it, as a Batch has them."""
        x_BLD = self.embedding(tokens_BL, segments_BL, keep_BL, places_BL)
        sight = Sight(self.config, tokens_BL, keep_BL, parts_BL)
        if self.compiled:
            sight.prepare(x_BLD)
        seen, scores = [x_BLD], []
        for layer, block in enumerate(self.blocks):
            again = self.recompute and layer % self.recompute == 0 and x_BLD.requires_grad
            run = partial(checkpoint, block, use_reentrant=False) if again else block
            x_BLD, scores_BHLL = run(x_BLD, sight, layer % 2 if self.config.band else 0, attention_scores)  # all that a band asks
            seen.append(x_BLD) if every_layer else None
            scores.append(scores_BHLL) if attention_scores else None
        return Hidden(self.norm(x_BLD), tuple(seen) if every_layer else (), tuple(scores), keep_BL)


def recompute(module: nn.Module, every: int) -> nn.Module:
    """Let every backbone below `module` compute every so many-th layer anew for its gradient (Chen et al. 2016): the same bits, in
    less memory and more time. 0: none."""
    for part in module.modules():
        if isinstance(part, Backbone):
            part.recompute = every
    return module


def compiled(module: nn.Module) -> nn.Module:
    """Let torch.compile make one kernel program for the layers of every backbone below `module`, for rows of any number and length:
    which shapes came before must not decide how one is computed, or a resumed training would end with other bits."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = KINDS_OF_LAYERS
    for part in module.modules():
        if isinstance(part, Backbone):
            part.compiled = True
        elif isinstance(part, Block):
            part.compile(dynamic=True)
    return module


def initialise(module: nn.Module, c: BackboneConfig) -> None:
    """Weights of every linear map and embedding below `module` from N(0, init_std), biases 0, norms 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            draw(part.weight, c.init_std, c.truncated_init)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


class _NoDraws(TorchFunctionMode):
    """torch's own initializers do nothing: on the meta device they would import its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, nn.init.trunc_normal_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules created within have shapes and no numbers (torch's meta device)."""
    with torch.device("meta"), _NoDraws():
        yield


def draw(weight: Tensor, std: float, truncated: bool) -> None:
    """Fill a tensor from N(0, std), cut at two deviations if asked."""
    if weight.is_meta:  # shapes only: somebody is counting
        return
    if truncated:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.normal_(weight, std=std)


def count_parameters(module: nn.Module) -> int:
    """Exact, tied tensors once."""
    return sum(parameter.numel() for parameter in module.parameters())
