"""How long a CPU takes for a step, from the model's shape and from the rate at which products of matrices run there.

What is not a product goes over the numbers that are kept for the backward pass, over those that dropout draws for, and, once a step,
over the parameters. What one of these takes was fitted to trainings of GPT, BERT, ALBERT and ELECTRA, 256 to 512 wide, rows of 64 to
1024 tokens, one and two ranks. tests/benchmarks/bench_plan.py tells how far off it is; what ranks say to each other is left out.
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
