from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import sentencepiece as spm
from transformers import AutoTokenizer

from data_prep.tokenizer import charsmap, sentencepiece
from data_prep.tokenizer.catalog import load
from infra.errors import ArtifactError, ConfigError

MODELS = ["bpe", "unigram"]


@pytest.mark.parametrize("model", MODELS)
def test_specials_are_albert_s_and_ids_the_library_s(trained: dict[str, Path], texts: list[str], model: str) -> None:
    folder = trained[f"sentencepiece_{model}"]
    ours, bare = load(folder), spm.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert ours.specials == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4} and ours.vocab == bare.get_piece_size()
    assert ours.encode_batch(texts) == [bare.encode(text) for text in texts]
    assert ours.decode(ours.encode_batch(["kalo miter"])[0]) == "kalo miter"


@pytest.mark.parametrize("model", MODELS)
def test_transformers_gives_the_same_ids_on_real_text(real: list[str], tmp_path: Path, model: str) -> None:
    """With two exceptions that lie in `tokenizers`: it normalises lone Korean jamo by grapheme, not by longest match, and
    breaks ties between segmentations of equal score otherwise (runs of ~ or !). Neither changes the text that is read."""
    sentencepiece.train(real[:600], tmp_path, 3000, model)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
    assert len(theirs) == ours.vocab and theirs.mask_token_id == 4 and theirs.pad_token_id == 0
    plain = [text for text in real if not any("\u3130" <= letter <= "\u318f" for letter in text)]
    ids, other = ours.encode_batch(plain), theirs(plain, add_special_tokens=False)["input_ids"]
    differ = [at for at in range(len(plain)) if ids[at] != other[at]]
    assert len(plain) > 2500 and len(differ) <= 0.005 * len(plain)
    for at in differ:
        assert sorted(ids[at]) == sorted(other[at]) or ours.decode(ids[at]) == ours.decode(other[at])
    assert theirs(plain[0])["input_ids"] == [2, *other[0], 3]


MARKS = "\u0301\u0307\u0328\u0345\u05b4\u05c5\u0949\u0e38\ufe03\ufe0f\u0336"
BASES = "\xa0\u3000\u2026\u2122\xb5\u2474\u210b\u1d2c\ufb2aab\uac00\u0915"


@pytest.mark.parametrize("model", MODELS)
def test_combining_marks_after_letters_that_become_others_are_not_lost(trained: dict[str, Path], model: str) -> None:
    folder = trained[f"sentencepiece_{model}"]
    theirs, bare = AutoTokenizer.from_pretrained(folder), spm.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    texts = [f"{before}{base}{mark}{after}" for base in BASES for mark in MARKS for before in ("", "ka") for after in ("", " lo", base)]
    assert theirs(texts, add_special_tokens=False)["input_ids"] == [bare.encode(text) for text in texts]


def test_only_spaces_at_the_ends_are_removed(trained: dict[str, Path]) -> None:
    folder = trained["sentencepiece_unigram"]
    theirs, bare = AutoTokenizer.from_pretrained(folder), spm.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    texts = ["\x85", "\x85kalo", "  kalo ", "\u2028kalo\u2029", "\tkalo\n", "\u3000 kalo"]
    assert theirs(texts, add_special_tokens=False)["input_ids"] == [bare.encode(text) for text in texts]


def test_letters_that_are_replaced_alone_are_those_of_the_library(trained: dict[str, Path]) -> None:
    """Every one of them changes under sentencepiece's own normalizer, and no letter of plain Latin text is among them."""
    bare = spm.SentencePieceProcessor(model_file=str(trained["sentencepiece_unigram"] / "spiece.model"))
    found = charsmap.alone(sentencepiece.protobuf.ModelProto.FromString(bare.serialized_model_proto()).normalizer_spec.precompiled_charsmap)
    assert len(found) > 2000 and "\u2026" in found and "\xa0" in found and not set(found) & set(map(chr, range(0x20, 0x7F)))
    assert all(bare.normalize(f"a{letter}a") != f"a{letter}a" for letter in found)


def test_text_is_normalised_before_it_is_cut(trained: dict[str, Path]) -> None:
    tokenizer = load(trained["sentencepiece_unigram"])
    assert tokenizer.encode_batch(["ｋａｌｏ　mi"]) == tokenizer.encode_batch(["kalo mi"])  # NFKC
    assert tokenizer.encode_batch([unicodedata.normalize("NFD", "가나é")]) == tokenizer.encode_batch(["가나é"])


def test_lower_casing(texts: list[str], tmp_path: Path) -> None:
    sentencepiece.train(texts, tmp_path, 400, "bpe", lowercase=True)
    assert load(tmp_path).encode_batch(["KALO"]) == load(tmp_path).encode_batch(["kalo"])


def test_long_lines_are_not_lost_to_training(tmp_path: Path) -> None:
    long = " ".join(f"word{n % 50}" for n in range(20_000))
    meta = sentencepiece.train([long], tmp_path, 60, "bpe")
    assert meta.vocab == 60 and load(tmp_path).encode_batch(["word1"])[0].count(1) == 0


def test_impossible_sizes_and_damaged_models_are_named(texts: list[str], tmp_path: Path) -> None:
    for model in MODELS:
        with pytest.raises(ConfigError, match="vocab 10"):
            sentencepiece.train(texts, tmp_path, 10, model)
    sentencepiece.train(texts, tmp_path, 400, "bpe")
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="spiece.model"):
        load(tmp_path)
