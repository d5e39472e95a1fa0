"""One GPU: how much of it GPT-2 and BERT-base reach, what ZeRO costs, what compiling gives, and what `textmill plan` foretold.

    python tests/benchmarks/bench_gpu.py                      (a GPU; less than 8 minutes)
    python tests/benchmarks/bench_gpu.py --device cpu --tiny  (anywhere: the same paths at a toy's size)

Needs torch, deepspeed, numpy and pyarrow, and what the training package imports; no Ray, no Prefect, no transformers, no data. Exit
code 2 where there is no GPU. Every row is a process of its own. MFU is real tokens a second times training/cost.py's count, to the
data sheet's rate (training/engine/ceiling.py; a CPU's is tried). BERT's sequences have made-up lengths: two of five are full, the
others evenly long from 2 on, so that padded rows hold 30% of padding. Time is foretold from the MFU of GPT-2's ZeRO-1 row.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from trials import CLIP, LR, Case, batch, engine_of, step_of, tower_of

from training.engine.ceiling import ceiling
from training.engine.heap import held
from training.engine.optim import OptimConfig, adamw
from training.engine.rank import choose_matmul_mode, here
from training.engine.see import peak_bytes
from training.engine.zero import join
from training.feed.batch import IGNORE, Batch
from training.feed.packing import move, pack
from training.rehearsal import mark, settle

LIMIT, ROW_LIMIT = 450.0, 200.0  # seconds: after the first no row is begun, after the second a row is given up
WARM, SECONDS = 3, 5.0
FULL = 0.4  # of BERT's sequences
TINY = {"layers": 2, "width": 64, "heads": 2}
GPT, BERT = Case("gpt", {}, 1024, 32, vocab=0, gpu=True), Case("bert", {}, 512, 64, vocab=0, gpu=True)


@dataclass(frozen=True)
class Row:
    """kind: bare (the usual loop: autocast over float32 weights) or engine; rows: made (random ids, all real), padded or packed."""

    name: str
    case: Case
    kind: str = "engine"
    rows: str = "made"
    compiled: bool = False


def rows(tiny: bool) -> list[Row]:
    gpt, bert = (replace(c, size=TINY, length=64, rows=8, vocab=512, gpu=False) if tiny else c for c in (GPT, BERT))
    made = [
        Row("GPT-2 124M, bare loop", gpt, "bare"),
        *(Row(f"GPT-2 124M, ZeRO-{stage}", replace(gpt, stage=stage)) for stage in (1, 0, 2, 3)),
        Row("GPT-2 124M, bare loop, compiled", gpt, "bare", compiled=True),
        Row("GPT-2 124M, ZeRO-1, compiled", gpt, compiled=True),
        Row("BERT-base, ZeRO-1, padded", bert, rows="padded"),
        Row("BERT-base, ZeRO-1, packed", bert, rows="packed"),
        Row("BERT-base, ZeRO-1, packed, compiled", bert, rows="packed", compiled=True),
        Row("GPT-2 124M, ZeRO-1, every layer computed again", replace(gpt, recompute=1)),
    ]
    return [replace(r, name=r.name.replace(" 124M", ", tiny").replace("-base", ", tiny")) for r in made] if tiny else made


def given(row: Row) -> tuple[Batch, int]:
    """The batch, and how many of its tokens are real."""
    case, whole = row.case, batch(row.case)
    if row.rows == "made":
        return whole, case.rows * case.length
    rng = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, case.length + 1, (case.rows,), generator=rng)
    lengths[: round(FULL * case.rows)] = case.length
    keep = torch.arange(case.length) < lengths[:, None]
    labels = {name: x.masked_fill(~keep, IGNORE) if x.dim() == 2 else x for name, x in whole.labels.items()}
    padded = replace(whole, tokens_BL=whole.tokens_BL.masked_fill(~keep, 0), keep_BL=keep, labels=labels)
    if row.rows == "padded":
        return padded, int(lengths.sum())
    return move(padded, lengths.numpy(), pack(lengths.numpy(), case.length), pad=0), int(lengths.sum())


def bare(row: Row, device: torch.device, whole: Batch) -> Callable[[], float]:
    tower = tower_of(row.case, row.compiled).to(device).train()
    optimiser = adamw(tower, OptimConfig(lr=LR))

    def step() -> float:
        settle(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = tower(whole).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        settle(device)
        return time.perf_counter() - began

    return step


def measure(row: Row) -> dict[str, Any]:
    """One row, in this process: seconds of a step, bytes at the most above the start, real tokens, the device's rate."""
    with held():
        place = here()
        join(place)
        choose_matmul_mode()
        whole, real = given(row)
        whole = whole.to(place.device)
        base = mark(place.device)
        if row.kind == "bare":
            step = bare(row, place.device, whole)
        else:
            engine = engine_of(row.case, row.compiled)
            step = lambda: step_of(engine, row.case, whole)  # noqa: E731
        for _ in range(WARM):
            step()
        times: list[float] = []
        while sum(times) < SECONDS and len(times) < 200 and not (len(times) >= 3 and not row.case.gpu):
            times.append(step())
        found = {"best": min(times), "median": statistics.median(times), "peak": peak_bytes(place.device) - base, "real": real}
    gc.collect()
    return found | {"computed": whole.tokens_BL.numel(), **asdict(ceiling(place.device, row.case.precision))}


