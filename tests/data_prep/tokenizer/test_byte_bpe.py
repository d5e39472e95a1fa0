from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_prep.tokenizer import byte_bpe
from data_prep.tokenizer.base import Tokenizer
from data_prep.tokenizer.catalog import load


@pytest.fixture(scope="module")
def tokenizer(trained: dict[str, Path]) -> Tokenizer:
    return load(trained["byte_bpe"])


@given(text=st.text())
def test_every_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text


def test_the_first_ids_are_the_special_and_the_256_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.specials == {"eos": 0, "bos": 0}
    assert sorted(len(p) for p in tokenizer.pieces[1:257]) == [1] * 256  # type: ignore[attr-defined]
    assert len(tokenizer.encode_batch(["kalo"])[0]) < 4


def test_the_most_frequent_pair_is_merged_first(tmp_path: Path) -> None:
    byte_bpe.train(["abab abab ab cd"], tmp_path, 259)
    assert load(tmp_path).pieces[257:] == ["ab", "Ġab"] or load(tmp_path).pieces[257:] == ["ab", "abab"]  # type: ignore[attr-defined]


def test_transformers_gives_the_same_ids_on_real_text(real: list[str], tmp_path: Path) -> None:
    meta = byte_bpe.train(real[:600], tmp_path, 3000)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = load(tmp_path)
    assert len(theirs) == ours.vocab == meta.vocab and theirs.eos_token_id == 0
    assert theirs(real, add_special_tokens=False)["input_ids"] == ours.encode_batch(real)
    assert all(ours.decode(ids) == text for text, ids in zip(real[:500], ours.encode_batch(real[:500]), strict=True))
    assert theirs(real[0])["input_ids"] == ours.encode_batch(real[:1])[0]  # a GPT frames nothing


def test_lower_casing_is_part_of_the_identity(texts: list[str], tmp_path: Path) -> None:
    metas = [byte_bpe.train(texts[:20], tmp_path / str(low), 300, lowercase=low) for low in (False, True)]
    assert metas[0].fingerprint != metas[1].fingerprint
    assert load(tmp_path / "True").decode(load(tmp_path / "True").encode_batch(["KaLo"])[0]) == "kalo"


def test_a_megabyte_of_one_letter_is_no_trap(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode_batch(["a" * 1_000_000])[0]) == "a" * 1_000_000


def test_robertas_specials_stand_where_roberta_has_them_and_frame_as_it_does(real: list[str], tmp_path: Path) -> None:
    """fairseq's dictionary: <s> 0, <pad> 1, </s> 2, <unk> 3; and transformers frames <s> A </s>, <s> A </s></s> B </s>."""
    meta = byte_bpe.train(real[:600], tmp_path, 3000, specials="roberta")
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert meta.specials == {"cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2, "unk": 3, "mask": 4} == ours.specials
    assert meta.separator == 2 and len(theirs) == 3000 and theirs.mask_token_id == 4
    ids = ours.encode_batch(real)
    assert theirs(real, add_special_tokens=False)["input_ids"] == ids
    assert theirs(real[0])["input_ids"] == [0, *ids[0], 2]
    assert theirs("a", "b")["input_ids"] == [0, *ours.encode_batch(["a"])[0], 2, 2, *ours.encode_batch(["b"])[0], 2]
    assert min(min(row) for row in ids if row) >= 5


def test_a_corpus_full_of_robertas_specials_does_not_learn_them(tmp_path: Path) -> None:
    literals = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    byte_bpe.train([" ".join(literals * 20)] * 50, tmp_path, 400, specials="roberta")
    ours = load(tmp_path)
    for text in [*literals, "<s><mask></s>", "a<mask> <pad>b"]:
        ids = ours.encode_batch([text])[0]
        assert min(ids) >= 5 and ours.decode(ids) == text
