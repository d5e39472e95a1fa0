"""Real texts as pair sources, for what is measured about the leak: film reviews (421 documents) and pieces of novels (5,569)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
from tests.training import prove
from tests.training.small import documents
from training.feed.loader import FeedConfig, open_feed

SIZES = {"small": 421, "large": 5569}


def source(store: Store, size: str, length: int, task: str, data: Path) -> Any:
    """The pair source of one task on SIZES[size] documents; what the store has already is not built twice."""
    texts = list(islice(prove.reviews(data) if size == "small" else prove.books(data, 800), SIZES[size]))
    assert len(texts) == SIZES[size]
    local, written = LocalCompute(), documents(store, texts)
    tokenizer = run(TOKENIZER, TokenizerConfig(kind="wordpiece", vocab=4096, lowercase=True), {"documents": written}, store, local)
    sentences = run(ENCODE, EncodeConfig(valid_share=0.02), {"documents": written, "tokenizer": tokenizer}, store, local)
    pairs = run(PAIRS, PairsConfig(length), {"sentences": sentences}, store, local)
    return open_feed(pairs, sentences, tokenizer, FeedConfig(8, length, 1, f"mlm+{task}")).source
