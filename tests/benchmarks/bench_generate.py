"""Generation against transformers.generate: the same GPT-2 weights, prompts and settings, in turns in one process.

Both must produce the same tokens, which is checked. Shown per case: new tokens per second of each by wall clock, and the ratios by wall
clock and by CPU time (medians over the rounds). Random weights: speed does not depend on what they hold.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from training.evaluation.decoding import BeamSearch, Sampling, decode
from training.families.catalog import family

CASES = [(1, 0), (8, 0), (1, 4), (4, 4)]  # prompts, beams (0: greedy)


def timed(run: Callable[[], list[list[int]]]) -> tuple[float, float, list[list[int]]]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="tiny,124m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="more than one on an idle machine only: waiting threads take CPU time")
    options = parser.parse_args()
    import transformers

    torch.set_num_threads(options.threads)

    print(
        f"{'model':8} {'prompts':>7} {'beams':>5} {'ours tok/s':>11} {'theirs tok/s':>12} {'ratio wall':>10} {'ratio CPU':>9} {'same':>5}"
    )
    for size in options.sizes.split(","):
        gpt = family("gpt2")
        config = replace(gpt.sizes[size], dropout=0.0, init_std=0.2 if size == "tiny" else 0.05)
        model = gpt.build(config, seed=1).eval()
        with tempfile.TemporaryDirectory() as folder:
            gpt.export(model, Path(folder))
            reference = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        for count, beams in CASES:
            ids = torch.randint(config.vocab, (count, options.prompt), generator=torch.Generator().manual_seed(count))
            how = BeamSearch(beams) if beams else Sampling(temperature=0)

            def ours() -> list[list[int]]:
                return [texts[0] for texts in decode(model, ids.tolist(), options.tokens, how)]

            def theirs() -> list[list[int]]:
                more = {"num_beams": beams} if beams else {}
                settings = {"max_new_tokens": options.tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
                out = reference.generate(ids, attention_mask=torch.ones_like(ids), **settings, **more)
                return out[:, options.prompt :].tolist()

            same = ours() == theirs()  # also the warm-up
            rounds = [(timed(ours), timed(theirs)) for _ in range(options.rounds)]
            work = count * options.tokens
            mine, other = (statistics.median(each[i][0] for each in rounds) for i in (0, 1))
            cpu = statistics.median(each[1][1] / each[0][1] for each in rounds)
            print(
                f"{size:8} {count:7} {beams:5} {work / mine:11,.0f} {work / other:12,.0f} {other / mine:10.2f} {cpu:9.2f} {same!s:>5}",
                flush=True,
            )


if __name__ == "__main__":
    main()
