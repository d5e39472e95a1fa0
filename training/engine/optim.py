"""The optimiser in numbers: learning rate by step, which parameters decay, and the optimiser made for a tower.

The rate is a pure function of the step and is set before every update. Nothing about it is in a checkpoint, and DeepSpeed's
own schedules (logarithmic warm-up by default, two updates at rate zero) have no part in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from infra.errors import ConfigError
from training.backbone.transformer import Block
from training.engine.layerwise import Adapted
from training.engine.muon import Muon

FALLING = ("wsd", "trapezoid", "wsd_sqrt")  # held, and left at the end
SCHEDULES = ("linear", "cosine", "constant", "inverse_sqrt", "wsd", "trapezoid", "wsd_sqrt")
OPTIMISERS = ("adamw", "lamb", "muon")


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are GPT-3's (Brown et al. 2020, appendix B) at the scale of GPT-2's smallest model."""

    lr: float = 6e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    schedule: str = "cosine"
    warmup: float = 0.01  # below 1: share of all steps; from 1 on: steps
    min_ratio: float = 0.1  # the last rate as a share of the highest
    optimiser: str = "adamw"
    bias_correction: bool = True  # False: the first steps are as small as BERT's released optimiser makes them
    decay: float = 0.1  # wsd, trapezoid, wsd_sqrt: the share of all steps, at the end, in which the rate falls
    hold: float = 0.0  # linear, cosine: the share of all steps, at the end, that stays at the last rate (GPT-3: 40 of 300 billion tokens)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if self.optimiser not in OPTIMISERS:
            raise ConfigError(f"optimiser {self.optimiser!r} is none of {', '.join(OPTIMISERS)}")
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay {self.decay} is a share of all steps: above 0, at most 1")
        if not 0 <= self.hold < 1:
            raise ConfigError(f"hold {self.hold} is a share of all steps: at least 0, below 1")
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"lr {self.lr} is not a positive number")
        if self.warmup < 0 or not 0 <= self.min_ratio <= 1:
            raise ConfigError(f"warmup {self.warmup} must be at least 0 and min_ratio {self.min_ratio} between 0 and 1")
        if not all(0 <= b < 1 for b in self.betas) or self.eps <= 0 or self.weight_decay < 0:
            said = f"betas {self.betas}, eps {self.eps}, weight_decay {self.weight_decay}"
            raise ConfigError(f"{said}: betas lie in [0, 1), eps above 0, weight_decay at least 0")

    def warmup_steps(self, steps: int) -> int:
        """How many updates come before the highest rate."""
        return min(steps - 1, round(self.warmup * steps) if self.warmup < 1 else round(self.warmup))


def lr_at(config: OptimConfig, step: float, steps: int) -> float:
    """The rate of update `step` (from 0) of `steps`: a straight rise, the peak at step `warmup`, then the schedule.

    No update has rate zero: the rise starts at lr / (warmup + 1), and the fall reaches min_ratio only at step `steps`.
    """
    warmup = config.warmup_steps(steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    return config.lr * (config.min_ratio + (1.0 - config.min_ratio) * _left(config, step, steps, warmup))


def _left(config: OptimConfig, step: float, steps: int, warmup: int) -> float:
    """What is left of the way from the floor to the peak.

    inverse_sqrt: with the root of the steps done (Vaswani et al. 2017, section 5.3). wsd and trapezoid: the peak is held,
    then left in a straight line (Hu et al. 2024, MiniCPM, section 4; Hägele et al. 2024, section 3). wsd_sqrt: left with one less the
    root of what is done of the fall, which ended lower there (section 4, equation 2).
    """
    done = min(1.0, (step - warmup) / (max(warmup + 1, steps - round(config.hold * steps)) - warmup))
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    if config.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / (max(1, warmup) + step - warmup))
    if config.schedule in FALLING:
        falls = falls_at(config, steps)
        left = min(1.0, (steps - step) / (steps - falls)) if step < steps else 0.0
        return 1.0 - math.sqrt(1.0 - left) if config.schedule == "wsd_sqrt" else left
    return 1.0 - done


def falls_at(config: OptimConfig, steps: int) -> int:
    """The step with which a schedule that holds its rate leaves it; the end, for those that do not."""
    return max(config.warmup_steps(steps), steps - max(1, round(config.decay * steps))) if config.schedule in FALLING else steps


def parameter_groups(tower: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (biases, layer norms) do not: Devlin et al. 2019's list of exclusions, said by shape.

    A tied matrix is one parameter and is listed once; what is frozen is not listed.
    """
    trained = [p for p in tower.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("every parameter of the model is frozen: there is nothing to train")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make(tower: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser that the config names; works under every stage of ZeRO."""
    if config.optimiser == "lamb":
        return lamb(tower, config)
    if config.optimiser == "muon":
        return muon(tower, config)
    return adamw(tower, config)


def adamw(tower: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """torch's own fused AdamW: exact, and no C++ extension is built on anybody's machine. Without bias correction ours."""
    groups = parameter_groups(tower, config.weight_decay)
    if not config.bias_correction:
        return Adapted(groups, lr=config.lr, betas=config.betas, eps=config.eps, bias_correction=False)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def lamb(tower: nn.Module, config: OptimConfig) -> Adapted:
    """You et al. 2020, algorithm 2; what does not decay is not adapted either (ALBERT's released optimiser).

    Each matrix is a group of its own: ZeRO flattens and shares out group by group, so a share belongs to one matrix always.
    """
    groups = []
    for group in parameter_groups(tower, config.weight_decay):
        if group["params"][0].ndim < 2:
            groups.append(group)
        else:
            groups += [{**group, "params": [p], "shape": tuple(p.shape)} for p in group["params"]]
    return Adapted(groups, lr=config.lr, betas=config.betas, eps=config.eps, bias_correction=config.bias_correction)


def muon(tower: nn.Module, config: OptimConfig) -> Muon:
    """Every matrix of a layer is a group of its own, as LAMB's are; all else is AdamW's, with the config's betas."""
    hidden = {id(p) for part in tower.modules() if isinstance(part, Block) for p in part.parameters() if p.ndim == 2}
    groups = []
    for group in parameter_groups(tower, config.weight_decay):
        others = [p for p in group["params"] if id(p) not in hidden]
        mine = [p for p in group["params"] if id(p) in hidden]
        groups += [{**group, "params": others}] if others else []
        groups += [{**group, "params": [p], "orthogonal": True, "matrix": tuple(p.shape)} for p in mine]
    if not hidden:
        raise ConfigError("muon is for the matrices of layers, and this model has none; take adamw")
    return Muon(groups, lr=config.lr, betas=config.betas, eps=config.eps)
