"""What a model costs, from its shape alone: parameters, arithmetic per token, memory per rank. Nothing is allocated.

Letters in the formulas: T length, D width, F inner width, E embedding width, V vocabulary, H heads, P parameters, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from infra.errors import ConfigError
from training.backbone.attention import SHORT
from training.backbone.config import BackboneConfig
from training.backbone.transformer import count_parameters
from training.families.family import Family, Preset
from training.objectives.tower import Tower
from training.objectives.vocabulary import BYTES as SCORES
from training.objectives.vocabulary import Vocabulary

BUCKET = 200_000_000  # numbers that the engine reduces at once (training/engine/zero.py)
STAGES = (0, 1, 2, 3)
BYTES = {"fp32": 4, "bf16": 2}

FORMULAS = {
    "flops_per_token": "3 x forward; forward = layers x (2 (4 D^2 + 2 D F) + 4 T D) + 2 E D where E is not D + heads: next 2 E V, "
    "mlm rate x 2 (D E + E V), rtd 2 (D^2 + D), pair 2 (D^2 + 2 D) / T. Kaplan et al. 2020, table 1, and Chowdhery et al. 2022, "
    "appendix B: products of matrices only, backward twice the forward, attention counted as if nothing were hidden from it.",
    "memory": "Rajbhandari et al. 2020 (ZeRO), sections 3.1 and 5, with float32 Adam moments 8 P. fp32: weights 4 P, gradients 4 P. "
    "bf16 under ZeRO 1 to 3: weights 2 P, gradients 2 P; without ZeRO: float32 and a bf16 copy for the products, 6 P. "
    "ZeRO 1 to 3 hold a float32 copy of a rank's share, 4 P / R. Stage 1 divides the moments by R, 2 the gradients too, 3 the "
    "weights too (and gathers one layer and the embedding at a time). Buffers: one reduce bucket of at most 200 million numbers.",
    "activations": "Korthikanti et al. 2022, section 4.1, counted for this code: each layer keeps 8 D + 2 F numbers a token, with dropout "
    "2 D masks (4 bytes a number on a CPU, 1 on a GPU), attention weights where a CPU writes attention out (H T, with dropout 3 H T); the "
    "embedding 3 D; a language head E for each predicted token, 4 E more where it has a transform, the gradient of its matrix V E in "
    "float32, and the scores of as many tokens as fit into 64 MiB (a GPU: 512 MiB).",
}


@dataclass(frozen=True)
class Setting:
    """How a model would be trained. micro_batch: sequences a rank puts through it at once."""

    length: int
    ranks: int = 1
    precision: str = "fp32"
    micro_batch: int = 1
    gpu: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "ranks", "micro_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in BYTES:
            raise ConfigError(f"precision {self.precision!r} is none of {', '.join(BYTES)}")


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank, at the most."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations + self.buffers


def shape_of(family: Family, backbone: BackboneConfig) -> Tower:
    """The tower with its pretraining heads on the meta device: sizes without numbers."""
    with torch.device("meta"):
        return family.build(backbone)


def share_predicted(family: Family) -> float:
    """Of all tokens, those that a language head is asked about."""
    return family.masking.rate if family.masking and "mlm" in family.objective else 1.0


def forward_flops(family: Family, tower: Tower, length: int) -> float:
    """Floating-point operations of one pass, per token; of both towers, where there are two."""
    return sum(_body(part.config, length) + _heads(part, length, share_predicted(family)) for part in _parts(family, tower))


def training_flops(family: Family, tower: Tower, length: int) -> float:
    """Forward and backward: each product of matrices becomes three."""
    return 3 * forward_flops(family, tower, length)


def whole_flops(family: Family, tower: Tower, preset: Preset) -> float:
    """The preset's whole pretraining, with the shorter sequences of its opening where it has one."""
    share, short = preset.opening or (0.0, preset.length)
    a_token = share * short * training_flops(family, tower, short) + (1 - share) * preset.length * training_flops(
        family, tower, preset.length
    )
    return preset.steps * preset.batch * a_token


def _parts(family: Family, tower: Tower) -> Iterator[Tower]:
    yield from family.parts(tower).values()


def _body(c: BackboneConfig, length: int) -> float:
    layer = 2 * (4 * c.width**2 + 2 * c.width * c.ffn) + 4 * length * c.width
    return c.layers * layer + (2 * c.embedding_width * c.width if c.embedding_width != c.width else 0)


def _heads(tower: Tower, length: int, share: float) -> float:
    c, total = tower.config, 0.0
    for head in tower.heads:
        if head.name == "rtd":
            total += 2 * (c.width**2 + c.width)
        elif head.name == "pair":
            total += 2 * (c.width**2 + 2 * c.width) / length
        else:
            transform = 0 if c.causal else c.width * c.embedding_width
            total += share * 2 * (transform + c.embedding_width * c.vocab)
    return total


def activations(family: Family, tower: Tower, setting: Setting) -> int:
    """Bytes kept for the backward pass of one micro-batch."""
    tokens, total = setting.length * setting.micro_batch, 0.0
    for part in _parts(family, tower):
        total += _kept(part.config, setting, share_predicted(family), part) * tokens
        total += _vocabulary(part, setting, share_predicted(family) * tokens)
    return round(total)


def _vocabulary(tower: Tower, setting: Setting, predicted: float) -> float:
    """The gradient of the vocabulary's matrix, made with the loss, and the scores that stand at once; ELECTRA's generator keeps all."""
    if not any(isinstance(getattr(head, "scores", None), Vocabulary) for head in tower.heads):
        return 0.0
    c = tower.config
    if c.generator:
        return 4 * 3 * predicted * c.vocab
    return 4 * c.vocab * c.embedding_width + min(SCORES["cuda" if setting.gpu else "cpu"], BYTES[setting.precision] * predicted * c.vocab)


def _kept(c: BackboneConfig, setting: Setting, share: float, tower: Tower) -> float:
    size = BYTES[setting.precision]
    layer = size * (8 * c.width + 2 * c.ffn)
    if c.dropout:
        layer += 2 * c.width * (1 if setting.gpu else size)
    written_out = setting.length <= (SHORT[torch.bfloat16] if size < 4 else SHORT[torch.float32])
    if not setting.gpu and (c.attention_rate or written_out):
        layer += size * (3 if c.attention_rate else 1) * c.heads * setting.length
    language = any(head.name in ("next", "mlm") for head in tower.heads)
    head = 4 * share * (1 if c.causal else 5) * c.embedding_width if language else 0
    return c.layers * layer + size * 3 * c.width + head


def memory(family: Family, tower: Tower, setting: Setting, stage: int) -> Memory:
    """The most that one rank holds under a stage of ZeRO."""
    parameters, ranks = count_parameters(tower), setting.ranks
    share, size = -(-parameters // ranks), BYTES[setting.precision]
    kept = activations(family, tower, setting)
    if stage == 0:
        weights = 4 * parameters + (size * parameters if size < 4 else 0)
        return Memory(weights, 4 * parameters, 8 * parameters, kept, 4 * min(parameters, BUCKET) if ranks > 1 else 0)
    whole = size * (share + _gathered(tower) if stage == 3 else parameters)
    gradients = size * (parameters if stage == 1 else share)
    return Memory(whole, gradients, (4 + 8) * share, kept, size * min(parameters, BUCKET))


def _gathered(tower: Tower) -> int:
    """What ZeRO 3 brings together at once: the largest layer, and the embedding that the head uses too."""
    largest = max(count_parameters(block) for block in tower.backbone.blocks)  # type: ignore[arg-type]
    return largest + count_parameters(tower.backbone.embedding)
