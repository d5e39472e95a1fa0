from __future__ import annotations

import gzip
import json
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.examples.sentences import paragraphs, split

PIECES = st.sampled_from(
    ["Hello", " ", "\n", "\n\n", ". ", "!", "?", "Mr.", "다. ", "。", "\t", "\r\n", "\u2028", "x", "\x00", '"', "e.g.", "3.14", "\x1c"]
)
LANGUAGES = st.sampled_from(["", "en", "ko", "de", "ja", "xx"])


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), LANGUAGES)
def test_the_sentences_put_together_are_the_text(text: str, language: str) -> None:
    cut = split(text, language)
    assert "".join(cut) == text and all(cut)


@given(st.lists(PIECES).map("".join))
def test_white_space_belongs_to_what_follows(text: str) -> None:
    cut = split(text)
    assert all(piece.strip() for piece in cut) or len(cut) == 1
    assert all(not piece[-1].isspace() for piece in cut[:-1])


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Mr. Smith left. He ran!  Why?", ["Mr. Smith left.", " He ran!", "  Why?"]),
        ("en", 'She said "Go." Then it was 3.14 o\'clock.', ['She said "Go."', " Then it was 3.14 o'clock."]),
        (
            "en",
            "A heading\n\nA sentence that was\nwrapped by hand.\nA list item\n",
            ["A heading", "\n\nA sentence that was\nwrapped by hand.", "\nA list item\n"],
        ),
        ("ko", "안녕하세요. 저는 학생입니다. 정말요?", ["안녕하세요.", " 저는 학생입니다.", " 정말요?"]),
        ("ko", "값은 3.14이다. 끝", ["값은 3.14이다.", " 끝"]),
        ("ja", "これは本です。それは？はい。", ["これは本です。", "それは？", "はい。"]),
        ("de", "Das ist z. B. gut. Ja.", ["Das ist z. B. gut.", " Ja."]),
        ("ko", "영화..당시엔 최고였다. 지금은?", ["영화..당시엔 최고였다.", " 지금은?"]),
        ("ko", "재미있다!그런데 길다. 끝.", ["재미있다!그런데 길다.", " 끝."]),
        ("ko", "“좋았다.” 그는 웃었다. '그래.'라고 했다.", ["“좋았다.”", " 그는 웃었다.", " '그래.'라고 했다."]),
        ("en", "It was good.Next it rained. Then not.", ["It was good.Next it rained.", " Then not."]),
        ("en", "“It works.” It does. He said “yes.” Then no.", ["“It works.”", " It does.", " He said “yes.”", " Then no."]),
        ("ja", "彼は来た。「行く。」それだけ。", ["彼は来た。", "「行く。」", "それだけ。"]),
        ("zh", "他说：“你好。”然后走了。真的？", ["他说：“你好。”", "然后走了。", "真的？"]),
        ("", "Unknown language. Two.", ["Unknown language.", " Two."]),
    ],
)
def test_known_texts(language: str, text: str, expected: list[str]) -> None:
    assert split(text, language) == expected


WORDS = st.lists(
    st.sampled_from(["영화", "..", "당시엔", "good", ".", "!", "?", "”", "'", '"', ")", " ", "Next", "3.5", "다."]), max_size=20
).map("".join)


@given(WORDS, LANGUAGES)
def test_no_sentence_ends_inside_a_word(text: str, language: str) -> None:
    cut = split(text, language)
    for before, after in pairwise(cut):
        assert before[-1].isspace() or after[0].isspace()


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece", "sentencepiece_unigram"])
def test_ids_of_sentences_are_the_ids_of_the_text(data: Path, tmp_path: Path, kind: str) -> None:
    """Of Korean reviews as typed: marks without spaces, quotes, smileys."""
    with gzip.open(data / "text/ko/naver-movie-reviews.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [" ".join(json.loads(line)["text"].split()) for line, _ in zip(file, range(1500), strict=False)]
    tokenizer = trained(kind, texts, tmp_path)
    cut = [split(text, "ko") for text in texts]
    whole, parts = tokenizer.encode_batch(texts), [list(chain(*tokenizer.encode_batch(pieces))) for pieces in cut]
    assert whole == parts and max(map(len, cut)) > 2


def trained(kind: str, texts: list[str], folder: Path):
    from data_prep.tokenizer import byte_bpe, sentencepiece, wordpiece

    if kind == "byte_bpe":
        return byte_bpe.load(folder, byte_bpe.train(texts, folder, 600))
    if kind == "wordpiece":
        return wordpiece.load(folder, wordpiece.train(texts, folder, 2500, lowercase=False, min_frequency=1))
    return sentencepiece.load(folder, sentencepiece.train(texts, folder, 2500, "unigram"))


def test_paragraphs_end_at_lines_that_were_not_wrapped() -> None:
    assert paragraphs("One\ntwo\nThree\n\nfour") == ["One\ntwo\n", "Three\n", "\n", "four"]


@pytest.mark.parametrize("unit", ["word ", "word word\n", "\n", " \n", "e.g. ", "그리고 ", '"(', "."])
def test_a_megabyte_of_anything_is_whole_and_a_wrapped_line_costs_no_copy_of_the_paragraph(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    assert "".join(split(text, "ko" if unit[0] == "그" else "en")) == text


def test_nothing_and_white_space_only() -> None:
    assert split("") == [] and split(" \n ") == [" \n "]


@pytest.mark.parametrize(("name", "language"), [("en/movie-reviews.jsonl.gz", "en"), ("ko/naver-movie-reviews.jsonl.gz", "ko")])
def test_real_reviews_are_cut_and_whole(data: Path, name: str, language: str) -> None:
    with gzip.open(data / "text" / name, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(400), strict=False)]
    cut = [split(text, language) for text in texts]
    assert ["".join(pieces) for pieces in cut] == texts
    marks = sum(text.count(". ") for text in texts)
    assert 0.3 * marks < sum(map(len, cut)) < 3 * marks + 2 * len(texts) + sum(text.count("\n") for text in texts)
