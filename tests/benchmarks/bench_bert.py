"""BERT on real text: our packed rows against transformers on padded ones, in real tokens a second.

    TEXTMILL_TEST_DATA=FOLDER python tests/benchmarks/bench_bert.py [--only reviews,128] [--rounds 5] [--precision bf16]

Both learn masks and pairs (NSP) from the same examples, masks and labels: the feed makes a step's padded batch, which transformers
gets cut to its longest sequence, as a collator pads it, and ours the same sequences packed. Ours makes its batch within the step, the
peer's is ready. A real token is one that is not padding. Each has a process of its own (contest.py, peers.py).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads would be counted as work

import contest
import peers
import torch

from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from training.engine.heap import held
from training.engine.optim import OptimConfig
from training.engine.rank import choose_matmul_mode, here
from training.engine.zero import Engine, ZeroConfig, join
from training.feed.batch import Batch
from training.feed.loader import FeedConfig, open_feed
from training.feed.order import StepFeed

TEXTS = {"reviews": "text/en/movie-reviews.jsonl.gz", "addresses, paragraphs": "text/en/state-of-the-union.jsonl.gz"}
CASES = [("reviews", 128), ("reviews", 512), ("addresses, paragraphs", 128)]
POSITIONS = 8192  # of a step before packing
HELD = ExitStack()  # for as long as the process lives


def prepared(place: Path, data: Path, text: str, length: int) -> None:
    """Sentences, pairs and tokenizer of one text; where paragraphs are asked for, each is a document of its own."""
    local, store, source = LocalCompute(), Store(place / "artifacts"), data / TEXTS[text]
    if text.endswith("paragraphs"):
        source = paragraphs(source, place / "paragraphs.txt")
    made = {"documents": run(DOCUMENTS, DocumentsConfig((SourceFile.of(source),), separator="\n\n"), {}, store, local)}
    made["tokenizer"] = run(TOKENIZER, TokenizerConfig("wordpiece", peers.VOCAB, lowercase=True), made, store, local)
    made["sentences"] = run(ENCODE, EncodeConfig(), made, store, local)
    made["examples"] = run(PAIRS, PairsConfig(length), {"sentences": made["sentences"]}, store, local)
    told = {name: [artifact.stage, artifact.fingerprint] for name, artifact in made.items() if name != "documents"}
    (place / "made.json").write_text(json.dumps(told))


def paragraphs(source: Path, out: Path) -> Path:
    """The lines of every text of a JSON lines file as documents of their own."""
    import gzip

    with gzip.open(source, "rt") as file:
        lines = [line.strip() for row in file for line in json.loads(row)["text"].splitlines()]
    out.write_text("\n\n".join(line for line in lines if line))
    return out


def feed_of(place: Path, length: int, packed: bool) -> StepFeed:
    store = Store(place / "artifacts")
    made: dict[str, Artifact] = {name: store.get(*key) for name, key in json.loads((place / "made.json").read_text()).items()}
    return open_feed(config=FeedConfig(POSITIONS // length, length, 1, "mlm+nsp", packed=packed), **made)


def cut(batch: Batch) -> dict[str, torch.Tensor]:
    """As a collator would have it: padded to the longest of the batch, under transformers' names."""
    keep = batch.keep_BL if batch.keep_BL is not None else torch.ones_like(batch.tokens_BL).bool()
    longest = int(keep.sum(1).max())
    named = {
        "input_ids": batch.tokens_BL,
        "token_type_ids": batch.segments_BL,
        "attention_mask": keep.long(),
        "labels": batch.labels["mlm"],
    }
    return {name: x[:, :longest].contiguous() for name, x in named.items() if x is not None} | {"next_sentence_label": batch.labels["pair"]}


def of_transformers(feed: StepFeed, length: int, precision: str) -> contest.Step:
    model = peers.transformers_bert(length, pairs=True).train()
    batches, given = (cut(feed.slice(step, 0, 1)) for step in range(10**9)), {}
    step = peers.loop(model.parameters(), precision, lambda: model(**given).loss)
    return next_of(batches, given, step)


def next_of(batches: Any, given: dict[str, torch.Tensor], step: Callable[[], float]) -> contest.Step:
    def counted() -> float:
        step()
        tokens = float(given["attention_mask"].sum())
        given.update(next(batches))
        return tokens

    given.update(next(batches))
    return counted


def through_engine(feed: StepFeed, length: int, precision: str, stage: int) -> contest.Step:
    join(here())
    settings = OptimConfig(lr=peers.LR)
    engine = Engine(peers.ours("bert", length), ZeroConfig(stage, precision, 1, peers.CLIP, settings), here(), feed.batch_size)
    engine.module.train()
    steps = iter(range(10**9))

    def counted() -> float:
        batch = feed.slice(next(steps), 0, 1)
        losses = engine.forward(batch)
        engine.backward(losses.total)
        engine.step(settings.lr)
        return float(batch.keep_BL.sum()) if batch.keep_BL is not None else batch.tokens_BL.numel()

    return counted


def make(spec: dict[str, Any]) -> contest.Step:
    torch.set_num_threads(spec["threads"])
    choose_matmul_mode()
    feed = feed_of(Path(spec["place"]), spec["length"], spec["packed"])
    if spec["kind"] == "transformers":
        return of_transformers(feed, spec["length"], spec["precision"])
    HELD.enter_context(held())  # as the training loop does for as long as it lasts
    return through_engine(feed, spec["length"], spec["precision"], spec["stage"])


def padding(place: Path, length: int) -> str:
    """The share of padding in padded and packed rows, over the first steps."""
    told = []
    for packed in (False, True):
        feed = feed_of(place, length, packed)
        batches = [feed.slice(step, 0, 1) for step in range(8)]
        real = sum(int(batch.keep_BL.sum()) for batch in batches if batch.keep_BL is not None)
        told.append(1 - real / sum(batch.tokens_BL.numel() for batch in batches))
    return f"{told[0]:.0%} -> {told[1]:.0%}"


def main() -> None:
    parser = contest.parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TEXTMILL_TEST_DATA", ".")))
    parser.add_argument("--precision", default="bf16")
    chosen = parser.parse_args()
    if chosen.serve:
        return contest.serve(json.loads(chosen.serve), make)
    print(
        f"BERT, {peers.LAYERS} layers, {peers.WIDTH} wide, V {peers.VOCAB}, masks and NSP, {POSITIONS} positions a step before packing; ",
        end="",
    )
    print(f"torch {torch.__version__}, {chosen.threads} threads; real tokens; best and median of {chosen.rounds} rounds; to transformers\n")
    print(contest.header(["text", "length", "padding", "precision"]))
    for text, length in CASES:
        if not contest.wanted(chosen.only, text, text.split(",")[0], str(length)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            prepared(Path(folder), chosen.data, text, length)
            usual = {"place": folder, "length": length, "threads": chosen.threads, "precision": chosen.precision}
            flops = peers.flops_per_token("bert", length)
            specs = {
                "transformers, padded": {"kind": "transformers", "packed": False},
                "ours, ZeRO-1, padded": {"kind": "engine", "packed": False, "stage": 1},
                "ours, ZeRO-1, packed": {"kind": "engine", "packed": True, "stage": 1},
            }
            group = [contest.Contestant(name, {**usual, **spec}, flops) for name, spec in specs.items()]
            most = contest.ceiling(chosen.precision, chosen.threads)
            done = contest.run(group, chosen.rounds, __file__)
            print("\n".join(contest.rows(done, [text, str(length), padding(Path(folder), length), chosen.precision], most)), flush=True)
    return None


if __name__ == "__main__":
    main()
