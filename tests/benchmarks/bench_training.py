"""Our training step, bare and through the engine, against transformers' and nanoGPT's: same sizes, data, precision, threads, in turns.

    python tests/benchmarks/bench_training.py [--only gpt,bf16] [--rounds 5] [--threads 2]
    python tests/benchmarks/bench_training.py --where [--threads 2]

Each has a process of its own (contest.py, peers.py). The machine may be shared: tokens a second of process CPU time stand beside wall
time. The ceiling is what products of square matrices reach in two seconds; shares of it are by training/cost.py's count for our model.
--where tells what the time of our GPT step in bf16 under ZeRO-1 goes to, by torch's profiler.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads would be counted as work

import contest
import peers
import torch
from torch.profiler import ProfilerActivity, profile

from training.backbone.transformer import compiled
from training.engine.heap import held
from training.engine.optim import OptimConfig
from training.engine.rank import choose_matmul_mode, here
from training.engine.zero import Engine, ZeroConfig, join
from training.feed.batch import IGNORE, Batch

SHAPES = {"gpt": (8, 256), "bert": (16, 128)}  # sequences x length: 2048 tokens a step each
HEADS = {"gpt": (), "bert": ("mlm",)}  # BERT with the masked head alone, as BertForMaskedLM has it
MASKED = 0.15
STAGES = (0, 1, 2)
WARM, PROFILED, LEAST = 12, 4, 0.01  # steps before the profile and in it; shares below are left out
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
HELD = ExitStack()  # for as long as the process lives


def data(model: str) -> Batch:
    rng = torch.Generator().manual_seed(0)
    rows, length = SHAPES[model]
    tokens = torch.randint(5, peers.VOCAB, (rows, length + 1), generator=rng)
    if model == "gpt":
        return Batch(tokens[:, :-1].contiguous(), labels={"next": tokens[:, 1:].contiguous()})
    tokens = tokens[:, :-1].contiguous()
    chosen = torch.rand(tokens.shape, generator=rng) < MASKED
    return Batch(tokens.masked_fill(chosen, 4), torch.zeros_like(tokens), None, {"mlm": tokens.masked_fill(~chosen, IGNORE)})


def through_engine(model: str, precision: str, stage: int, layers_compiled: bool = False) -> Callable[[], float]:
    join(here())
    batch, settings = data(model), OptimConfig(lr=peers.LR)
    tower = peers.ours(model, SHAPES[model][1], HEADS[model])
    tower = compiled(tower) if layers_compiled else tower
    engine = Engine(tower, ZeroConfig(stage, precision, 1, peers.CLIP, settings), here(), len(batch))
    engine.module.train()

    def step() -> float:
        losses = engine.forward(batch)
        engine.backward(losses.total)
        engine.step(settings.lr)
        return losses.total.item()

    return step


def bare(model: str, precision: str) -> Callable[[], float]:
    tower, batch = peers.ours(model, SHAPES[model][1], HEADS[model]).train(), data(model)
    return peers.loop(tower.parameters(), precision, lambda: tower(batch).total)


def of_transformers(model: str, precision: str) -> Callable[[], float]:
    batch, length = data(model), SHAPES[model][1]
    if model == "gpt":  # their GPT-2 shifts labels itself; the position after the last is not predicted there
        theirs = peers.transformers_gpt(length).train()
        labels = torch.cat([batch.tokens_BL[:, :1], batch.labels["next"][:, :-1]], 1)
        return peers.loop(theirs.parameters(), precision, lambda: theirs(input_ids=batch.tokens_BL, labels=labels).loss)
    theirs = peers.transformers_bert(length, pairs=False).train()
    given = {"input_ids": batch.tokens_BL, "attention_mask": torch.ones_like(batch.tokens_BL), "labels": batch.labels["mlm"]}
    return peers.loop(theirs.parameters(), precision, lambda: theirs(**given).loss)


def of_nano(model: str, precision: str, compiled: bool) -> Callable[[], float]:
    batch = data(model)
    nano = peers.nano(SHAPES[model][1], compiled)
    return peers.loop(nano.parameters(), precision, lambda: nano(batch.tokens_BL, batch.labels["next"]))  # type: ignore[attr-defined]


def make(spec: dict[str, Any]) -> contest.Step:
    """What a contestant's process runs: matmul mode by our own probe for all of them."""
    torch.set_num_threads(spec["threads"])
    choose_matmul_mode()
    model, precision, kind = spec["model"], spec["precision"], spec["kind"]
    if kind == "transformers":
        step = of_transformers(model, precision)
    elif kind == "nano":
        step = of_nano(model, precision, spec["compiled"])
    else:
        HELD.enter_context(held())  # as the training loop does for as long as it lasts
        step = (
            bare(model, precision)
            if kind == "bare"
            else through_engine(model, precision, spec["stage"], spec.get("layers_compiled", False))
        )
    tokens = SHAPES[model][0] * SHAPES[model][1]

    def counted() -> float:
        step()
        return tokens

    return counted


