"""Small towers, a feed made of numbers, and a rank's program: what the engine's tests are made of."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone
from training.engine.loop import LoopConfig, train
from training.engine.measure import METRICS, read
from training.engine.optim import lr_at, make
from training.engine.rank import key_of
from training.families.catalog import family
from training.feed.batch import IGNORE, Batch
from training.objectives.language import LanguageHead
from training.objectives.sequence import SequenceHead
from training.objectives.tower import Losses, Tower

VOCAB, LENGTH, MASK = 48, 12, 3
POISON = VOCAB - 1
TIED = ("backbone.embedding.token.weight", "heads.0.scores.weight")


def backbone(causal: bool, dropout: float) -> BackboneConfig:
    return BackboneConfig(
        vocab=VOCAB,
        width=32,
        layers=2,
        heads=4,
        positions=LENGTH,
        causal=causal,
        norm="pre" if causal else "post",
        embedding_norm=not causal,
        segments=0 if causal else 2,
        dropout=dropout,
    )


def gpt(dropout: float = 0.0) -> Tower:
    body = Backbone(backbone(True, dropout))
    return Tower(body, [LanguageHead("next", body)])


def bert(dropout: float = 0.0) -> Tower:
    body = Backbone(backbone(False, dropout))
    return Tower(body, [LanguageHead("mlm", body), SequenceHead("pair", body.config, 2)])


def albert(dropout: float = 0.0) -> Tower:
    """One layer's weights serve all three; the embedding is narrower."""
    body = Backbone(replace(backbone(False, dropout), layers=3, embedding_width=16, share="all"))
    return Tower(body, [LanguageHead("mlm", body), SequenceHead("pair", body.config, 2)])


def electra(dropout: float = 0.0) -> Tower:
    """Two towers over one embedding."""
    return family("electra").build(replace(backbone(False, dropout), embedding_width=24, generator=0.25))


def half(dropout: float = 0.0) -> Tower:
    """BERT whose first layer and segments are frozen."""
    tower = bert(dropout)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(not name.startswith(("backbone.blocks.0.", "backbone.embedding.segment.")))
    return tower


TOWERS = {"gpt": gpt, "bert": bert}
ALL_TOWERS = {**TOWERS, "albert": albert, "electra": electra}
KINDS = {**ALL_TOWERS, "half": half}


class Poisonable(Tower):
    """A tower that a poisoned batch makes go wrong: its loss is NaN ("nan"), fifty times too large, with its gradient ("loud"), or
    right, with a gradient a thousand times too large ("steep")."""

    def __init__(self, tower: Tower, wrong: str) -> None:
        super().__init__(tower.backbone, tower.heads)
        self.wrong = wrong

    def forward(self, batch: Batch) -> Losses:
        losses = super().forward(batch)
        if not bool((batch.tokens_BL[0] == POISON).all()):
            return losses
        total = losses.total
        spoilt = {"nan": total * math.nan, "loud": total * 50.0, "steep": total + 1000.0 * (total - total.detach())}[self.wrong]
        return Losses(spoilt, losses.parts)


def poisonable(wrong: str, dropout: float = 0.0) -> Tower:
    return Poisonable(gpt(dropout), wrong)


