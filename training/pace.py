"""How long a CPU or a GPU takes for a step, from the model's shape and from the rate at which products of matrices run there.

What is not a product goes over the numbers that are kept for the backward pass, over those that dropout draws for, and, once a step,
over the parameters. What one of these takes was fitted to trainings of GPT, BERT, ALBERT and ELECTRA, 256 to 512 wide, rows of 64 to
1024 tokens, one and two ranks. tests/benchmarks/bench_plan.py tells how far off it is; what ranks say to each other is left out.

A GPU is assumed to reach MFU_MOST x width / (width + MFU_HALF) of its data sheet's rate: narrow models spend a larger share of their
time on what is no product. Within a factor of 1.3 this is what published trainings took: ELECTRA-small, 256 wide, four days on a V100
in float32 (Clark et al. 2020, table 1); GPT-2 124M, 768 wide, four days on 8 A100 (nanoGPT's README); PaLM, 18,432 wide, 46% (Chowdhery
et al. 2022, table 3); Megatron-LM's README: 41 to 48% on H100. Further off: BERT-large with DeepSpeed's own kernels on a V100 (51%), the
BERT-base that MosaicBERT is compared with on A100 (20%). `--mfu` replaces it, and `--measure` on the GPU itself is better than either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from training import cost
from training.cost import Setting
from training.families.family import Family
from training.objectives.tower import Tower

# Seconds of a core, on an AMD EPYC with AVX-512; float16 was not measured and is taken for bfloat16
KEPT = {"fp32": 3.0e-9, "bf16": 1.9e-9, "fp16": 1.9e-9}  # for a number that is kept: made, read, its gradient made
DROPPED = {"fp32": 7.4e-9, "bf16": 5.2e-9, "fp16": 5.2e-9}  # for one that goes through dropout and back
MOVED = {"fp32": 3.0e-9, "bf16": 5.5e-9, "fp16": 5.5e-9}  # for a parameter, when it is moved

MFU_MOST, MFU_HALF = 0.48, 250  # of the rate, and the width that reaches half of it
LAUNCH = 5e-4  # seconds of a layer, forward and backward, in which a GPU only waits for its program: some 50 kernels of 10 microseconds


@dataclass(frozen=True)
class Pace:
    """Seconds of a micro-batch of a rank, and of what a step takes beside its micro-batches."""

    micro: float
    update: float


def on_cpu(family: Family, tower: Tower, setting: Setting, rate: float, cores: float) -> Pace:
    """rate: floating-point operations a second, cores: how many, of one rank while the others work too."""
    tokens, layers = setting.length * setting.micro_batch, tower.config.layers
    again = -(-layers // setting.recompute) / layers if setting.recompute else 0.0  # these go forward once more
    products = tokens * cost.training_flops(family, tower, setting.length) * (1 + again / 3)
    kept = cost.activations(family, tower, replace(setting, recompute=0)) / cost.BYTES[setting.precision]
    dropped = tokens * cost.dropped(family, tower, setting.length)
    others = KEPT[setting.precision] * kept + DROPPED[setting.precision] * dropped
    return Pace(products / rate + others / cores, MOVED[setting.precision] * cost.count_parameters(tower) / cores)


def reached(width: int) -> float:
    """The share of a GPU's rate that a model of this width is assumed to reach (MFU)."""
    return MFU_MOST * width / (width + MFU_HALF)


def on_gpu(family: Family, tower: Tower, setting: Setting, rate: float, mfu: float | None = None) -> Pace:
    """rate: floating-point operations a second of one rank's GPU; mfu: the share of it, by the width when left out."""
    tokens, seconds, layers = setting.length * setting.micro_batch, 0.0, 0
    for part in family.parts(tower).values():
        c = part.config
        again = -(-c.layers // setting.recompute) / c.layers if setting.recompute else 0.0
        flops = 3 * cost.part_flops(family, part, setting.length) * (1 + again / 3)
        seconds += tokens * flops / (rate * (mfu or reached(c.width)))
        layers += c.layers
    return Pace(max(seconds, LAUNCH * layers), 0.0)
