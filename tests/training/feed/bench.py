"""How fast the feed is: `python tests/training/feed/bench.py [millions of tokens]`. Million tokens (positions) a CPU second, one thread."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.base import Meta, save_meta
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from training.feed.loader import FeedConfig, open_feed

VOCAB, SHARDS = 30_000, 4
SPECIALS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 5}


def corpus(store: Store, tokens: int) -> tuple[Artifact, Artifact]:
    """Random ids in sentences of 25 tokens on average, documents of 20 sentences on average."""
    meta, rng = Meta("wordpiece", VOCAB, SPECIALS, "bench"), np.random.default_rng(0)
    with store.writing("tokenizer", "bench", {}) as work:
        (work.out / "tokenizer").mkdir()
        save_meta(work.out / "tokenizer", meta)
    with store.writing("encode", "bench", {}) as work:
        save_meta(work.out, meta)
        for number in range(SHARDS):
            per_document = rng.integers(1, 40, tokens // SHARDS // 500)
            lengths = rng.integers(1, 50, per_document.sum())
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            first = np.concatenate([[0], np.cumsum(per_document)])
            values = pa.array(rng.integers(6, VOCAB, offsets[-1], dtype=np.uint16))
            owner = pa.array(np.repeat(np.arange(len(per_document), dtype=np.uint32), per_document))
            table = pa.table([owner, pa.ListArray.from_arrays(pa.array(offsets), values)], schema=schemas.sentences(VOCAB))
            size = np.diff(offsets[first]).astype(np.uint32)
            names = [f"{number} {i}" for i in range(len(per_document))]
            columns = [names, names, ["train"] * len(names), first[:-1].astype(np.uint32), per_document.astype(np.uint32), size, size]
            shards.write(pa.table(columns, schema=schemas.ENCODED), work.out / "documents" / shards.name(number))
            shards.write(table, work.out / shards.name(number))
    return store.get("encode", "bench"), store.get("tokenizer", "bench")


def main() -> None:
    torch.set_num_threads(1)
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        sentences, tokenizer = corpus(store, millions * 1_000_000)
        for objective, length, batch in (("next", 1024, 32), ("mlm", 128, 256), ("mlm+nsp", 128, 256), ("mlm+sop", 512, 64)):
            stage, config = (PAIRS, PairsConfig(length)) if "+" in objective else (BLOCKS, BlocksConfig(length))
            examples = run(stage, config, {"sentences": sentences}, store, LocalCompute())  # type: ignore[arg-type]
            feed = open_feed(examples, sentences, tokenizer, FeedConfig(batch, length, 1, objective))
            feed.slice(0, 0, 1)
            started, steps = time.process_time(), 400
            for step in range(1, steps + 1):
                feed.slice(step, 0, 1)
            spent = time.process_time() - started
            rate = steps * batch * length / spent / 1e6
            print(f"{objective:8} {batch:4} x {length:4}: {rate:7.1f} Mtok/s, {spent / steps * 1e3:.2f} ms a batch")


if __name__ == "__main__":
    main()