def contestants(model: str, precision: str, threads: int) -> list[contest.Contestant]:
    usual = {"model": model, "precision": precision, "threads": threads}
    flops = peers.flops_per_token(model, SHAPES[model][1], HEADS[model])
    specs: dict[str, dict[str, Any]] = {"transformers": {"kind": "transformers"}}
    if model == "gpt":
        specs |= {"nanoGPT's step": {"kind": "nano", "compiled": False}, "nanoGPT's, compiled": {"kind": "nano", "compiled": True}}
    specs |= {"ours, bare loop": {"kind": "bare"}}
    specs |= {f"ours, engine ZeRO-{stage}": {"kind": "engine", "stage": stage} for stage in STAGES}
    if (model, precision) == ("gpt", "bf16"):
        specs |= {"ours, engine ZeRO-1, compiled": {"kind": "engine", "stage": 1, "layers_compiled": True}}
    return [contest.Contestant(name, {**usual, **spec}, flops) for name, spec in specs.items()]


def where(threads: int) -> None:
    """Shares of the profiled time, by operation; of products also their rate, by shape.

    Two profiles: the records of shapes lie between a step's tensors and keep its largest blocks from being used again, so that
    with them copies of gradients seemed to take a fifth of the time.
    """
    most = contest.ceiling("bf16", threads)
    step = make({"threads": threads, "model": "gpt", "precision": "bf16", "kind": "engine", "stage": 1})
    for _ in range(WARM):
        step()
    told = _profiled(step, shapes=False).key_averages()
    whole = sum(each.self_cpu_time_total for each in told)
    print("| operation | of the time |\n|---|---|")
    for each in sorted(told, key=lambda one: -one.self_cpu_time_total):
        if (share := each.self_cpu_time_total / whole) >= LEAST:
            print(f"| {each.key} | {share:.1%} |")
    told = _profiled(step, shapes=True).key_averages(group_by_input_shape=True)
    products = [each for each in told if each.flops and each.key in PRODUCTS]
    whole = sum(each.self_cpu_time_total for each in products)
    print(f"\n| product | of the products' time | of the ceiling, {most / 1e9:,.0f} Gflop/s |\n|---|---|---|")
    for each in sorted(products, key=lambda one: -one.self_cpu_time_total):
        if (share := each.self_cpu_time_total / whole) >= LEAST:
            shapes = [shape for shape in each.input_shapes if shape]
            print(f"| {each.key} {shapes} | {share:.1%} | {each.flops / (each.self_cpu_time_total * 1e-6) / most:.0%} |")


def _profiled(step: Callable[[], float], shapes: bool) -> profile:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=shapes, with_flops=shapes) as told:
        for _ in range(PROFILED):
            step()
    return told


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--where", action="store_true")
    chosen = parser.parse_args()
    if chosen.serve:
        return contest.serve(json.loads(chosen.serve), make)
    if chosen.where:
        return where(chosen.threads)
    print(f"{peers.LAYERS} layers, {peers.WIDTH} wide, V {peers.VOCAB}, 2048 tokens a step (GPT 8 x 256, BERT 16 x 128); ", end="")
    print(f"torch {torch.__version__}, {chosen.threads} threads; best and median of {chosen.rounds} rounds in turns; to transformers\n")
    print(contest.header(["model", "precision"]))
    ceilings = {}
    for model in SHAPES:
        for precision in ("fp32", "bf16"):
            if contest.wanted(chosen.only, model, precision):
                ceilings[precision] = contest.ceiling(precision, chosen.threads)
                group = contest.run(contestants(model, precision, chosen.threads), chosen.rounds, __file__)
                print("\n".join(contest.rows(group, [model, precision], ceilings[precision])), flush=True)
    print("\nceiling: " + ", ".join(f"{precision} {flops / 1e9:,.0f} Gflop/s" for precision, flops in ceilings.items()))
    return None


if __name__ == "__main__":
    main()
