"""From text to RoBERTa's batches: a byte-level tokenizer with masks, documents joined by </s>, blocks framed <s> ... </s>."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from training.feed.batch import IGNORE
from training.feed.loader import FeedConfig, Masking, open_feed

BOS, PAD, EOS, UNK, MASK = range(5)
LENGTH = 32
TEXTS = [
    f"Mill number {n} grinds grain and text. A <mask> or </s> in a page stays words! Its {'wheel turns ' * (n % 7 + 1)}slowly."
    for n in range(80)
]


@pytest.fixture
def made(store: Store) -> dict[str, Any]:
    with store.writing("documents", "d", {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
        empty = {"url": "", "host": "", "title": "", "language": "en", "karma": None, "source": ""}
        rows = [{**empty, "id": f"{n:016x}", "text": text} for n, text in enumerate(TEXTS)]
        shards.write(pa.Table.from_pylist(rows, schema=schemas.DOCUMENTS), work.out / shards.name(0))
    documents, local = store.get("documents", "d"), LocalCompute()
    tokenizer = run(TOKENIZER, TokenizerConfig(vocab=400, specials="roberta"), {"documents": documents}, store, local)
    inputs = {"documents": documents, "tokenizer": tokenizer}
    sentences = run(ENCODE, EncodeConfig(valid_share=0.2), inputs, store, local)
    blocks = run(BLOCKS, BlocksConfig(LENGTH - 2), {"sentences": sentences}, store, local)
    return {"examples": blocks, "sentences": sentences, "tokenizer": tokenizer}


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_blocks_are_framed_and_their_text_is_the_documents(made: dict[str, Any], unit: str, split: str) -> None:
    feed = open_feed(**made, config=FeedConfig(8, LENGTH, 1, "mlm", Masking(unit=unit)), split=split)
    tokenizer = load(made["tokenizer"])
    for step in range(feed.steps_per_epoch):
        batch = feed.slice(step, 0, 1)
        labels = batch.labels["mlm"].numpy()
        chosen = labels != IGNORE
        original = np.where(chosen, labels, batch.tokens_BL.numpy())
        keep = np.ones(original.shape, bool) if batch.keep_BL is None else batch.keep_BL.numpy()
        assert original.max() >= 5 and (labels[chosen] >= 5).all() and not (chosen & ~keep).any()
        for row, kept in zip(original, keep, strict=True):
            real = row[kept]
            assert real[0] == BOS and real[-1] == EOS and not np.isin(real, [PAD, UNK, MASK]).any()
            parts = "".join("\0" if i == EOS else tokenizer.decode([i]) for i in real[1:-1]).split("\0")
            assert all(any(part in text for text in TEXTS) for part in parts)


def test_words_are_hidden_whole(made: dict[str, Any]) -> None:
    feed = open_feed(**made, config=FeedConfig(64, LENGTH, 1, "mlm", Masking(unit="word")))
    starts = load(made["tokenizer"]).word_start
    for step in range(20):
        batch = feed.slice(step, 0, 1)
        labels = batch.labels["mlm"].numpy()
        original = np.where(labels != IGNORE, labels, batch.tokens_BL.numpy())
        follows = ~starts[original[:, 1:]] & (original[:, :-1] >= 5) & (original[:, 1:] >= 5)
        assert follows.any() and ((labels[:, 1:] != IGNORE) == (labels[:, :-1] != IGNORE))[follows].all()
