"""A few documents and a small tokenizer trained on them, as artifacts."""

from __future__ import annotations

import random
from collections.abc import Callable

import pyarrow as pa
import pytest
import xxhash
from hypothesis import settings

from data_prep import schemas, shards
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store

settings.register_profile("patient", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("patient")

WORDS = ["river", "stone", "lamp", "winter", "carpet", "seven", "quiet", "orange", "ladder", "music"]
WORDS += ["사과", "바람", "하늘", "구름", "étude"]


def make_text(rng: random.Random) -> str:
    sentences = [
        " ".join(rng.choices(WORDS, k=rng.randint(2, 14))).capitalize() + rng.choice([".", "!", "?"]) for _ in range(rng.randint(1, 15))
    ]
    return rng.choice(["", "Title\n\n"]) + rng.choice([" ", "\n", "  "]).join(sentences)


@pytest.fixture
def texts() -> list[str]:
    rng = random.Random(3)
    return [make_text(rng) for _ in range(60)] + ["", "One sentence only."]


@pytest.fixture
def documents(store: Store) -> Callable[..., Artifact]:
    def make(texts: list[str], count: int = 3, name: str = "documents") -> Artifact:
        with store.writing("documents", name, {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
            for number in range(count):
                rows = [
                    {"id": xxhash.xxh3_64_hexdigest(t.encode()), "host": f"h{len(t) % 9}.test", "text": t} for t in texts[number::count]
                ]
                rows = [
                    row | {"url": f"http://{row['host']}/{row['id']}", "title": "", "language": "", "karma": None, "source": ""}
                    for row in rows
                ]
                shards.write(pa.Table.from_pylist(rows, schema=schemas.DOCUMENTS), work.out / shards.name(number))
        return store.get("documents", name)

    return make


@pytest.fixture
def encoded(store: Store, documents: Callable[..., Artifact], texts: list[str]) -> Callable[..., tuple[Artifact, Artifact]]:
    """(sentences, tokenizer) of the texts."""

    def make(
        kind: str = "byte_bpe", vocab: int = 330, share: float = 0.2, by: str = "document", count: int = 3
    ) -> tuple[Artifact, Artifact]:
        source = documents(texts, count, f"d{count}")
        tokenizer = run(TOKENIZER, TokenizerConfig(kind, vocab), {"documents": source}, store, LocalCompute())
        inputs = {"documents": source, "tokenizer": tokenizer}
        return run(ENCODE, EncodeConfig(share, by), inputs, store, LocalCompute()), tokenizer

    return make
