"""The feed against its peers: the same examples, one core, process CPU time, best of several; prints Markdown tables.

    python tests/benchmarks/bench_feed.py --data FOLDER --peer-python VENV/bin/python [--only speed,...] [--memory-gb 10]

The peers (Hugging Face datasets, and transformers' collator under torch's DataLoader) live in a virtual environment of their own.
FOLDER is the test data (default: TEXTMILL_TEST_DATA). This file runs in both. `memory` writes as many gigabytes as it is told to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads would be counted as work

REPEATS, STEPS = 5, 200
BLOCK, BLOCK_BATCH = 1024, 32
LENGTH, BATCH = 128, 256
ROWS, BUFFER, STOP = 20_000, 1000, 5001  # of the resume experiment
TEXTS = {
    "film reviews": ["text/en/movie-reviews.jsonl.gz"],
    "presidents' addresses": ["text/en/state-of-the-union.jsonl.gz"],
    "Wikipedia articles": ["text/en/wikitext-2-valid.txt.gz"],
    "short Korean reviews": ["text/ko/naver-movie-reviews.jsonl.gz"],
}


def rate(work: Callable[[], object], tokens: int, repeats: int = REPEATS) -> float:
    """Million tokens a second of process CPU time, best of several; the first call is not counted."""
    work()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return tokens / best / 1e6


# ---- examples -------------------------------------------------------------------------------------------------------------


def prepared(store: Any, folder: Path, name: str) -> dict[str, Any]:
    """Sentences and tokenizer of one set of real texts."""
    from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
    from data_prep.examples.encode import ENCODE, EncodeConfig
    from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
    from infra.artifact import SourceFile
    from infra.compute import LocalCompute
    from infra.stage import run

    local, files = LocalCompute(), tuple(SourceFile.of(folder / path) for path in TEXTS[name])
    documents = run(DOCUMENTS, DocumentsConfig(files, separator="\n = " if name.startswith("Wiki") else ""), {}, store, local)
    tokenizer = run(TOKENIZER, TokenizerConfig("wordpiece", 8192, lowercase=True), {"documents": documents}, store, local)
    sentences = run(ENCODE, EncodeConfig(), {"documents": documents, "tokenizer": tokenizer}, store, local)
    return {"sentences": sentences, "tokenizer": tokenizer}


def pairs(store: Any, made: dict[str, Any], length: int) -> Any:
    from data_prep.examples.pairs import PAIRS, PairsConfig
    from infra.compute import LocalCompute
    from infra.stage import run

    return run(PAIRS, PairsConfig(length), {"sentences": made["sentences"]}, store, LocalCompute())


def synthetic(store: Any, name: str, shard_sizes: list[int]) -> tuple[Any, Any, Any]:
    """Blocks of random ids in shards of so many blocks, with sentences and a tokenizer that fit them in name only."""
    import numpy as np
    import pyarrow as pa

    from data_prep import schemas, shards
    from data_prep.tokenizer.base import Meta, save_meta

    meta, rng = Meta("byte_bpe", 50_000, {"eos": 0}, "synthetic"), np.random.default_rng(0)
    with store.writing("tokenizer", name, {"config": {}}) as work:
        (work.out / "tokenizer").mkdir()
        save_meta(work.out / "tokenizer", meta)
    side = pa.table({column: [] for column in schemas.ENCODED.names}, schema=schemas.ENCODED)
    with store.writing("encode", name, {"config": {}}) as work, store.writing("blocks", name, {"config": {"length": BLOCK}}) as blocks:
        save_meta(work.out, meta), save_meta(blocks.out, meta)
        for number, size in enumerate(shard_sizes):
            tokens = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(1, 50_000, size * BLOCK, dtype=np.uint16)), BLOCK)
            table = pa.table([tokens, pa.array(np.zeros(size, np.uint32))], schema=schemas.blocks(50_000, BLOCK))
            shards.write(table, blocks.out / shards.name(number), {}, tokenizer=meta.fingerprint)
            shards.write(side, work.out / "documents" / shards.name(number), tokenizer=meta.fingerprint)
    return store.get("blocks", name), store.get("encode", name), store.get("tokenizer", name)


# ---- speed ----------------------------------------------------------------------------------------------------------------


def speed(folder: Path, peer: str) -> None:
    """Batches a second, ours and the peers', from the same rows."""
    from infra.store import Store
    from training.feed.loader import FeedConfig, open_feed

    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "artifacts")
        blocks, sentences, tokenizer = synthetic(store, "speed", [24_000] * 4)
        made = prepared(store, folder, "film reviews")
        feeds = {
            "blocks": (open_feed(blocks, sentences, tokenizer, FeedConfig(BLOCK_BATCH, BLOCK, 1)), BLOCK_BATCH * BLOCK),
        }
        for name, more in {"mlm+nsp": {}, "mlm+nsp packed": {"packed": True}}.items():
            settings = FeedConfig(BATCH, LENGTH, 1, "mlm+nsp", **more)
            feeds[name] = open_feed(pairs(store, made, LENGTH), **made, config=settings), BATCH * LENGTH
        plain = open_feed(pairs(store, made, LENGTH), **made, config=FeedConfig(BATCH, LENGTH, 1, "mlm+nsp"))
        save_peers_rows(Path(place), blocks, plain, made["tokenizer"])
        ours = {}
        for name, (feed, tokens) in feeds.items():
            ours[name] = rate(partial(run_through, feed, iter(range(10**9))), STEPS * tokens)
        theirs = ask(peer, "--peer", "speed", "--place", place)
        print(f"\nFeed, million tokens (positions) a CPU second; blocks {BLOCK_BATCH} x {BLOCK}, pairs {BATCH} x {LENGTH}\n")
        print("| batches in random order | ours | datasets | ratio |\n|---|---|---|---|")
        against = {"blocks": "blocks", "mlm+nsp": "collator", "mlm+nsp packed": "collator"}
        for name, of in against.items():
            print(f"| {name} (peer: {theirs['names'][of]}) | {ours[name]:.1f} | {theirs[of]:.2f} | {ours[name] / theirs[of]:.1f} |")


