"""What a model costs, from its shape alone: parameters, arithmetic per token, memory per rank. Nothing is allocated.

Letters in the formulas: T length, D width, F inner width, E embedding width, V vocabulary, H heads, P parameters, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from infra.errors import ConfigError
from training.backbone.attention import SHORT
from training.backbone.config import BackboneConfig
from training.backbone.transformer import count_parameters, shapes_only
from training.families.family import Family, Preset
from training.objectives.tower import Tower
from training.objectives.vocabulary import BYTES as SCORES
from training.objectives.vocabulary import Vocabulary

BUCKET = 200_000_000  # numbers that the engine reduces at once (training/engine/zero.py)
LIVE = 1_000_000_000  # numbers that DeepSpeed's stage 3 keeps gathered (its stage3_max_live_parameters, as it comes)
HOLES = 0.18  # of a CPU rank: what the heap's gaps hold beyond tensors; 0.13 to 0.23 measured (bench_plan.py)
KERNELS = 20_000_000  # bytes of a CPU rank: programs that kernels make for their shapes, and pages of libraries, measured
GLOO = {1: (0, 0), 2: (1, 3), 3: (2, 3)}  # by ranks, 3 for more: buckets' worth on a CPU while one is summed up, and under ZeRO 3; measured
STAGES = (0, 1, 2, 3)
OFFLOADS = ("", "optimizer", "parameters")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

FORMULAS = {
    "flops_per_token": "3 x forward; forward = layers x (2 (4 D^2 + 2 D F) + 4 T D) + 2 E D where E is not D + heads: next 2 E V, "
    "mlm rate x 2 (D E + E V), rtd 2 (D^2 + D), pair 2 (D^2 + 2 D) / T. Kaplan et al. 2020, table 1, and Chowdhery et al. 2022, "
    "appendix B: products of matrices only, backward twice the forward, attention counted as if nothing were hidden from it.",
    "memory": "Rajbhandari et al. 2020 (ZeRO), sections 3.1 and 5, with float32 Adam moments 8 P. fp32: weights 4 P, gradients 4 P. "
    "bf16 under ZeRO 1 to 3: weights 2 P, gradients 2 P; without ZeRO: float32 and a bf16 copy for the products, 6 P. "
    "ZeRO 1 to 3 hold a float32 copy of a rank's share, 4 P / R. Stage 1 divides the moments by R, 2 the gradients too, 3 the "
    "weights too; it brings together as many as DeepSpeed lets live, 10^9 numbers, so a smaller model stays whole. The total is the most "
    "that stands at once: weights and optimiser with either the activations and what goes with them (gradients only where micro-batches "
    "add up, or under ZeRO 3), or the gradients and the update's flat copies of a rank's share, 4 P / R in float32 and 2 P / R in half. "
    "Buffers: one reduce bucket of at most 200 million numbers, or the scores of the vocabulary, whichever is more. On a CPU a heap is "
    "left with gaps: the update's copies take the room of the scores at best (none, where they are more than the activations, and none "
    "under ZeRO 3), and stand beside all else; so do, on two ranks, a bucket and the gradients (on more two buckets, under ZeRO 3 three "
    "more); 18% of it all is added, and 20 MB for kernels. Under autocast (bf16 without ZeRO) the inputs of layer norms, 2 D a layer, "
    "are float32.",
    "activations": "Korthikanti et al. 2022, section 4.1, counted for this code: each layer keeps 8 D + 2 F numbers a token, with dropout "
    "2 D masks (4 bytes a number on a CPU, 1 on a GPU), attention weights where a CPU writes attention out (H T, with dropout twice and a "
    "byte); the embedding 3 D; a language head E for each predicted token, 4 E more where it has a transform, and the gradient of its "
    "matrix V E, in float32 where it is made in parts. Scores: all, or twice as many tokens' as fit into 64 MiB (a GPU: 512 MiB), or the "
    "copy of that gradient that is made when they are gone. A layer that is computed again keeps D, and all of one such layer stands "
    "while its gradient is made. Offload puts the optimiser's part, the float32 gradients and, asked for, the weights into the host's "
    "memory.",
}


@dataclass(frozen=True)
class Setting:
    """How a model would be trained. micro_batch: sequences a rank puts through it at once; accumulated: several of them make a step.

    recompute: every so many-th layer is computed again for its gradient; offload: as ZeroConfig's.
    """

    length: int
    ranks: int = 1
    precision: str = "fp32"
    micro_batch: int = 1
    gpu: bool = False
    recompute: int = 0
    offload: str = ""
    accumulated: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "ranks", "micro_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.precision not in BYTES:
            raise ConfigError(f"precision {self.precision!r} is none of {', '.join(BYTES)}")
        if self.offload not in OFFLOADS:
            raise ConfigError(f"offload {self.offload!r} is none of {', '.join(OFFLOADS[1:])}")
        if self.recompute < 0:
            raise ConfigError(f"activation_checkpointing is {self.recompute}; it must be 0 (none) or more")


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank, each part at its most. host: of that, what offload moved from a GPU to the host's memory, not in the total."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    buffers: int
    update: int = 0  # copies of gradients that are made when the weights move
    lasting: bool = False  # gradients stand beside activations: micro-batches add up, or ZeRO 3 sets their place aside
    host: int = 0
    holes: float = 0.0  # of a CPU's heap, as a share of the rest
    kernels: int = 0  # what a CPU's keep for themselves

    @property
    def total(self) -> int:
        """The most that stands at once."""
        through = self.activations + self.buffers + (self.gradients if self.lasting else 0)
        return round((self.weights + self.optimiser + max(through, self.gradients + self.update)) * (1 + self.holes)) + self.kernels


def shape_of(family: Family, backbone: BackboneConfig) -> Tower:
    """The tower with its pretraining heads on the meta device: sizes without numbers."""
    with shapes_only():
        return family.build(backbone)


def share_predicted(family: Family) -> float:
    """Of all tokens, those that a language head is asked about."""
    return family.masking.rate if family.masking and "mlm" in family.objective else 1.0


def forward_flops(family: Family, tower: Tower, length: int) -> float:
    """Floating-point operations of one pass, per token; of both towers, where there are two."""
    return sum(part_flops(family, part, length) for part in _parts(family, tower))


def part_flops(family: Family, part: Tower, length: int) -> float:
    """Of one pass through one of a family's models, per token."""
    return _body(part.config, length) + _heads(part, length, share_predicted(family))