@dataclass
class Numbers:
    """Batches by arithmetic: batch `step` is a function of the step (or the same each time, to be learnt by heart).

    BERT's sequences are of unequal length with unequal numbers of masks, many in the first rows, hardly any in the last.
    """

    kind: str
    batch_size: int = 10
    same: bool = False
    examples: int = 40
    steps_per_epoch: int = 4
    kill_at: int = -1  # rank 1 dies as it asks for this step, once
    fail_at: int = -1
    term_at: int = -1
    stop_at: int = -1  # the last rank is stopped for good, as by a dead disk
    mark: str = ""
    left_out: tuple[int, ...] = ()  # batches that do not exist
    poison_at: int = -1  # the batch whose first row is POISON throughout
    poison_also: int = -1
    pace_s: float = 0.0

    def whole(self, step: int) -> Batch:
        number = step
        for one in sorted(self.left_out):
            number += one <= number
        batch = self._whole(number)
        if number in (self.poison_at, self.poison_also):
            batch.tokens_BL[0] = POISON
        return batch

    def _whole(self, step: int) -> Batch:
        rng = torch.Generator().manual_seed(0 if self.same else step)
        tokens = torch.randint(4, VOCAB, (self.batch_size, LENGTH + 1), generator=rng)
        if self.kind == "gpt":
            return Batch(tokens[:, :-1].contiguous(), labels={"next": tokens[:, 1:].contiguous()})
        tokens = tokens[:, :-1]
        rows = torch.arange(self.batch_size)[:, None]
        keep = torch.arange(LENGTH)[None] < LENGTH - rows % 4
        chosen = (torch.rand(tokens.shape, generator=rng) < 0.6 / (1 + rows)) & keep
        labels = tokens.masked_fill(~chosen, IGNORE)
        segments = (torch.arange(LENGTH)[None] > 5).long().expand_as(tokens)
        pair = torch.randint(2, (self.batch_size,), generator=rng)
        return Batch(tokens.masked_fill(chosen, MASK), segments, keep, {"mlm": labels, "pair": pair})

    def slice(self, step: int, rank: int, world: int) -> Batch:
        if step == self.kill_at and rank == world - 1 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.term_at and rank == world - 1 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGTERM)
        if step == self.stop_at and rank == world - 1 and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(self.pace_s)
        if step == self.fail_at:
            raise ValueError("as if the disk were gone")
        return self.whole(step).rows(self.batch_size * rank // world, self.batch_size * (rank + 1) // world)

    def trace(self, step: int) -> list[tuple[str, int]]:
        return [("00000.arrow", step), ("00001.arrow", step)]


@dataclass
class Trial:
    """One call of train()."""

    out: Path
    config: LoopConfig
    kind: str = "gpt"
    dropout: float = 0.0
    feed: dict[str, object] = field(default_factory=dict)
    valid: bool = False
    make: object = None
    imported: bool = False


@dataclass
class Seen:
    losses: list[float]
    lines: list[dict]
    arrays: dict[str, np.ndarray]  # not tensors: those cross processes by handles that die with their owner
    tied: bool
    loss: float
    one_storage: list[list[str]] = field(default_factory=list)  # names of weights that are one tensor

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(x) for name, x in self.arrays.items()}


def together(weights: dict[str, Tensor]) -> list[list[str]]:
    """Names that stand for one storage, in groups of more than one."""
    groups: dict[int, list[str]] = {}
    for name, value in weights.items():
        groups.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def plain(kind: str, config: LoopConfig, idle: Collection[int] = ()) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """What one process does with torch alone, one whole batch a step: losses, gradient norms, weights. idle: steps that move nothing."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    tower, feed, o = KINDS[kind](), Numbers(kind), config.optimiser
    matrices, vectors = ([p for p in tower.parameters() if (p.ndim > 1) is big] for big in (True, False))
    groups = [{"params": matrices, "weight_decay": o.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=o.betas, eps=o.eps) if o.optimiser == "adamw" else make(tower, o)
    losses, norms = [], []
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = lr_at(o, step, config.steps)
        optimiser.zero_grad()
        loss = tower(replace(feed.whole(step), draws=key_of(config.seed, step))).total
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(tower.parameters(), config.clip)))
        if step not in idle:
            optimiser.step()
        losses.append(loss.item())
    return losses, norms, tower.state_dict()


def run_all(trials: list[Trial]) -> list[Seen] | None:
    """A rank's program: every trial in one process, because torch and DeepSpeed take seconds to import."""
    torch.set_num_threads(1)
    seen = []
    for trial in trials:
        trial.out.mkdir(parents=True, exist_ok=True)
        make = trial.make or partial(KINDS[trial.kind], trial.dropout)
        valid = partial(Numbers, trial.kind, batch_size=7, steps_per_epoch=3) if trial.valid else None
        done = train(make, partial(Numbers, trial.kind, **trial.feed), valid, trial.config, trial.out, "pretrain", trial.imported)
        lines = read(trial.out / METRICS)
        arrays = {name: x.numpy() for name, x in (done.weights or {}).items()}
        tied = len({x.ctypes.data for name, x in arrays.items() if name in TIED}) == 1
        seen.append(Seen([line["loss"] for line in lines], lines, arrays, tied, done.loss, together(done.weights or {})))
    return seen if os.environ.get("RANK", "0") == "0" else None


def settings(**changes: object) -> LoopConfig:
    from training.engine.optim import OptimConfig

    said = {
        "steps": 12,
        "micro_batch": 5,
        "zero": 1,
        "optimiser": OptimConfig(lr=3e-3, warmup=3),
        "seed": 7,
        "log_every": 1,
        "save_every": 5,
    }
    return LoopConfig(**{**said, **changes})
