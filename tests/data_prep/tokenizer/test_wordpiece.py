from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from data_prep.tokenizer import wordpiece
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.train import TokenizerConfig, for_languages
from infra.errors import ConfigError
from infra.log import attach


def test_specials_stand_at_0_to_4_and_pieces_are_bert_s(trained: dict[str, Path]) -> None:
    tokenizer = load(trained["wordpiece"])
    assert tokenizer.specials == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    pieces = tokenizer.pieces  # type: ignore[attr-defined]
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and len(set(pieces)) == len(pieces)


def test_words_are_cut_into_the_longest_known_pieces(trained: dict[str, Path]) -> None:
    """Checked against the greedy algorithm written out. Hangul is taken apart into jamo, as BERT's accent stripping does."""
    tokenizer = load(trained["wordpiece"])
    known = {piece: number for number, piece in enumerate(tokenizer.pieces)}  # type: ignore[attr-defined]
    for word in ("kalomi", "tersoning", "ququqaka", unicodedata.normalize("NFD", "가나다하")):
        expected, start = [], 0
        while start < len(word):
            end = next((e for e in range(len(word), start, -1) if ("##" if start else "") + word[start:e] in known), None)
            if end is None:
                expected = [1]
                break
            expected.append(known[("##" if start else "") + word[start:end]])
            start = end
        assert tokenizer.encode_batch([word])[0] == expected


def test_transformers_gives_the_same_ids_on_real_text(real: list[str], tmp_path: Path) -> None:
    meta = wordpiece.train(real[:600], tmp_path, 6000)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
    assert len(theirs) == ours.vocab == meta.vocab
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id] == [0, 1, 2, 3, 4]
    ids = ours.encode_batch(real)
    assert theirs(real, add_special_tokens=False)["input_ids"] == ids
    framed = theirs(real[0], real[1])
    assert framed["input_ids"] == [2, *ids[0], 3, *ids[1], 3]
    assert framed["token_type_ids"] == [0] * (len(ids[0]) + 2) + [1] * (len(ids[1]) + 1)


def test_bert_s_own_python_code_reads_our_vocabulary_alike(real: list[str], tmp_path: Path) -> None:
    wordpiece.train(real[:600], tmp_path, 6000)
    theirs = BertTokenizerLegacy(vocab_file=str(tmp_path / "vocab.txt"), do_lower_case=True)
    ours = load(tmp_path)
    assert [theirs.convert_tokens_to_ids(theirs.tokenize(text)) for text in real[:60]] == ours.encode_batch(real[:60])


def test_cased_and_uncased(texts: list[str], tmp_path: Path) -> None:
    for low in (False, True):
        wordpiece.train([*texts, "Émile LOMI"] * 2, tmp_path / str(low), 700, lowercase=low)
    uncased, cased = load(tmp_path / "True"), load(tmp_path / "False")
    assert uncased.encode_batch(["Émile"]) == uncased.encode_batch(["emile"])
    assert cased.encode_batch(["LOMI"]) != cased.encode_batch(["lomi"]) and cased.fingerprint != uncased.fingerprint


def test_a_vocabulary_smaller_than_the_alphabet_is_refused_and_a_rare_letter_is_unknown(texts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vocab 20 is too small"):
        wordpiece.train(texts, tmp_path, 20)
    wordpiece.train([*texts, "ж"], tmp_path, 300, alphabet=12)
    assert load(tmp_path).encode_batch(["ж"])[0] == [1]


KOREAN = ["항구의 배는 아침에 떠났다", "바다는 조용하고 하늘은 맑았다", "Das Café im Hafen"] * 20


def test_hangul_syllables_stay_whole_without_accent_stripping(tmp_path: Path) -> None:
    import transformers

    meta = wordpiece.train(KOREAN, tmp_path, 300, lowercase=True, min_frequency=1, strip_accents=False)
    tokenizer = wordpiece.load(tmp_path, meta)
    ids = tokenizer.encode_batch(["항구의 Café"])[0]
    assert tokenizer.decode(ids) == "항구의 café"
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert reference("항구의 Café", add_special_tokens=False).input_ids == ids


@pytest.mark.parametrize(
    ("lowercase", "strip_accents", "warned"), [(True, None, True), (True, False, False), (False, None, False), (False, True, True)]
)
def test_hangul_that_is_taken_apart_is_warned_of(tmp_path: Path, lowercase: bool, strip_accents: bool | None, warned: bool) -> None:
    messages: list[str] = []
    detach = attach(lambda event: messages.append(event["message"]) if event["kind"] == "warning" else None)
    try:
        wordpiece.train(KOREAN, tmp_path, 300, lowercase=lowercase, min_frequency=1, strip_accents=strip_accents)
    finally:
        detach()
    assert bool(messages) is warned and all("67%" in message and "strip_accents: false" in message for message in messages)


def test_korean_among_the_languages_leaves_hangul_whole() -> None:
    config = TokenizerConfig(kind="wordpiece", lowercase=True)
    assert for_languages(config, ("en", "ko")).strip_accents is False
    assert for_languages(config, ("en",)) == config
    assert for_languages(replace(config, strip_accents=True), ("ko",)).strip_accents is True
    assert for_languages(TokenizerConfig(kind="byte_bpe"), ("ko",)).strip_accents is None