def run_through(feed: Any, steps: Iterator[int]) -> None:
    for _ in range(STEPS):
        feed.slice(next(steps), 0, 1)


def save_peers_rows(place: Path, blocks: Any, feed: Any, tokenizer: Any) -> None:
    """What the peers read: the same blocks, and pairs of the same texts without masks."""
    import numpy as np

    from data_prep import shards
    from data_prep.tokenizer.catalog import folder_of

    tokens = np.concatenate([shards.read(path)["tokens"].combine_chunks().flatten().to_numpy() for path in blocks.shards[:1]])
    np.save(place / "blocks.npy", tokens.reshape(-1, BLOCK))
    batches = [feed.slice(step, 0, 1) for step in range(min(40, feed.steps_per_epoch))]
    whole = [batch.labels["mlm"].where(batch.labels["mlm"] >= 0, batch.tokens_BL) for batch in batches]
    columns = {
        "input_ids": whole,
        "token_type_ids": [batch.segments_BL for batch in batches],
        "attention_mask": [batch.keep_BL.long() for batch in batches],
        "next_sentence_label": [batch.labels["pair"] for batch in batches],
    }
    np.savez(place / "pairs.npz", **{name: np.concatenate([part.numpy() for part in parts]) for name, parts in columns.items()})
    (place / "tokenizer.json").write_bytes((folder_of(tokenizer) / "tokenizer.json").read_bytes())