def run(row: Row) -> dict[str, Any] | str:
    """In a process of its own; what went wrong as text."""
    command = [sys.executable, __file__, "--row", json.dumps(asdict(row))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROW_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return f"given up after {ROW_LIMIT:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["its process ended"])[-1][:200]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


HEADER = "| row | tokens at once | step ms | real tokens / s | MFU | to bare | GB foretold | measured | off | step ms foretold | off |"


def told_of(row: Row, found: dict[str, Any], against: dict[str, float], share: float) -> str:
    """A row of the table. against: the bare loops' seconds; share: of the rate, by which time is foretold."""
    per_token = row.case.flops() / (row.case.rows * row.case.length)
    mfu = found["real"] * per_token / found["best"] / found["flops"]
    bare_one = against.get("compiled" if row.compiled else "plain", 0.0) if row.case.model == "gpt" and not row.case.recompute else 0.0
    case = replace(row.case, rows=max(1, found["computed"] // row.case.length), stage=0 if row.kind == "bare" else row.case.stage)
    memory = case.foretold().total
    expected = found["computed"] * per_token / found["flops"] / share * (4 / 3 if case.recompute else 1)  # a forward pass more
    cells = [row.name, f"{found['computed']:,}", f"{found['best'] * 1e3:,.1f}", f"{found['real'] / found['best']:,.0f}", f"{mfu:.1%}"]
    cells += [f"{found['best'] / bare_one - 1:+.1%}" if bare_one else "", f"{memory / 1e9:,.2f}", f"{found['peak'] / 1e9:,.2f}"]
    cells += [f"{memory / found['peak'] - 1:+.0%}", f"{expected * 1e3:,.1f}", f"{expected / found['best'] - 1:+.0%}"]
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two layers, 64 wide")
    parser.add_argument("--only", default="", help="words that a row's name must hold, comma between them")
    parser.add_argument("--row", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row:
        spec = json.loads(chosen.row)
        print(json.dumps(measure(Row(**{**spec, "case": Case(**spec["case"])}))))
        return 0
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(
            "bench_gpu: this machine has no GPU that torch can use; `--device cpu --tiny` tries the same steps without one", file=sys.stderr
        )
        return 2
    began, against, share, first = time.monotonic(), {}, 0.0, True
    for row in rows(chosen.tiny):
        if not all(word.lower() in row.name.lower() for word in chosen.only.split(",") if word):
            continue
        if time.monotonic() - began > LIMIT:
            print(f"(left out: {row.name}: {LIMIT:.0f} s are over)", flush=True)
            continue
        found = run(row)
        if isinstance(found, str):
            print(f"(left out: {row.name}: {found})", flush=True)
            continue
        if first:
            name = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
            print(f"{name}; torch {torch.__version__}, {row.case.precision}; to {found['flops'] / 1e12:,.4g} Tflop/s ({found['source']})\n")
            print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
        if row.kind == "bare":
            against["compiled" if row.compiled else "plain"] = found["best"]
        if not share and row.kind == "engine":
            share = found["computed"] * row.case.flops() / (row.case.rows * row.case.length) / found["best"] / found["flops"]
        first = False
        print(told_of(row, found, against, share or 1.0), flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
