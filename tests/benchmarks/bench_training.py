"""Our training step through the engine against transformers': same sizes, data, precision, threads, in turns; prints ratios.

The machine may be shared, so what counts is tokens per CPU-second of the best round; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads would be counted as work

import torch
from torch import nn

from training.backbone.config import BackboneConfig
from training.engine.optim import OptimConfig, adamw
from training.engine.rank import choose_matmul_mode, here
from training.engine.zero import Engine, ZeroConfig, join
from training.families import catalog
from training.feed.batch import IGNORE, Batch

VOCAB, LAYERS, WIDTH, HEADS = 8192, 6, 384, 6
SHAPES = {"gpt": (8, 256), "bert": (16, 128)}  # sequences x length: 2048 tokens a step each
OPTIMISER = OptimConfig(lr=1e-4)
CLIP = 1.0
MASKED = 0.15


@dataclass
class Contestant:
    model: str
    precision: str
    name: str
    step: Callable[[], float]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def run(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.losses.append(self.step())
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def data(model: str) -> Batch:
    rng = torch.Generator().manual_seed(0)
    rows, length = SHAPES[model]
    tokens = torch.randint(5, VOCAB, (rows, length + 1), generator=rng)
    if model == "gpt":
        return Batch(tokens[:, :-1].contiguous(), labels={"next": tokens[:, 1:].contiguous()})
    tokens = tokens[:, :-1].contiguous()
    chosen = torch.rand(tokens.shape, generator=rng) < MASKED
    return Batch(tokens.masked_fill(chosen, 4), torch.zeros_like(tokens), None, {"mlm": tokens.masked_fill(~chosen, IGNORE)})


def ours(model: str) -> nn.Module:
    """The family's own tower; BERT with the masked head alone, as BertForMaskedLM has it."""
    family = catalog.family("gpt2" if model == "gpt" else "bert")
    changes: dict[str, Any] = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "ffn": 0, "embedding_width": 0, "dropout": 0.0}
    backbone: BackboneConfig = replace(family.backbone(next(iter(family.sizes)), VOCAB, SHAPES[model][1]), **changes)
    return (family if model == "gpt" else replace(family, heads=("mlm",))).build(backbone, seed=0)


def theirs(model: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if model == "gpt":
        sizes: dict[str, Any] = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": SHAPES[model][1], "vocab_size": VOCAB}
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **off))
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 4 * WIDTH}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **off, vocab_size=VOCAB, max_position_embeddings=SHAPES[model][1]))


def through_engine(model: str, precision: str, stage: int) -> Callable[[], float]:
    batch, place = data(model), here()
    engine = Engine(ours(model), ZeroConfig(stage, precision, 1, CLIP, OPTIMISER), place, len(batch))
    engine.module.train()

    def step() -> float:
        losses = engine.forward(batch)
        engine.backward(losses.total)
        engine.step(OPTIMISER.lr)
        return losses.total.item()

    return step


def plainly(module: nn.Module, precision: str, loss_of: Callable[[nn.Module], torch.Tensor]) -> Callable[[], float]:
    """The usual loop: autocast over float32 weights, fused AdamW, clipping."""
    module.train()
    optimiser = adamw(module, OPTIMISER)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of(module)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def of_transformers(model: str, precision: str) -> Callable[[], float]:
    batch = data(model)
    if model == "gpt":  # their GPT-2 shifts labels itself; the position after the last is not predicted there
        labels = torch.cat([batch.tokens_BL[:, :1], batch.labels["next"][:, :-1]], 1)
        return plainly(theirs(model), precision, lambda m: m(input_ids=batch.tokens_BL, labels=labels).loss)
    kept = torch.ones_like(batch.tokens_BL)
    return plainly(theirs(model), precision, lambda m: m(input_ids=batch.tokens_BL, attention_mask=kept, labels=batch.labels["mlm"]).loss)


def contestants(model: str, precision: str) -> list[Contestant]:
    bare, batch = ours(model), data(model)
    made = {
        "transformers": of_transformers(model, precision),
        "ours, bare loop": plainly(bare, precision, lambda m: m(batch).total),
        **{f"ours, engine ZeRO-{stage}": through_engine(model, precision, stage) for stage in (0, 1, 2)},
    }
    return [Contestant(model, precision, name, step) for name, step in made.items()]


def rows(group: list[Contestant]) -> list[str]:
    tokens = SHAPES[group[0].model][0] * SHAPES[group[0].model][1]
    lines = []
    for one in group:
        cpu, wall = tokens / min(one.cpu), tokens / min(one.wall)
        ratio = statistics.median(a / b for a, b in zip(group[0].cpu, one.cpu, strict=True))
        best = min(group[0].cpu) / min(one.cpu)
        lines.append(f"| {one.model} | {one.precision} | {one.name} | {cpu:,.0f} | {best:.2f} | {ratio:.2f} | {wall:,.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="gpt or bert")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    join(here())
    mode = choose_matmul_mode()
    made = f"{LAYERS} layers, {WIDTH} wide, V {VOCAB}, 2048 tokens a step"
    print(f"{made}; torch {torch.__version__}, {chosen.threads} threads, float32 products: {mode}")
    print("best and median of", chosen.rounds, "rounds, taken in turns; ratios are of CPU time\n")
    print("| model | precision | step | tokens / CPU-s | x transformers, best | median | tokens / s wall |\n|---|---|---|---|---|---|---|")
    for model in SHAPES:
        for precision in ("fp32", "bf16"):
            if chosen.only in ("", model):
                group = contestants(model, precision)
                for turn in range(chosen.rounds + 1):
                    for one in group:
                        one.run()
                    if turn == 0:  # the first round warms up
                        for one in group:
                            one.cpu.clear(), one.wall.clear()
                print("\n".join(rows(group)), flush=True)
                del group
                gc.collect()


if __name__ == "__main__":
    main()
