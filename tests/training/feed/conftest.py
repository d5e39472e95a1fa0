"""A toy corpus whose ids tell where they come from: every token of sentence s (numbered through all shards) is FIRST + s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import settings

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.base import Meta, save_meta
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from training.feed.loader import Feed, FeedConfig, open_feed

settings.register_profile("patient", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("patient")

FIRST = 10  # ids below are specials and room for more
SPECIALS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "eos": 5}


@dataclass
class Toy:
    """document_of[s]: (shard name, row) of sentence s; split_of: the split of that document."""

    store: Store
    tokenizer: Artifact
    sentences: Artifact
    document_of: list[tuple[str, int]]
    split_of: dict[tuple[str, int], str]
    lengths: list[int]

    def blocks(self, length: int, **more: str) -> Artifact:
        return run(BLOCKS, BlocksConfig(length, **more), {"sentences": self.sentences}, self.store, LocalCompute())

    def pairs(self, length: int, **more: float) -> Artifact:
        return run(PAIRS, PairsConfig(length, **more), {"sentences": self.sentences}, self.store, LocalCompute())

    def feed(self, examples: Artifact, split: str = "train", **config: object) -> Feed:
        return open_feed(examples, self.sentences, self.tokenizer, FeedConfig(**config), split)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # small tensors: threads would only wait for each other


@pytest.fixture
def make_toy(store: Store) -> Callable[..., Toy]:
    def make(
        documents: int = 60, per_shard: int = 25, seed: int = 0, longest: int = 30, most: int = 12, name: str = "toy", files: int = 1
    ) -> Toy:
        rng = np.random.default_rng(seed)
        corpus = [rng.integers(1, longest, rng.integers(1, most)).tolist() for _ in range(documents)]
        vocab = FIRST + sum(map(len, corpus)) + 1
        toy = Toy(store, Artifact("", "", store.root), Artifact("", "", store.root), [], {}, [])
        meta = Meta("wordpiece", vocab, SPECIALS, f"toy {name}")
        with store.writing("tokenizer", name, _record("tokenizer")) as work:
            (work.out / "tokenizer").mkdir()
            save_meta(work.out / "tokenizer", meta)
        with store.writing("encode", name, _record("encode")) as work:
            save_meta(work.out, meta)
            for number, start in enumerate(range(0, documents, per_shard)):
                _write_shard(toy, work.out, shards.name(number), corpus[start : start + per_shard], vocab, meta.fingerprint, files)
        toy.tokenizer, toy.sentences = store.get("tokenizer", name), store.get("encode", name)
        return toy

    return make


def _record(stage: str) -> dict[str, object]:
    return {"stage": stage, "version": 1, "config": {}, "inputs": {}}


def _write_shard(toy: Toy, out: object, name: str, corpus: list[list[int]], vocab: int, mark: str, files: int) -> None:
    first, rows, tokens, side = 0, [], [], []
    for document, lengths in enumerate(corpus):
        split = "valid" if document % 5 == 4 else "train"
        toy.split_of[(name, document)] = split
        for length in lengths:
            tokens.append([FIRST + len(toy.lengths)] * length)
            rows.append(document)
            toy.document_of.append((name, document))
            toy.lengths.append(length)
        side.append({"id": f"{name} {document}", "url": "", "split": split, "first": first, "sentences": len(lengths)})
        side[-1] |= {"tokens": sum(lengths), "bytes": 4 * sum(lengths), "source": f"file{document % files}.jsonl"}
        first += len(lengths)
    shards.write(pa.Table.from_pylist(side, schema=schemas.ENCODED), out / "documents" / name, tokenizer=mark)  # type: ignore[operator]
    table = pa.table({"document": rows, "tokens": tokens}, schema=schemas.sentences(vocab))
    shards.write(table, out / name, {"read": len(corpus)}, tokenizer=mark)  # type: ignore[operator]


@pytest.fixture
def toy(make_toy: Callable[..., Toy]) -> Toy:
    return make_toy()