def training_flops(family: Family, tower: Tower, length: int) -> float:
    """Forward and backward: each product of matrices becomes three."""
    return 3 * forward_flops(family, tower, length)


def dropped(family: Family, tower: Tower, length: int) -> float:
    """Numbers that go through dropout, per token: E once, 2 D and H T a layer."""
    return sum(_dropped(part.config, length) for part in _parts(family, tower))


def _dropped(c: BackboneConfig, length: int) -> float:
    hidden = c.embedding_width + 2 * c.layers * c.width if c.dropout else 0
    return hidden + (c.layers * c.heads * length if c.attention_rate else 0)


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
    """Bytes kept for the backward pass of one micro-batch, the gradient of the vocabulary's matrix among them."""
    tokens, total = setting.length * setting.micro_batch, 0.0
    for part in _parts(family, tower):
        total += _kept(part.config, setting, share_predicted(family), part) * tokens
        c = part.config
        if not _judges(part):
            continue
        if c.generator:  # ELECTRA's keeps all scores
            total += 4 * 3 * share_predicted(family) * tokens * c.vocab
        else:
            total += _judged(family, c, setting).gradient
    return round(total)


def scores(family: Family, tower: Tower, setting: Setting) -> int:
    """Bytes that stand for a moment at the vocabulary: scores of one part of the tokens, and the last or next part's, or what scales
    the gradient of its matrix when they are gone."""
    parts = [part.config for part in _parts(family, tower) if _judges(part) and not part.config.generator]
    judged = [_judged(family, c, setting) for c in parts]
    return round(max((max(one.scores, one.scaling) for one in judged), default=0))


class _Judged(NamedTuple):
    """Bytes of the vocabulary's work, as training/objectives/vocabulary.py does it."""

    scores: float
    gradient: float  # of the matrix, made with the loss
    scaling: float  # copies of it when the loss's own gradient is known


def _judged(family: Family, c: BackboneConfig, setting: Setting) -> _Judged:
    size, matrix = BYTES[setting.precision], c.vocab * c.embedding_width
    whole, most = size * share_predicted(family) * setting.length * setting.micro_batch * c.vocab, SCORES["cuda" if setting.gpu else "cpu"]
    if whole <= most:
        return _Judged(whole, size * matrix, 4 * matrix)
    rounded = size * matrix if size < 4 else 0
    return _Judged(min(whole, 2 * most), 4 * matrix, 4 * matrix + rounded)


def _judges(tower: Tower) -> bool:
    return any(isinstance(getattr(head, "scores", None), Vocabulary) for head in tower.heads)


