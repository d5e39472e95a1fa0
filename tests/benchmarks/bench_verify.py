"""What hashing costs each data stage, in percent of its CPU time: `python tests/benchmarks/bench_verify.py [DOCUMENTS]`.

Every stage is run in this process by a fresh store, as a run that finds its input from an earlier one: all input files are hashed before
the stage, all output files when they are written. Counted is the CPU time inside the hash function, of the CPU time of the whole stage.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep import shards
from data_prep.corpus.dedup import DEDUP, DedupConfig
from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
from data_prep.corpus.filter import FILTER, FilterConfig
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra import artifact, finished, reuse, store
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store

WORDS = [f"{a}{b}" for a in ("am", "bas", "can", "dra", "en", "for", "gar") for b in ("ber", "ket", "dle", "gon", "gine", "est", "den")]
MODULES = (artifact, finished, reuse, store, shards)


def text(rng: random.Random) -> str:
    """Thirty sentences that the filter keeps."""
    nouns = ([rng.choice(WORDS) for _ in range(7)] for _ in range(30))
    return "\n".join(f"The {a} and the {b} of that {c} have been with the {d} for {e} to see a {f} {g}." for a, b, c, d, e, f, g in nouns)


class Meter:
    """The CPU seconds and bytes of the hash function, wherever it is called from."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0
        real: Callable[[Path], str] = artifact.digest

        def metered(path: Path) -> str:
            began = time.thread_time()
            found = real(path)
            self.seconds, self.bytes = self.seconds + time.thread_time() - began, self.bytes + path.stat().st_size
            return found

        for module in MODULES:
            module.digest = metered  # type: ignore[attr-defined]


def main(documents: int) -> None:
    """Print one line for each stage, and all together."""
    rng, meter = random.Random(1), Meter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [json.dumps({"text": text(rng), "id": str(n)}) for n in range(documents)]
        (folder / "docs.jsonl").write_text("\n".join(lines) + "\n")
        plain = FilterConfig(languages=(), min_words=10, top_ngrams=(), duplicate_ngrams=())
        stages: list[tuple[Any, Any, dict[str, str]]] = [
            (DOCUMENTS, DocumentsConfig((SourceFile.of(folder / "docs.jsonl"),), shards=4), {}),
            (FILTER, plain, {"documents": "documents"}),
            (DEDUP, DedupConfig(), {"documents": "filter"}),
            (TOKENIZER, TokenizerConfig(vocab=2000), {"documents": "dedup"}),
            (ENCODE, EncodeConfig(), {"documents": "dedup", "tokenizer": "tokenizer"}),
            (BLOCKS, BlocksConfig(length=128), {"sentences": "encode"}),
        ]
        made: dict[str, Artifact] = {}
        print(f"{'stage':12} {'CPU s':>8} {'hashed MB':>10} {'hashing s':>10} {'percent':>8}")
        total = [0.0, 0.0]
        for stage, config, inputs in stages:
            meter.seconds, meter.bytes = 0.0, 0
            began = time.process_time()
            made[stage.name] = run(
                stage, config, {key: made[source] for key, source in inputs.items()}, Store(folder / "store"), LocalCompute()
            )
            took = time.process_time() - began
            total = [total[0] + took, total[1] + meter.seconds]
            print(f"{stage.name:12} {took:8.2f} {meter.bytes / 1e6:10.1f} {meter.seconds:10.4f} {100 * meter.seconds / took:8.2f}")
        print(f"{'all':12} {total[0]:8.2f} {'':10} {total[1]:10.4f} {100 * total[1] / total[0]:8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
