"""Texts to train on: made-up ones with a known answer, and real English and Korean ones."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import xxhash
from hypothesis import settings

from data_prep import schemas, shards
from data_prep.tokenizer import bpe_eow, byte_bpe, sentencepiece, wordpiece
from data_prep.tokenizer.base import Meta
from infra.artifact import Artifact
from infra.store import Store

settings.register_profile("patient", deadline=None, derandomize=True)  # a busy machine is not a failure
settings.load_profile("patient")

TRAINERS: dict[str, Callable[[Sequence[str], Path], Meta]] = {
    "byte_bpe": lambda texts, folder: byte_bpe.train(texts, folder, 700),
    "bpe_eow": lambda texts, folder: bpe_eow.train(texts, folder, 700),
    "wordpiece": lambda texts, folder: wordpiece.train(texts, folder, 700),
    "sentencepiece_bpe": lambda texts, folder: sentencepiece.train(texts, folder, 500, "bpe"),
    "sentencepiece_unigram": lambda texts, folder: sentencepiece.train(texts, folder, 500, "unigram"),
}


def make_texts(count: int = 300) -> list[str]:
    """Sentences of made-up words, some of them Korean, with many merges of equal count."""
    rng = random.Random(7)
    syllables = ["ka", "lo", "mi", "ter", "son", "ing", "ed", "qu", "가", "나", "다", "하", "é"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=12)).capitalize() + ". 42, [x]!\nNext line" for _ in range(count)]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> dict[str, Path]:
    """A folder for every kind."""
    root = tmp_path_factory.mktemp("trained")
    for kind, train in TRAINERS.items():
        train(texts, root / kind)
    return {kind: root / kind for kind in TRAINERS}


@pytest.fixture(scope="session")
def real(data: Path) -> list[str]:
    """English and Korean reviews; the first part is for training, the whole for encoding."""

    def read(name: str, count: int) -> list[str]:
        with gzip.open(data / "text" / name, "rt", encoding="utf-8") as file:
            return [json.loads(line)["text"] for line, _ in zip(file, range(count), strict=False)]

    english, korean = read("en/movie-reviews.jsonl.gz", 300), read("ko/naver-movie-reviews.jsonl.gz", 4000)
    return [text for pair in zip(english, korean, strict=False) for text in pair] + korean[300:]


@pytest.fixture
def documents(store: Store) -> Callable[..., Artifact]:
    """Texts as a documents artifact of so many shards, in the order given."""

    def make(texts: Sequence[str], count: int = 2, name: str = "documents") -> Artifact:
        with store.writing("documents", name, {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
            for number in range(count):
                rows = [
                    {"id": xxhash.xxh3_64_hexdigest(t.encode()), "url": "", "host": "", "title": "", "text": t}
                    for t in texts[number::count]
                ]
                table = pa.Table.from_pylist(
                    [row | {"language": "", "karma": None, "source": ""} for row in rows], schema=schemas.DOCUMENTS
                )
                shards.write(table, work.out / shards.name(number))
        return store.get("documents", name)

    return make