def _kept(c: BackboneConfig, setting: Setting, share: float, tower: Tower) -> float:
    size = BYTES[setting.precision]
    layer = size * (8 * c.width + 2 * c.ffn)
    if c.dropout:
        layer += 2 * c.width * (1 if setting.gpu else size)
    written_out = setting.length <= (SHORT[torch.bfloat16] if size < 4 else SHORT[torch.float32])
    if not setting.gpu and (c.attention_rate or written_out):
        layer += (2 * size + 1 if c.attention_rate else size) * c.heads * setting.length
    language = any(head.name in ("next", "mlm") for head in tower.heads)
    head = 4 * share * (1 if c.causal else 5) * c.embedding_width if language else 0
    again = -(-c.layers // setting.recompute) if setting.recompute else 0
    layers = c.layers * layer if not again else (c.layers - again + 1) * layer + again * size * c.width
    return layers + size * 3 * c.width + head


def memory(family: Family, tower: Tower, setting: Setting, stage: int) -> Memory:
    """The most that one rank holds under a stage of ZeRO. Raises ConfigError where the stage cannot offload what is asked for."""
    parameters, ranks = count_parameters(tower), setting.ranks
    share, size = -(-parameters // ranks), BYTES[setting.precision]
    if stage < lowest(setting.offload):
        raise ConfigError(f"ZeRO {stage} cannot offload {setting.offload}: take a higher stage, or take offload out")
    kept, seen, several = activations(family, tower, setting), scores(family, tower, setting), ranks > 1
    if stage == 0:
        weights = 4 * parameters + (size * parameters if size < 4 else 0)
        kept += _uncast(family, tower, setting)
        bucket = 4 * parameters if several else 0
        return _on_cpu(Memory(weights, 4 * parameters, 8 * parameters, kept, seen, bucket, setting.accumulated), setting, stage)
    bucket = size * min(parameters, BUCKET) if several or stage == 3 else 0
    flat = 4 * share + (size * share if size < 4 else 0)
    weights, gradients = size * parameters, size * (parameters if stage == 1 else share)
    buffers = max(seen, bucket) if setting.gpu else seen
    if stage == 3:
        weights, buffers = size * share, seen + bucket + size * _gathered(tower, ranks)
    made = Memory(weights, gradients, (4 + 8) * share, kept, buffers, flat, setting.accumulated or stage == 3)
    return _on_cpu(_offloaded(made, setting, share) if setting.offload else made, setting, stage, bucket)


def _on_cpu(made: Memory, setting: Setting, stage: int, bucket: int = 0) -> Memory:
    """Between freed activations a heap is left with gradients, so that the update's copies find no room there: they take the scores',
    or stand beside all. So do a bucket and the gradients where ranks sum them up."""
    if setting.gpu:
        return made
    apart = stage == 3 or made.activations < made.update
    buffers = made.buffers + made.update if apart else max(made.buffers, made.update)
    buffers += GLOO[min(setting.ranks, max(GLOO))][stage == 3] * bucket
    return replace(made, buffers=buffers, update=0, lasting=made.lasting or bool(bucket), holes=HOLES, kernels=KERNELS)


def _uncast(family: Family, tower: Tower, setting: Setting) -> int:
    """Under autocast the inputs of layer norms are float32: what that takes beyond the half's own size."""
    if setting.precision == "fp32":
        return 0
    return round(
        sum(2 * 2 * part.config.width * part.config.layers for part in _parts(family, tower)) * setting.length * setting.micro_batch
    )


def lowest(offload: str) -> int:
    """The first stage of ZeRO that can offload this."""
    return max(0, OFFLOADS.index(offload) * 2 - 1)


def _offloaded(whole: Memory, setting: Setting, share: int) -> Memory:
    """What stays on the rank's device. On a CPU nothing goes away, and the float32 gradients have a place of their own."""
    size = BYTES[setting.precision]
    moved = whole.optimiser + 4 * share + (size * share if setting.offload == "parameters" else 0)
    if not setting.gpu:
        return replace(whole, optimiser=whole.optimiser + (4 + size) * share, update=0)
    weights = whole.weights - (size * share if setting.offload == "parameters" else 0)
    return replace(whole, weights=weights, optimiser=0, update=0, host=moved)


def _gathered(tower: Tower, ranks: int) -> int:
    """Numbers that ZeRO 3 brings together at once: as many as may live, and never less than the largest layer and the embedding."""
    if ranks == 1:
        return 0
    largest = max(count_parameters(block) for block in tower.backbone.blocks)  # type: ignore[arg-type]
    return max(largest + count_parameters(tower.backbone.embedding), min(count_parameters(tower), LIVE))
