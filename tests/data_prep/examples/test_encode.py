from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.examples import encode
from data_prep.examples.encode import ENCODE, EncodeConfig, side_of
from data_prep.examples.languages import ALL, languages
from data_prep.examples.sentences import split
from data_prep.tokenizer.base import META, read_meta
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

Encoded = Callable[..., tuple[Artifact, Artifact]]


def documents_of(sentences: Artifact) -> dict[str, list[list[int]]]:
    """Document id -> its sentences' ids."""
    found: dict[str, list[list[int]]] = {}
    for path, side in zip(sentences.shards, sentences.side("documents"), strict=True):
        rows, table = shards.read(side).to_pylist(), shards.read(path)
        tokens, owner = table["tokens"].to_pylist(), table["document"].to_pylist()
        for number, row in enumerate(rows):
            span = slice(row["first"], row["first"] + row["sentences"])
            assert owner[span] == [number] * row["sentences"] and sum(map(len, tokens[span])) == row["tokens"]
            found[row["id"]] = tokens[span]
    return found


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_the_ids_of_a_document_are_those_of_its_sentences_and_nothing_is_lost(
    encoded: Encoded, store: Store, texts: list[str], kind: str
) -> None:
    sentences, tokenizer = encoded(kind)
    engine, found = load(tokenizer), documents_of(sentences)
    source = {r["id"]: r["text"] for p in store.get("documents", "d3").shards for r in shards.read(p).to_pylist()}
    assert len(found) == len(texts) == len(source)
    for key, text in source.items():
        assert found[key] == [ids for ids in engine.encode_batch(split(text)) if ids]
        if kind == "byte_bpe":
            flat = [number for ids in found[key] for number in ids]
            assert engine.decode(flat) == text and flat == engine.encode_batch([text])[0]


def test_on_real_text_sentences_give_the_ids_of_the_whole_document(data: Path, encoded: Encoded) -> None:
    """White space stands at the head of a sentence, so GPT-2's words are cut alike. Where a sentence ends without white
    space after it ("Wow!So"), a merge across that place can be lost."""
    engine = load(encoded("byte_bpe", 400)[1])
    same = total = 0
    for name, language in (("en/movie-reviews.jsonl.gz", "en"), ("ko/naver-movie-reviews.jsonl.gz", "ko")):
        with gzip.open(data / "text" / name, "rt", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line, _ in zip(file, range(150), strict=False)]
        for text, whole in zip(texts, engine.encode_batch(texts), strict=True):
            flat = [number for ids in engine.encode_batch(split(text, language)) for number in ids]
            assert engine.decode(flat) == text
            same, total = same + (flat == whole), total + 1
    assert same / total > 0.99


def test_the_side_table_counts_bytes_and_tokens(encoded: Encoded, store: Store) -> None:
    sentences, tokenizer = encoded()
    sizes = {r["id"]: len(r["text"].encode()) for p in store.get("documents", "d3").shards for r in shards.read(p).to_pylist()}
    rows = [r for p in sentences.side("documents") for r in shards.read(p).to_pylist()]
    assert {r["id"]: r["bytes"] for r in rows} == sizes and all(r["url"].endswith(r["id"]) for r in rows)
    counts = sentences.counts
    assert (counts["read"], counts["kept"], counts["set_aside.empty"]) == (62, 61, 1)
    assert counts["tokens"] == sum(r["tokens"] for r in rows) == counts["train_tokens"] + counts["valid_tokens"]
    assert counts["bytes"] == sum(sizes.values()) == counts["train_bytes"] + counts["valid_bytes"]
    assert read_meta(sentences.file(META)).fingerprint == load(tokenizer).fingerprint


