"""What checkpoints cost a training: the same steps with and without them, in turns, in the background and waited for.

A GPT of 6 layers, 384 wide, 8192 pieces, 8 x 256 tokens a step, bf16, ZeRO 1. Told are the time the loop stands still for one
checkpoint (its copy in memory, or the whole write), what all of one costs in wall time (with the slower steps beside the writer), and
both as a share of the time between two checkpoints as recipes have them: 60 seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads would be counted as work

import torch
from bench_training import data

from infra.log import attach
from training.backbone.config import BackboneConfig
from training.engine.checkpoint import Checkpoints
from training.engine.loop import LoopConfig, train
from training.engine.optim import OptimConfig
from training.families import catalog
from training.feed.batch import Batch
from training.objectives.tower import Tower

BETWEEN_S = 60.0  # LoopConfig.save_seconds
WARM = 3


class Same:
    """The one batch again and again."""

    batch_size, examples, steps_per_epoch = 8, 8, 1

    def __init__(self) -> None:
        self.batch = data("gpt")

    def slice(self, step: int, rank: int, world: int) -> Batch:
        return self.batch.rows(0, len(self.batch))

    def trace(self, step: int) -> list[tuple[str, int]]:
        return []


def tower() -> Tower:
    shape = BackboneConfig(
        vocab=8192, width=384, layers=6, heads=6, positions=256, causal=True, norm="pre", embedding_norm=False, dropout=0.0
    )
    return catalog.family("gpt2").build(shape, seed=0)


def run(steps: int, every: int, background: bool) -> tuple[float, float, int]:
    """Seconds of the steps after the first ones, those of them in which the loop waited for a checkpoint, and how many there were."""
    marks: list[float] = []
    stalls: list[float] = []
    save = Checkpoints.save

    def timed(self: Checkpoints, engine: object, point: object, valid_loss: float | None = None, now: bool = False) -> None:
        began = time.perf_counter()
        save(self, engine, point, valid_loss, now)  # type: ignore[arg-type]
        if not now:
            stalls.append(time.perf_counter() - began)

    detach = attach(lambda told: marks.append(time.perf_counter()) if told["kind"] == "train" else None)
    Checkpoints.save = timed  # type: ignore[method-assign]
    config = LoopConfig(steps, 8, 1, "bf16", OptimConfig(lr=1e-4), log_every=1, save_every=every, save_seconds=1e9, background=background)
    try:
        with tempfile.TemporaryDirectory(prefix="checkpoints") as folder:
            train(tower, Same, None, config, Path(folder), "pretrain")
    finally:
        Checkpoints.save = save  # type: ignore[method-assign]
        detach()
    return marks[-1] - marks[WARM - 1], sum(stalls), len(stalls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=33)
    parser.add_argument("--every", type=int, default=10, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    arms = {"none": (10**9, True), "in the background": (asked.every, True), "waited for": (asked.every, False)}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in arms}
    for _ in range(asked.rounds):
        for name, arm in arms.items():
            found[name].append(run(asked.steps, *arm))
    plain = min(wall for wall, _, _ in found["none"])
    print(f"a step takes {1000 * plain / (asked.steps - WARM):.0f} ms without checkpoints\n")
    print("| checkpoints | loop stands still (ms) | share of 60 s | whole cost (ms) | share of 60 s |")
    print("|---|---:|---:|---:|---:|")
    for name in list(arms)[1:]:
        still = min(stall / count for _, stall, count in found[name])
        whole = min((wall - plain) / count for wall, _, count in found[name])
        print(f"| {name} | {1000 * still:.0f} | {still / BETWEEN_S:.2%} | {1000 * whole:.0f} | {whole / BETWEEN_S:.2%} |")


if __name__ == "__main__":
    main()
