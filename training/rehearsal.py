"""What a step of a training takes on the machine at hand: tried for a moment, on made-up tokens, by the engine that would train."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from infra.compute import LocalCompute
from training.engine.heap import held
from training.engine.loop import LoopConfig, ready
from training.engine.measure import micros
from training.engine.rank import here, key_of
from training.engine.scaling import Overflow
from training.engine.see import peak_bytes
from training.engine.zero import Engine
from training.families import catalog
from training.families.family import Family
from training.feed.batch import IGNORE, Batch
from training.pretrain_config import PretrainConfig
from training.settings import loop_config, masked_as, model_of

MARKS = Path("/proc/self/clear_refs")
TRIES = 2


@dataclass(frozen=True)
class Rehearsed:
    """Of the slowest and of the fullest rank: seconds of one micro-batch, those a step takes beside its micro-batches, and bytes at the
    most, above what the process held, its libraries in use, before its model was built."""

    micro: float
    rest: float
    peak: int


def rehearse(config: PretrainConfig, vocab: int, compute: LocalCompute) -> dict[int, Rehearsed]:
    """By length of the config's curriculum. Each of the compute's ranks builds the whole model and takes some steps with it.

    Raises what the training itself would raise of a model that does not fit, or of a machine that cannot do what is asked for.
    """
    return compute.gang("rehearsal", partial(_try_all, config, vocab))[0]


def pieces(config: PretrainConfig, ranks: int) -> int:
    """Micro-batches of a full step: as many at every length, as many as the shortest needs (feed/curriculum.py)."""
    return micros(config.batch_tokens // min(config.lengths), ranks, loop_config(config).micro_batch)


def rows_at(config: PretrainConfig, length: int, ranks: int) -> int:
    """Sequences of a length in the fullest micro-batch of a full step."""
    return -(-(config.batch_tokens // length) // (ranks * pieces(config, ranks)))


def _try_all(config: PretrainConfig, vocab: int) -> dict[int, Rehearsed]:
    """In each rank."""
    found: dict[int, Rehearsed] = {}
    warm(loop_config(config))
    for length in dict.fromkeys(config.lengths):
        found[length] = _try(config, vocab, length)
        gc.collect()  # engines hold themselves
    return found


def warm(loop: LoopConfig) -> None:
    """Libraries load what they load with a first step, which is no model's memory: one of a GPT that is hardly there."""
    place, family = here(), catalog.family("gpt2")
    whole = family.backbone(next(iter(family.sizes)), vocab=64)
    backbone = replace(whole, layers=1, width=64, heads=1, ffn=0, embedding_width=0, positions=32)
    with held():
        engine = Engine(ready(partial(family.build, backbone, seed=0), loop, place), loop.engine(1), place, 2)
        take(engine, made_up(family, backbone.vocab, 2, 32, apart=False).to(place.device))
    gc.collect()  # engines hold themselves


def _try(config: PretrainConfig, vocab: int, length: int) -> Rehearsed:
    place, loop = here(), loop_config(config)
    family, backbone = model_of(config, vocab)
    parts, rows = pieces(config, place.world), rows_at(config, length, place.world)
    with held():
        base = mark(place.device)
        engine = Engine(ready(partial(family.build, backbone, seed=config.seed), loop, place), loop.engine(parts), place, rows)
        engine.module.train()
        given = made_up(masked_as(config, family), backbone.vocab, rows, length, config.packed or config.documents_apart)
        given = replace(given.to(place.device), draws=key_of(config.seed, 0))
        counts = (1, 2) if parts > 1 else (1,)
        for count in counts:  # what is made the first time is kept
            take(engine, given, count)
        taken = [[take(engine, given, count) for count in counts] for _ in range(TRIES)]
        one, two = min(times[0] for times in taken), min(times[-1] for times in taken)
        held_at_most = max(0, peak_bytes(place.device) - base)
        told = torch.tensor([one, two, float(held_at_most)], dtype=torch.float64, device=place.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
    one, two, peak = told.tolist()
    micro = max(0.0, two - one) if parts > 1 else one
    return Rehearsed(micro, max(0.0, one - micro), int(peak))


def take(engine: Engine, given: Batch, count: int = 1, lr: float = 0.0) -> float:
    """Seconds of a step of `count` micro-batches; all ranks take it together. With a rate of 0 no weight moves."""
    settle(engine.place.device)
    began = time.perf_counter()
    for index in range(count):
        engine.begin(last=index + 1 == count)
        engine.backward(engine.forward(given).total)
    with suppress(Overflow):  # fp16's first factors are too large, and fall
        engine.step(lr)
    settle(engine.place.device)
    return time.perf_counter() - began


def settle(device: torch.device) -> None:
    """All ranks, and all that a GPU was given, have come this far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


def made_up(family: Family, vocab: int, rows: int, length: int, apart: bool) -> Batch:
    """Tokens drawn alike from the vocabulary, with the labels of the family's objective; apart: two sequences a row, and padding."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, vocab, (rows, length), generator=rng)
    parts = (torch.arange(length) * 2 // length).expand(rows, -1).clone() if apart else None
    if family.objective == "next":
        return Batch(tokens, labels={"next": torch.cat([tokens[:, 1:], torch.full((rows, 1), IGNORE)], 1)}, parts_BL=parts)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, -1] = False
    chosen = (torch.rand(tokens.shape, generator=rng) < (family.masking.rate if family.masking else 0.0)) & keep
    labels = {"mlm": tokens.masked_fill(~chosen, IGNORE)}
    if "pair" in family.heads:
        first = torch.arange(length) * 2 % length < 2  # of each of a row's two sequences
        labels["pair"] = torch.where(first, 0, IGNORE).expand(rows, -1) if apart else torch.zeros(rows, dtype=torch.long)
    if parts is not None:
        parts[:, -1] = -1
    return Batch(tokens, torch.zeros_like(tokens), keep, labels, parts_BL=parts)


def mark(device: torch.device) -> int:
    """What is held now; from here on peak_bytes counts anew. 0 where nobody knows what a process holds."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif MARKS.exists():
        MARKS.write_text("5")
    return peak_bytes(device)
