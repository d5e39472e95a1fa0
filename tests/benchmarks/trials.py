"""One training of a made-up batch, as bench_plan.py and bench_gpu.py take it: what is foretold of it and what it takes.

Needs torch, deepspeed and numpy alone, and what the training package itself needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from training import cost
from training.backbone.transformer import recompute
from training.engine.optim import OptimConfig
from training.engine.rank import here
from training.engine.zero import Engine, ZeroConfig
from training.families import catalog
from training.feed.batch import IGNORE, Batch
from training.pace import Pace, on_cpu
from training.rehearsal import take

LR, CLIP = 1e-4, 1.0


@dataclass(frozen=True)
class Case:
    """size: fields of the backbone, empty for the family's first size. rows: sequences of a rank's micro-batch; micros: of a step."""

    model: str
    size: dict[str, Any]
    length: int
    rows: int
    vocab: int = 8192  # 0: the family's own
    dropout: float = 0.0
    precision: str = "bf16"
    stage: int = 1
    ranks: int = 1
    micros: int = 1
    recompute: int = 0
    offload: str = ""
    gpu: bool = False

    def shape(self) -> tuple[Any, Any]:
        """Family and backbone."""
        family = catalog.family("gpt2" if self.model == "gpt" else self.model)
        changes: dict[str, Any] = {"ffn": 0, "embedding_width": 0, **self.size} if self.size else {}
        backbone = family.backbone(next(iter(family.sizes)), self.vocab or None)
        return family, replace(backbone, positions=self.length, dropout=self.dropout, **changes)

    def setting(self) -> cost.Setting:
        return cost.Setting(
            self.length,
            self.ranks,
            self.precision,
            self.rows,
            self.gpu,
            recompute=self.recompute,
            offload=self.offload,
            accumulated=self.micros > 1,
        )

    def foretold(self) -> cost.Memory:
        family, backbone = self.shape()
        return cost.memory(family, cost.shape_of(family, backbone), self.setting(), self.stage)

    def flops(self) -> float:
        """Of a step of one rank."""
        family, backbone = self.shape()
        return self.rows * self.length * self.micros * cost.training_flops(family, cost.shape_of(family, backbone), self.length)

    def pace(self, rate: float, cores: float) -> Pace:
        """What a CPU's step takes, where products of matrices run at a rate."""
        family, backbone = self.shape()
        return on_cpu(family, cost.shape_of(family, backbone), self.setting(), rate, cores)


def batch(case: Case) -> Batch:
    """Random ids under the labels of the family's objective."""
    rng = torch.Generator().manual_seed(0)
    family, _ = case.shape()
    tokens = torch.randint(5, case.shape()[1].vocab, (case.rows, case.length), generator=rng)
    if family.objective == "next":
        return Batch(tokens, labels={"next": torch.cat([tokens[:, 1:], torch.full((case.rows, 1), IGNORE)], 1)})
    chosen = torch.rand(tokens.shape, generator=rng) < family.masking.rate
    labels = {"mlm": tokens.masked_fill(~chosen, IGNORE)} | ({"pair": torch.zeros(case.rows).long()} if "pair" in family.heads else {})
    return Batch(tokens, torch.zeros_like(tokens), None, labels)


def tower_of(case: Case, compiled: bool = False) -> Any:
    family, backbone = case.shape()
    tower = recompute(family.build(backbone, seed=0), case.recompute)
    for block in tower.backbone.blocks if compiled else ():
        block.compile()
    return tower


def engine_of(case: Case, compiled: bool = False) -> Engine:
    place = here()
    tower = tower_of(case, compiled).to(place.device)
    config = ZeroConfig(case.stage, case.precision, case.micros, CLIP, OptimConfig(lr=LR), case.offload)
    engine = Engine(tower, config, place, case.rows)
    engine.module.train()
    return engine


def step_of(engine: Engine, case: Case, given: Batch) -> float:
    """Seconds of one step; all ranks take it together."""
    return take(engine, given, case.micros, LR)