def ask(peer: str, *words: str) -> dict[str, Any]:
    told = subprocess.run([peer, __file__, *words], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    if told.returncode:
        raise SystemExit(told.stderr)
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def peer_speed(place: Path) -> dict[str, Any]:
    """datasets in torch's format for blocks; with transformers' collator in a DataLoader for masks (pairs stay as they were made)."""
    import datasets
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(1)
    blocks = datasets.Dataset.from_dict({"tokens": np.load(place / "blocks.npy").astype(np.int32)}).with_format("torch")
    blocks.save_to_disk(str(place / "hf-blocks"))
    blocks = datasets.load_from_disk(str(place / "hf-blocks")).with_format("torch")
    rng = np.random.default_rng(0)

    def some_blocks() -> None:
        for _ in range(50):
            tokens = blocks[rng.integers(0, len(blocks), BLOCK_BATCH).tolist()]["tokens"].long()
            torch.cat([tokens[:, 1:], torch.full((len(tokens), 1), -100)], 1)

    rows = dict(np.load(place / "pairs.npz").items())
    datasets.Dataset.from_dict(rows).save_to_disk(str(place / "hf-pairs"))
    pairs = datasets.load_from_disk(str(place / "hf-pairs"))
    roles = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"), **roles)
    transformers.logging.set_verbosity_error()
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    loader = torch.utils.data.DataLoader(pairs, BATCH, shuffle=True, collate_fn=collator, drop_last=True)

    def some_pairs() -> None:
        stream = iter(loader)
        for _ in range(8):
            next(stream)

    names = {"blocks": "torch format, indexed by lists", "collator": "DataLoader + DataCollatorForLanguageModeling"}
    found = {"blocks": rate(some_blocks, 50 * BLOCK_BATCH * BLOCK, 3), "collator": rate(some_pairs, 8 * BATCH * LENGTH, 3)}
    return {**found, "names": {key: f"datasets {datasets.__version__}, {name}" for key, name in names.items()}}


# ---- padding, and what it costs -------------------------------------------------------------------------------------------


def padding(folder: Path, _peer: str) -> None:
    """The share of padding in padded and in packed batches of real texts."""
    from infra.store import Store
    from training.feed.loader import FeedConfig, open_feed
    from training.feed.packing import pack

    print("\nPadding, share of all positions, over 30 batches of 32,768 tokens\n")
    print("| texts | length | padded rows | packed rows | positions saved |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        for name in TEXTS:
            made = prepared(store, folder, name)
            for length in (128, 512):
                feed = open_feed(pairs(store, made, length), **made, config=FeedConfig(BATCH * LENGTH // length, length, 1, "mlm+sop"))
                before = after = real = 0
                for step in range(30):
                    lengths = feed.source.lengths(feed._plan(*feed.bounds(step)))
                    before, real = before + len(lengths) * length, real + int(lengths.sum())
                    after += pack(lengths, length).rows * length
                shares = f"{1 - real / before:.1%} | {1 - real / after:.1%} | {1 - after / before:.1%}"
                print(f"| {name} | {length} | {shares} |", flush=True)


def step_of(family: str, changes: dict[str, Any], vocab: int) -> Callable[[Any], None]:
    """A whole training step of a small model."""
    from dataclasses import replace

    import torch

    from training.engine.rank import choose_matmul_mode
    from training.families import catalog

    choose_matmul_mode()
    found = catalog.family(family)
    tower = found.build(replace(found.backbone(next(iter(found.sizes)), vocab), **changes), seed=0).train()
    optimiser = torch.optim.AdamW(tower.parameters(), 1e-4, fused=True)

    def step(batch: Any) -> None:
        rows = 8192 // batch.tokens_BL.shape[1]
        for start in range(0, len(batch), rows):
            piece = batch.rows(start, start + rows)
            piece.denominators = {name: float(batch.count(name)) for name in batch.labels}
            tower(piece).total.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def share(folder: Path, _peer: str) -> None:
    """CPU time of the feed within training steps, and of packed steps against padded ones."""
    import torch

    from infra.store import Store
    from training.feed.loader import FeedConfig, open_feed

    torch.set_num_threads(1)
    sizes = {
        "tiny (2 layers, 128 wide)": {"layers": 2, "width": 128, "heads": 2},
        "mini (4 layers, 256 wide)": {"layers": 4, "width": 256, "heads": 4},
    }
    print("\nTraining steps of BERT on one core, NSP pairs, 32,768 positions before packing; CPU seconds, best of 3\n")
    print("| texts | length | model | rows | step s | feed ms | feed's share | steps, packed : padded |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        for name, length in (("film reviews", 128), ("film reviews", 512), ("short Korean reviews", 128)):
            made = prepared(store, folder, name)
            for size, changes in sizes.items():
                step = step_of("bert", {**changes, "ffn": 0, "embedding_width": 0, "dropout": 0.1}, 8192)
                spent: dict[bool, tuple[float, float]] = {}
                for _ in range(3):
                    for packed in (False, True):
                        settings = FeedConfig(BATCH * LENGTH // length, length, 1, "mlm+nsp", packed=packed)
                        feed = open_feed(pairs(store, made, length), **made, config=settings)
                        feed.slice(0, 0, 1)
                        began = time.process_time()
                        for number in range(1, 21):
                            batch = feed.slice(number, 0, 1)
                        fed = (time.process_time() - began) / 20
                        began = time.process_time()
                        step(batch)
                        took = time.process_time() - began
                        best = spent.get(packed, (9e9, 9e9))
                        spent[packed] = min(best[0], took), min(best[1], fed)
                for packed, (took, fed) in spent.items():
                    ratio = f"{spent[False][0] / took:.2f}"
                    rows = "packed" if packed else "padded"
                    print(
                        f"| {name} | {length} | {size} | {rows} | {took:.2f} | {fed * 1e3:.1f} | {fed / took:.2%} | {ratio} |", flush=True
                    )


# ---- memory ---------------------------------------------------------------------------------------------------------------


def memory(_folder: Path, _peer: str, gigabytes: float) -> None:
    """Anonymous memory, files and mappings of a process that reads from ever more shards."""
    from infra.store import Store

    print(f"\nAnonymous memory of a process that reads {STEPS} batches of {BLOCK_BATCH} blocks of {BLOCK} tokens in random order\n")
    print("| shards | GB | before opening, MB | opened | after the batches | most files open | shards mapped | opening, s |")
    print("|---|---|---|---|---|---|---|---|")
    blocks_of_gb = 10**9 // (2 * BLOCK)
    cases = [(1, 0.01), (10, 0.1), (10, 1.0), (1000, 0.1), (int(gigabytes * 10), gigabytes)]
    for count, size in cases:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as place:
            synthetic(Store(Path(place)), "memory", [int(size * blocks_of_gb / count)] * count)
            told = subprocess.run(
                [sys.executable, __file__, "--peer", "memory", "--place", place], capture_output=True, text=True, check=True
            )
            found = json.loads(told.stdout.splitlines()[-1])
            print(f"| {count} | {size:g} | " + " | ".join(str(found[key]) for key in MEASURED) + " |", flush=True)


MEASURED = ("before", "opened", "after", "files", "maps", "seconds")


def peer_memory(place: Path) -> dict[str, Any]:
    from infra.store import Store
    from training.feed.loader import FeedConfig, open_feed

    def anonymous() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3, 1)

    store = Store(place)
    found: dict[str, Any] = {"before": anonymous()}
    began = time.perf_counter()
    made = [store.get(stage, "memory") for stage in ("blocks", "encode", "tokenizer")]
    feed = open_feed(*made, FeedConfig(BLOCK_BATCH, BLOCK, 1))
    found |= {"seconds": round(time.perf_counter() - began, 2), "opened": anonymous()}
    for step in range(STEPS):
        feed.slice(step, 0, 1)
    maps = sum(line.endswith(".arrow") for line in Path("/proc/self/maps").read_text().splitlines())
    return found | {"after": anonymous(), "files": len(os.listdir("/proc/self/fd")), "maps": maps}


# ---- resume ---------------------------------------------------------------------------------------------------------------


def resume(_folder: Path, peer: str) -> None:
    """Rows lost and repeated when a shuffled stream is stopped after some rows and gone on with (see test_resume.py)."""
    found = ask(peer, "--peer", "resume")
    print(f"\nA stream of {ROWS:,} rows stopped after {STOP:,} and gone on with\n")
    print("| | lost | repeated |\n|---|---|---|")
    print(
        f"| datasets {found['version']}, shuffle buffer of {BUFFER:,}, {found['shards']} shards | {found['lost']} | {found['repeated']} |"
    )
    lost, repeated = our_resume()
    print(f"| ours, step {STOP // 3} of batches of 3, 3 ranks then 2, no thread then 2 | {lost} | {repeated} |")


def our_resume() -> tuple[int, int]:
    from collections import Counter

    import numpy as np

    from infra.store import Store
    from training.feed.loader import FeedConfig, open_feed
    from training.feed.prefetch import Prefetched

    with tempfile.TemporaryDirectory() as place:
        made = synthetic(Store(Path(place)), "resume", [ROWS // 8] * 8)
        seen: list[Any] = []
        first = open_feed(*made, FeedConfig(3, BLOCK, 1))
        seen += [first.slice(step, rank, 3).tokens_BL[:, :8].numpy() for step in range(STOP // 3) for rank in range(3)]
        second = Prefetched(open_feed(*made, FeedConfig(3, BLOCK, 1)), 2)
        seen += [second.slice(step, rank, 2).tokens_BL[:, :8].numpy() for step in range(STOP // 3, -(-ROWS // 3)) for rank in range(2)]
    counted = Counter(map(bytes, np.concatenate(seen)[:ROWS]))
    return ROWS - len(counted), sum(number - 1 for number in counted.values())


def peer_resume() -> dict[str, Any]:
    import datasets

    shards = 16

    def fresh() -> Any:
        rows = datasets.Dataset.from_dict({"id": list(range(ROWS))}).to_iterable_dataset(num_shards=shards)
        return rows.shuffle(seed=0, buffer_size=BUFFER)

    first, seen = fresh(), []
    for row in first:
        seen.append(row["id"])
        if len(seen) == STOP:
            state = first.state_dict()
            break
    second = fresh()
    second.load_state_dict(state)
    seen += [row["id"] for row in second]
    lost, repeated = ROWS - len(set(seen)), len(seen) - len(set(seen))
    return {"version": datasets.__version__, "shards": shards, "lost": lost, "repeated": repeated}


# ---------------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TEXTMILL_TEST_DATA", ".")))
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--only", default="speed,padding,share,resume,memory")
    parser.add_argument("--memory-gb", type=float, default=2.0, help="the largest set of shards that `memory` writes")
    parser.add_argument("--peer", default="", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, default=Path(), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peer:
        peers = {"speed": lambda: peer_speed(chosen.place), "memory": lambda: peer_memory(chosen.place), "resume": peer_resume}
        print(json.dumps(peers[chosen.peer]()))
        return
    parts = {"speed": speed, "padding": padding, "share": share, "resume": resume}
    for name in chosen.only.split(","):
        if name == "memory":
            memory(chosen.data, chosen.peer_python, chosen.memory_gb)
        else:
            parts[name](chosen.data, chosen.peer_python)


if __name__ == "__main__":
    main()
