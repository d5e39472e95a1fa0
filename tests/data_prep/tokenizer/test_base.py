from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.tokenizer.base import Meta, identity, ordered, read_meta, save_meta
from data_prep.tokenizer.catalog import load
from infra.errors import ArtifactError, ConfigError

KINDS = ["byte_bpe", "wordpiece", "sentencepiece_bpe", "sentencepiece_unigram"]
LITERALS = ["<|endoftext|>", "[SEP]", "[MASK]", "[CLS]", "[PAD]", "<s>", "</s>", "<pad>", "<unk>"]


@pytest.mark.parametrize("kind", [*KINDS, "bpe_eow"])
@pytest.mark.parametrize("literal", LITERALS)
def test_a_special_written_in_a_page_is_only_text(trained: dict[str, Path], kind: str, literal: str) -> None:
    tokenizer = load(trained[kind])
    controls = {number for role, number in tokenizer.specials.items() if role != "unk"}
    for text in (literal, f"kalo {literal} miter", f"kalo{literal}{literal}", f"\n{literal}\n"):
        ids = tokenizer.encode_batch([text])[0]
        assert ids and not controls & set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_word_starts_are_the_words_of_a_text(trained: dict[str, Path], kind: str) -> None:
    tokenizer = load(trained[kind])
    ids = tokenizer.encode_batch([" kalomi terson quing lo lo"])[0]
    starts = tokenizer.word_start
    assert len(starts) == tokenizer.vocab and starts.dtype == bool
    assert len(ids) > 5 and int(starts[ids].sum()) == 5 and starts[ids[0]]
    assert all(starts[number] for number in tokenizer.specials.values())


def test_the_identity_changes_with_any_piece_its_id_the_normaliser_and_the_specials() -> None:
    base = ("byte_bpe", ["a", "b"], {"lowercase": True}, {"eos": 0})
    others = [
        ("wordpiece", *base[1:]),
        (base[0], ["b", "a"], *base[2:]),
        (base[0], ["ab"], *base[2:]),
        (*base[:2], {"lowercase": False}, base[3]),
        (*base[:3], {"eos": 1}),
    ]
    assert len({identity(*parts) for parts in (base, *others)}) == 6  # type: ignore[arg-type]
    assert identity(*base) == identity(*base)  # type: ignore[arg-type]


def test_ids_with_a_hole_or_a_double_are_refused() -> None:
    assert ordered({"b": 1, "a": 0}) == ["a", "b"]
    for wrong in ({"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": 1}):
        with pytest.raises(ArtifactError):
            ordered(wrong)


def test_meta_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    meta = Meta("wordpiece", 9, {"sep": 3}, "f", {"documents": 2})
    save_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta == read_meta(tmp_path / "meta.json")
    assert meta.separator == 3 and Meta("byte_bpe", 9, {"sep": 3, "eos": 0}, "f").separator == 0
    (tmp_path / "meta.json").write_text(json.dumps({"kind": "x"}))
    with pytest.raises(ArtifactError, match="meta.json"):
        read_meta(tmp_path)


def test_a_vocabulary_without_an_end_joins_no_documents() -> None:
    with pytest.raises(ConfigError, match="no token that ends a text"):
        _ = Meta("bpe_eow", 9, {"unk": 0}, "f").separator