def test_languages_are_counted_apart_and_add_up(store: Store, tmp_path: Path) -> None:
    """Against sums made by hand from the ids of each document."""
    rows = [("en", "The river is wide. It is deep."), ("ko", "바람이 분다. 하늘은 넓다!"), ("en", "Ж \u4e00 x"), ("", "x"), ("ko", "")] * 3
    with store.writing("documents", "mixed", {"stage": "documents", "version": 1, "config": {}, "inputs": {}}) as work:
        for number in range(2):
            made = [
                {"id": f"{at:016x}", "url": "", "host": "", "title": "", "text": text, "language": language, "karma": None, "source": ""}
                for at, (language, text) in list(enumerate(rows))[number::2]
            ]
            shards.write(pa.Table.from_pylist(made, schema=schemas.DOCUMENTS), work.out / shards.name(number))
    source = store.get("documents", "mixed")
    config = TokenizerConfig("wordpiece", 60, lowercase=True, alphabet=20)
    tokenizer = run(TOKENIZER, config, {"documents": source}, store, LocalCompute())
    encoded = run(ENCODE, EncodeConfig(), {"documents": source, "tokenizer": tokenizer}, store, LocalCompute())
    engine, told = load(tokenizer), {row["language"]: row for row in languages(encoded)}
    assert set(told) == {ALL, "en", "ko", ""} and next(iter(told)) == ALL
    for language, row in told.items():
        texts = [text for name, text in rows if language in (ALL, name)]
        cut = [[s for s in split(text, name) if engine.encode_batch([s])[0]] for name, text in rows if language in (ALL, name)]
        ids = [number for sentences in cut for sentence in engine.encode_batch(sentences) for number in sentence]
        words, size = sum(len(text.split()) for text in texts), sum(len(text.encode()) for text in texts)
        assert row["documents"] == len(texts) and row["sentences"] == sum(map(len, cut)) and row["words"] == words
        assert (row["bytes"], row["letters"], row["tokens"]) == (size, sum(map(len, texts)), len(ids))
        assert row["unknown"] == ids.count(1) and row["unknown_share"] == pytest.approx(ids.count(1) / len(ids), abs=1e-6)
        assert row["fertility"] == pytest.approx(len(ids) / words, abs=1e-4)
        assert row["bytes_per_token"] == pytest.approx(size / len(ids), abs=1e-4)
    assert encoded.counts["unknown"] == told[ALL]["unknown"] > 0 and encoded.counts["tokens"] == told[ALL]["tokens"]


