"""From text to batches and back: what a step trains on is found in the documents its trace names."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
import xxhash

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from training.feed.batch import IGNORE
from training.feed.loader import FeedConfig, open_feed

WORDS = ["river", "stone", "lamp", "winter", "carpet", "seven", "quiet", "orange", "ladder", "music", "<|endoftext|>", "[SEP]", "[MASK]"]


@pytest.fixture
def documents(store: Store) -> Artifact:
    rng = random.Random(5)
    texts = []
    for number in range(80):
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) + f" number{number}." for _ in range(rng.randint(2, 9))]
        texts.append(" ".join(sentence.capitalize() for sentence in sentences))
    with store.writing("documents", "d", {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
        for number in range(3):
            empty = {"url": "", "host": "", "title": "", "language": "en", "karma": None, "source": ""}
            rows = [empty | {"id": xxhash.xxh3_64_hexdigest(t.encode()), "text": t} for t in texts[number::3]]
            shards.write(pa.Table.from_pylist(rows, schema=schemas.DOCUMENTS), work.out / shards.name(number))
    return store.get("documents", "d")


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("byte_bpe", "next"), ("wordpiece", "mlm"), ("wordpiece", "mlm+nsp"), ("sentencepiece_unigram", "mlm+sop")],
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_text_of_a_batch_is_in_the_documents_of_its_trace(
    documents: Artifact, store: Store, kind: str, objective: str, split: str
) -> None:
    local = LocalCompute()
    tokenizer = run(TOKENIZER, TokenizerConfig(kind, 330), {"documents": documents}, store, local)
    sentences = run(ENCODE, EncodeConfig(0.3), {"documents": documents, "tokenizer": tokenizer}, store, local)
    blocks = objective in ("next", "mlm")
    stage, config = (BLOCKS, BlocksConfig(32)) if blocks else (PAIRS, PairsConfig(48))
    examples = run(stage, config, {"sentences": sentences}, store, local)  # type: ignore[arg-type]
    feed = open_feed(examples, sentences, tokenizer, FeedConfig(6, 32 if blocks else 48, 1, objective), split)
    engine, known = load(tokenizer), store.get("documents", "d").shards
    texts = {path.name: shards.read(path)["text"].to_pylist() for path in known}
    specials = set(engine.specials.values())
    for step in range(min(feed.steps_per_epoch, 6)):
        batch = feed.slice(step, 0, 1)
        tokens = batch.tokens_BL
        if "mlm" in batch.labels:
            tokens = batch.labels["mlm"].where(batch.labels["mlm"] != IGNORE, tokens)
        traced = {plain(engine.decode(ids)) for ids in engine.encode_batch([texts[name][row] for name, row in feed.trace(step)])}
        for row in tokens.tolist():
            for run_of in runs(row, specials):
                assert any(plain(engine.decode(run_of)).strip("\ufffd") in text for text in traced)


def plain(text: str) -> str:
    """A cut may part a word's pieces from each other, and a decoder sets spaces around them."""
    return "".join(text.split()).replace("##", "")


def runs(row: list[int], specials: set[int]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for number in row:
        if number in specials:
            found.append([])
        else:
            found[-1].append(number)
    return [part for part in found if part]
