from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep import shards
from data_prep.examples.blocks import BLOCKS, BlocksConfig, in_order
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.tokenizer.catalog import load
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

Encoded = Callable[..., tuple[Artifact, Artifact]]
EOS = 0


def streams(sentences: Artifact, split: str, separator: int) -> list[tuple[list[int], list[int]]]:
    """Each shard's documents of a split, one after another with the separator; and the document of every token."""
    found = []
    for path, side in zip(sentences.shards, sentences.side("documents"), strict=True):
        tokens, stream, owner = shards.read(path)["tokens"].to_pylist(), [], []
        for number, row in enumerate(shards.read(side).to_pylist()):
            if row["split"] == split and row["tokens"]:
                ids = [i for s in tokens[row["first"] : row["first"] + row["sentences"]] for i in s] + [separator]
                stream += ids
                owner += [number] * len(ids)
        found.append((stream, owner))
    return found


@pytest.mark.parametrize("length", [2, 7, 64, 100_000])
@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_every_token_stands_in_exactly_one_block_in_order(encoded: Encoded, store: Store, length: int, tail: str) -> None:
    sentences, _ = encoded()
    made = run(BLOCKS, BlocksConfig(length, tail, tail), {"sentences": sentences}, store, LocalCompute())
    for split, paths, prefix in (("train", made.shards, ""), ("valid", made.side("valid"), "valid_")):
        expected = streams(sentences, split, EOS)
        dropped = padded = 0
        for path, (stream, owner) in zip(paths, expected, strict=True):
            table = shards.read(path)
            flat = [i for block in table["tokens"].to_pylist() for i in block]
            left = len(stream) % length
            whole = len(stream) - left if tail == "drop" else len(stream)
            assert flat == stream[:whole] + [EOS] * (len(flat) - whole) and len(flat) - whole < length
            assert table["document"].to_pylist() == owner[:whole:length]
            dropped, padded = dropped + len(stream) - whole, padded + len(flat) - whole
        counts = made.counts
        assert (counts[f"{prefix}dropped_tokens"], counts[f"{prefix}padded_tokens"]) == (dropped, padded)
        assert counts[f"{prefix}tokens"] + dropped == sum(len(stream) for stream, _ in expected)
        assert counts[f"{prefix}tokens"] + padded == length * counts[f"{prefix}blocks"]
    assert made.counts["read"] == 62 and made.counts["kept"] == 61


def test_the_blocks_of_a_byte_level_tokenizer_decode_to_the_documents(encoded: Encoded, store: Store, texts: list[str]) -> None:
    sentences, tokenizer = encoded(share=0.0, count=1)
    made = run(BLOCKS, BlocksConfig(16, "pad"), {"sentences": sentences}, store, LocalCompute())
    flat = [i for block in shards.read(made.shards[0])["tokens"].to_pylist() for i in block]
    text = load(tokenizer).decode(flat)
    assert text.rstrip("<|endoftext|>") == "<|endoftext|>".join(t for t in texts if t).rstrip("<|endoftext|>")
    assert shards.read(made.side("valid")[0]).num_rows == 0


def test_without_an_end_of_text_documents_are_parted_by_sep(encoded: Encoded, store: Store) -> None:
    sentences, tokenizer = encoded("wordpiece", share=0.0)
    made = run(BLOCKS, BlocksConfig(32), {"sentences": sentences}, store, LocalCompute())
    flat = [i for p in made.shards for block in shards.read(p)["tokens"].to_pylist() for i in block]
    separator = load(tokenizer).specials["sep"]
    assert 61 - 6 <= flat.count(separator) <= 61


def test_many_record_batches_read_as_one(encoded: Encoded, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, tokenizer = encoded()
    monkeypatch.setattr(shards, "BATCH_ROWS", 7)
    inputs = {"documents": store.get("documents", "d3"), "tokenizer": tokenizer}
    other = Store(store.root / "other")
    cut = run(ENCODE, EncodeConfig(0.2), inputs, other, LocalCompute())
    assert shards.read(cut.shards[0])["tokens"].num_chunks > 5
    made = [run(BLOCKS, BlocksConfig(16), {"sentences": s}, o, LocalCompute()) for s, o in ((whole, store), (cut, other))]
    for one, two in zip(made[0].shards, made[1].shards, strict=True):
        assert shards.read(one).equals(shards.read(two))


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"length": 1}, {"tail": "keep"}, {"valid_tail": ""}, {"mode": "sentences"}):
        with pytest.raises(ConfigError):
            BlocksConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["full_sentences", "doc_sentences"])
@pytest.mark.parametrize("length", [4, 16, 64])
def test_every_sentence_stands_in_exactly_one_block_whole_unless_it_is_too_long(
    encoded: Encoded, store: Store, mode: str, length: int
) -> None:
    """Against filling blocks sentence by sentence (Liu et al. 2019, section 4.2)."""
    sentences, _ = encoded()
    made = run(BLOCKS, BlocksConfig(length, mode=mode), {"sentences": sentences}, store, LocalCompute())
    cut_sentences = 0
    for split, paths in (("train", made.shards), ("valid", made.side("valid"))):
        for path, shard, side in zip(paths, sentences.shards, sentences.side("documents"), strict=True):
            expected, owners = by_hand(shard, side, split, mode, length)
            table = shards.read(path)
            assert table["tokens"].to_pylist() == expected and table["document"].to_pylist() == owners
        cut_sentences += made.counts["cut_sentences" if split == "train" else "valid_cut_sentences"]
    assert (cut_sentences > 0) == (length <= 16)


def by_hand(shard: Path, side: Path, split: str, mode: str, length: int) -> tuple[list[list[int]], list[int]]:
    tokens = shards.read(shard)["tokens"].to_pylist()
    blocks: list[list[int]] = []
    owners: list[int] = []
    fresh = True
    for number, row in enumerate(shards.read(side).to_pylist()):
        if row["split"] != split or not row["tokens"]:
            continue
        units = tokens[row["first"] : row["first"] + row["sentences"]]
        if mode == "full_sentences":
            units[-1] = [*units[-1], EOS]
        fresh = fresh or mode == "doc_sentences"
        for unit in units:
            for piece in [unit[at : at + length] for at in range(0, len(unit), length)]:
                if fresh or len(blocks[-1]) + len(piece) > length:
                    blocks.append([])
                    owners.append(number)
                blocks[-1] += piece
                fresh = False
    return blocks, owners


def test_documents_stand_by_their_source_then_by_row(encoded: Encoded, store: Store) -> None:
    sentences, _ = encoded(count=1)
    side = shards.read(sentences.side("documents")[0])
    names = pa.array([f"file{row % 2}" for row in range(side.num_rows)])
    mixed = side.set_column(side.column_names.index("source"), "source", names)
    rows = in_order(mixed, "train")
    assert sorted(rows.tolist()) == in_order(side, "train").tolist() == sorted(in_order(side, "train").tolist())
    assert [row % 2 for row in rows.tolist()] == sorted(row % 2 for row in rows.tolist())
    for half in (0, 1):
        assert sorted(part := [row for row in rows.tolist() if row % 2 == half]) == part
