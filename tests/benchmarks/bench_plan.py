"""What `textmill plan` foretells against what training takes: memory of a rank and time of a step, on CPU ranks.

    python tests/benchmarks/bench_plan.py [--only gpt,bf16] [--ranks 1,2] [--stages 0,1,2,3]

Memory is the most that the fullest rank held resident above what it held before its model was built (a small engine has run by then,
so that libraries have what they keep for themselves). Time is the best of some steps; it is foretold by training/pace.py from the rate
that a probe finds on as many ranks just before.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from trials import Case, batch, engine_of, step_of

from infra.compute import LocalCompute, cores
from training.engine.ceiling import probe
from training.engine.heap import held
from training.engine.loop import LoopConfig
from training.engine.rank import choose_matmul_mode, here
from training.engine.see import peak_bytes
from training.engine.zero import join
from training.rehearsal import mark, warm

PROBE_SECONDS = 1.0
SMALL, LARGE = {"layers": 6, "width": 384, "heads": 6}, {"layers": 8, "width": 512, "heads": 8}
MODELS = (
    Case("gpt", SMALL, 256, 8),
    Case("gpt", LARGE, 256, 8, vocab=16384, precision="fp32"),
    Case("bert", LARGE, 128, 16, vocab=16384, dropout=0.1),
)
MORE = (  # beside every stage of every model
    Case("gpt", {"layers": 4, "width": 256, "heads": 4}, 64, 32, vocab=4096),
    Case("gpt", SMALL, 256, 2, precision="fp32"),
    Case("gpt", LARGE, 1024, 2, vocab=16384),
    Case("albert", {**LARGE, "embedding_width": 128}, 128, 16, vocab=16384, dropout=0.1),
    Case("electra", LARGE, 128, 16, vocab=16384, dropout=0.1, stage=0),
    Case("roberta", LARGE, 128, 16, vocab=16384, dropout=0.1, stage=2),
    Case("gpt", LARGE, 256, 4, vocab=16384, stage=1, ranks=3),
    Case("gpt", LARGE, 256, 4, vocab=16384, stage=2, ranks=4),
    Case("gpt", LARGE, 256, 16, vocab=16384, recompute=1),
    Case("gpt", LARGE, 256, 16, vocab=16384, recompute=2),
    Case("gpt", LARGE, 256, 8, vocab=16384, micros=2),
    Case("bert", LARGE, 128, 16, vocab=16384, dropout=0.1, precision="fp32", micros=2),
)


def measure(case: Case, steps: int = 4) -> dict[str, float]:
    """In each rank: bytes above the start at the most, of the fullest rank, and seconds of the best step."""
    place = here()
    warm(LoopConfig(1, case.rows, case.stage, case.precision, offload=case.offload))
    with held():
        base = mark(place.device)
        engine, given = engine_of(case), batch(case)
        best = min(step_of(engine, case, given) for _ in range(steps))
    told = torch.tensor([float(peak_bytes(place.device) - base), best], dtype=torch.float64)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return dict(zip(("peak", "seconds"), told.tolist(), strict=True))


def probed(precision: str) -> float:
    """Of each rank, while the others try too."""
    join(here())
    choose_matmul_mode()
    dist.barrier()
    return probe("cpu", precision, PROBE_SECONDS).flops


def run(case: Case) -> dict[str, float]:
    """One gang of fresh processes."""
    told: dict[str, float] = LocalCompute(case.ranks).gang("plan", partial(measure, case))[0]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="words that a row must have, such as gpt,bf16")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--stages", default="0,1,2,3")
    chosen = parser.parse_args()
    whole = [
        replace(case, stage=stage, ranks=ranks)
        for ranks in map(int, chosen.ranks.split(","))
        for case in MODELS
        for stage in map(int, chosen.stages.split(","))
    ]
    cases = [c for c in (*whole, *MORE) if all(w in (c.model, c.precision) for w in chosen.only.split(",") if w)]
    print("| model | parameters | ZeRO | ranks | precision | at once | memory MB, foretold | measured | off ", end="")
    print("| step s, foretold | measured | off |")
    print("|" + "---|" * 12)
    ceilings: dict[tuple[str, int], float] = {}
    for case in cases:
        key = case.precision, case.ranks
        ceilings[key] = ceilings.get(key) or min(LocalCompute(case.ranks).gang("probe", partial(probed, case.precision)))
        told, plan, pace = run(case), case.foretold(), case.pace(ceilings[key], cores() / case.ranks)
        expected = case.micros * pace.micro + pace.update
        family, backbone = case.shape()
        more = f" x {case.micros}" * (case.micros > 1) + f", recompute {case.recompute}" * (case.recompute > 0)
        cells = [case.model, f"{family.parameters(backbone) / 1e6:.1f}M", str(case.stage), str(case.ranks), case.precision]
        cells += [f"{case.rows} x {case.length}{more}", f"{plan.total / 1e6:,.0f}", f"{told['peak'] / 1e6:,.0f}"]
        cells += [
            f"{plan.total / told['peak'] - 1:+.0%}",
            f"{expected:.3f}",
            f"{told['seconds']:.3f}",
            f"{expected / told['seconds'] - 1:+.0%}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
