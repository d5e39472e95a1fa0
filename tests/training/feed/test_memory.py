"""Reading from ever larger shards takes no more memory: the feed holds views of files, and nothing of what they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.tokenizer.base import Meta, save_meta
from infra.store import Store

LENGTH, VOCAB = 1024, 50_000
ALONE = """
import sys
from pathlib import Path
from infra.store import Store
from training.feed.loader import FeedConfig, open_feed

store = Store(Path(sys.argv[1]))
feed = open_feed(*(store.get(stage, sys.argv[2]) for stage in ("blocks", "encode", "tokenizer")), FeedConfig(32, 1024))
for step in range(150):
    feed.slice(step, 0, 1)
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("RssAnon")))
"""


def synthetic(store: Store, name: str, count: int, blocks: int) -> None:
    """Blocks of random ids in so many shards, with documents and a tokenizer that fit them in name only."""
    meta, rng = Meta("byte_bpe", VOCAB, {"eos": 0}, "synthetic"), np.random.default_rng(0)
    record = {"config": {"length": LENGTH}}
    with store.writing("tokenizer", name, record) as work:
        (work.out / "tokenizer").mkdir()
        save_meta(work.out / "tokenizer", meta)
    with store.writing("encode", name, record) as work, store.writing("blocks", name, record) as made:
        save_meta(work.out, meta), save_meta(made.out, meta)
        for number in range(count):
            tokens = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(1, VOCAB, blocks * LENGTH, dtype=np.uint16)), LENGTH)
            table = pa.table([tokens, pa.array(np.zeros(blocks, np.uint32))], schema=schemas.blocks(VOCAB, LENGTH))
            shards.write(table, made.out / shards.name(number), {}, tokenizer=meta.fingerprint)
            shards.write(schemas.ENCODED.empty_table(), work.out / "documents" / shards.name(number), tokenizer=meta.fingerprint)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory from Linux's /proc")
def test_thirty_times_the_shards_take_no_more_memory(store: Store) -> None:
    """10 MB and 300 MB here, up to 10 GB in tests/benchmarks/bench_feed.py; batches of 4.8 million tokens are drawn from all of it."""
    found = []
    for name, count in (("small", 1), ("large", 30)):
        synthetic(store, name, count, 5000)
        command = [sys.executable, "-c", ALONE, str(store.root), name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[3])
        found.append(int(done.stdout) / 1024)
    assert abs(found[1] - found[0]) < 15, found
