"""The training steps that ours is measured against, and ours itself, at one size and on one batch.

transformers: its own models under autocast over float32 weights, clipping, fused AdamW: the usual loop.

The step of nanoGPT (Karpathy's repository of that name), written anew here from what it does: one product for query, key and value,
torch's own causal attention, exact GELU, layer norms and linear maps without biases, no dropout, the head tied to the embedding,
scores of all positions at once into cross_entropy, the same loop around it; and the same through torch.compile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, LAYERS, WIDTH, HEADS = 8192, 6, 384, 6
LR, CLIP = 1e-4, 1.0


class NanoBlock(nn.Module):
    """Pre-norm block: attention, then the inner map, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Nano(nn.Module):
    """Tokens and the tokens after them in, mean cross-entropy out."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCAB, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks, self.norm = nn.ModuleList(NanoBlock() for _ in range(LAYERS)), nn.LayerNorm(WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.token.weight
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, tokens: Tensor, after: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).view(-1, VOCAB), after.view(-1))


def nano(length: int, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Raises RuntimeError where nothing can be compiled."""
    torch.manual_seed(0)
    model = Nano(length).train()
    if not compiled:
        return model
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise RuntimeError("torch.compile needs a C++ compiler (g++ or clang++), and none is on the PATH")
    whole: Callable[[Tensor, Tensor], Tensor] = torch.compile(model)
    return whole


def transformers_gpt(length: int) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": length, "vocab_size": VOCAB}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **off))


def transformers_bert(length: int, pairs: bool, vocab: int = VOCAB) -> nn.Module:
    """BertForMaskedLM, or with pairs BertForPreTraining."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
    }
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    kind = transformers.BertForPreTraining if pairs else transformers.BertForMaskedLM
    return kind(transformers.BertConfig(**sizes, **off, vocab_size=vocab, max_position_embeddings=length))


def ours(model: str, length: int, heads: tuple[str, ...] = (), vocab: int = VOCAB) -> nn.Module:
    """The family's own tower; with `heads` with these alone."""
    from dataclasses import replace

    family, backbone = shape(model, length, vocab)
    return (replace(family, heads=heads) if heads else family).build(backbone, seed=0)


def shape(model: str, length: int, vocab: int = VOCAB) -> tuple[Any, Any]:
    """Family and backbone at the one size."""
    from dataclasses import replace

    from training.families import catalog

    family = catalog.family("gpt2" if model == "gpt" else "bert")
    changes: dict[str, Any] = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "ffn": 0, "embedding_width": 0, "dropout": 0.0}
    return family, replace(family.backbone(next(iter(family.sizes)), vocab, length), **changes)


def flops_per_token(model: str, length: int, heads: tuple[str, ...] = (), vocab: int = VOCAB) -> float:
    """As training/cost.py counts them."""
    from dataclasses import replace

    from training import cost

    family, backbone = shape(model, length, vocab)
    family = replace(family, heads=heads) if heads else family
    return cost.training_flops(family, cost.shape_of(family, backbone), length)


def loop(parameters: Any, precision: str, loss_of: Callable[[], Tensor]) -> Callable[[], float]:
    """The usual loop: autocast over float32 weights, clipping, fused AdamW. Matrices decay, vectors do not."""
    parameters = list(parameters)
    groups = [{"params": [p for p in parameters if p.ndim >= 2]}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, LR, weight_decay=0.01, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.item()

    return step