def test_a_shard_larger_than_a_group_is_the_same_rows(
    encoded: Encoded, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Groups bound the memory; where they begin changes record batches, not rows. Nothing is left beside the shards."""
    sentences, tokenizer = encoded()
    monkeypatch.setattr(encode, "TOGETHER", 300)
    inputs = {"documents": store.get("documents", "d3"), "tokenizer": tokenizer}
    out = tmp_path / "out"
    out.mkdir()
    ENCODE.work(EncodeConfig(0.2), inputs, out, LocalCompute())
    for path in sentences.shards:
        one, many = shards.read(path), shards.read(out / path.name)
        assert many["tokens"].num_chunks > one["tokens"].num_chunks == 1 and one.equals(many)
    assert sorted(p.name for p in out.iterdir() if p.suffix != ".done") == [
        "00000.arrow",
        "00001.arrow",
        "00002.arrow",
        "documents",
        "languages",
        META,
    ]


def test_the_split_follows_the_document_whatever_shard_it_is_in(encoded: Encoded) -> None:
    def split_of(artifact: Artifact) -> dict[str, str]:
        return {r["id"]: r["split"] for p in artifact.side("documents") for r in shards.read(p).to_pylist()}

    one, many = split_of(encoded(count=1)[0]), split_of(encoded(count=5)[0])
    assert one == many and 3 <= list(one.values()).count("valid") <= 25
    hosts: dict[str, set[str]] = {}
    for path in encoded(by="host", share=0.4)[0].side("documents"):
        for row in shards.read(path).to_pylist():
            hosts.setdefault(row["url"].split("/")[2], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in hosts.values()) and set.union(*hosts.values()) == {"train", "valid"}


def test_the_share_of_valid_documents_is_the_one_asked_for() -> None:
    drawn = [side_of(EncodeConfig(0.1), f"document {n}") for n in range(20_000)]
    assert drawn.count("valid") / 20_000 == pytest.approx(0.1, abs=0.008)
    assert {side_of(EncodeConfig(0.0), str(n)) for n in range(100)} == {"train"}


def test_ids_take_two_bytes_as_long_as_they_fit(encoded: Encoded) -> None:
    assert [schemas.token_type(v).bit_width for v in (65_535, 65_536, 65_537)] == [16, 16, 32]
    table = shards.read(encoded()[0].shards[0])
    assert table.schema.equals(schemas.sentences(330), check_metadata=False)
    assert table["tokens"].chunk(0).flatten().to_numpy(zero_copy_only=True).dtype == np.uint16


def test_a_second_try_does_the_rest_only_and_gives_the_same_bytes(encoded: Encoded, store: Store, tmp_path: Path) -> None:
    sentences, tokenizer = encoded()
    inputs = {"documents": store.get("documents", "d3"), "tokenizer": tokenizer}
    out = tmp_path / "out"
    out.mkdir()
    ENCODE.work(EncodeConfig(0.2), inputs, out, LocalCompute())
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".done"}
    (out / "00001.arrow").unlink()
    before = (out / "00000.arrow").stat().st_mtime_ns
    ENCODE.work(EncodeConfig(0.2), inputs, out, LocalCompute())
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".done"} == first
    assert (out / "00000.arrow").stat().st_mtime_ns == before
    assert all((sentences.path / name).read_bytes() == data for name, data in first.items())


ALONE = """
import sys
from pathlib import Path
from data_prep.examples.encode import ENCODE, EncodeConfig
from infra.compute import LocalCompute
from infra.store import Store

store, name, tokenizer, out = sys.argv[1:]
inputs = {"documents": Store(Path(store)).get("documents", name), "tokenizer": Path(tokenizer)}
ENCODE.work(EncodeConfig(), inputs, Path(out), LocalCompute())
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's peak from Linux's /proc")
def test_a_larger_shard_takes_no_more_memory(encoded: Encoded, documents: Callable[..., Artifact], store: Store, tmp_path: Path) -> None:
    """The highest resident set of a process of its own, mapped pages counted. getrusage would tell that of this process, if higher."""
    tokenizer, rng = encoded()[1].path / "tokenizer", random.Random(9)
    some = [" ".join(f"{word} {rng.randint(0, 999)}." for word in rng.choices(["river", "stone", "사과"], k=8)) for _ in range(400)]
    peaks, sizes = [], []
    for times in (200, 1500):  # a batch of documents, which is what waits to be written, and several
        source = documents(some * times, 1, f"times{times}")
        sizes.append(source.shards[0].stat().st_size / 1e6)
        out = tmp_path / f"out{times}"
        out.mkdir()
        command = [sys.executable, "-c", ALONE, str(store.root), source.fingerprint, str(tokenizer), str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[3])
        peaks.append(int(done.stdout) / 1024)
    # what allocators keep for later: 24 MB; when the shard's documents were all held, it was 1.7 MB for each MB more
    assert sizes[1] - sizes[0] > 90 and peaks[1] - peaks[0] < 0.5 * (sizes[1] - sizes[0]), (peaks, sizes)


def test_a_shard_without_documents_is_an_empty_shard(documents: Callable[..., Artifact], encoded: Encoded, store: Store) -> None:
    tokenizer = encoded()[1]
    made = run(
        ENCODE, EncodeConfig(), {"documents": documents(["Only one. Text."], 2, "few"), "tokenizer": tokenizer}, store, LocalCompute()
    )
    assert [shards.read(p).num_rows for p in made.shards] == [2, 0] and made.counts["read"] == 1


def test_impossible_splits_are_refused() -> None:
    for wrong in ({"valid_share": 1.0}, {"valid_share": -0.1}, {"by": "page"}):
        with pytest.raises(ConfigError):
            EncodeConfig(**wrong)  # type: ignore[arg-type]
