"""Published vocabularies against transformers on all of the test data's text, document by document."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizer.base import Tokenizer
from data_prep.tokenizer.catalog import load
from tests.data_prep.tokenizer.test_published import adopted, around_sentencepiece, explained, theirs

__all__ = ["adopted"]


@pytest.fixture(scope="module")
def all_text(data: Path) -> dict[str, list[str]]:
    """All of text/ by document: a line of a .jsonl, a thousand lines of another file."""

    def read(path: Path) -> list[str]:
        with (bz2.open if path.suffix == ".bz2" else gzip.open)(path, "rt", encoding="utf-8") as file:
            if ".jsonl" in path.suffixes:
                return [json.loads(line)["text"] for line in file]
            return ["".join(lines) for lines in iter(lambda: list(islice(file, 1000)), [])]

    paths = sorted(path for path in (data / "text").rglob("*") if path.is_file())
    return {path.relative_to(data / "text").as_posix(): read(path) for path in paths}


WIKITEXT = "en/wikitext-2-valid.txt.gz"  # writes rare words as <unk>, which three of the tokenizers of transformers take for a control
LITERAL = {(WIKITEXT, number) for number in range(4)}
OTHER_UNIGRAM = {  # where transformers' fast tokenizer and sentencepiece, of one model, give T5 other ids: see `explained`
    "en/books.jsonl.gz": (
        2,
        3,
        9,
        17,
        19,
        20,
        22,
        24,
        25,
        26,
        27,
        32,
        36,
        37,
        38,
        40,
        42,
        43,
        45,
        47,
        52,
        56,
        57,
        64,
        65,
    ),
    "en/state-of-the-union.jsonl.gz": (35,),
    "ko/naver-movie-reviews.jsonl.gz": (
        4697,
        5743,
        6079,
        9185,
        10028,
        24724,
        27367,
        29845,
        30270,
        31618,
        33032,
        35351,
        35395,
        35405,
        36084,
        40133,
        40408,
        42359,
        43544,
        44210,
        46173,
        46553,
        49318,
        50798,
        51822,
        55515,
        55719,
        60113,
        60967,
        61455,
        63580,
        65497,
        65574,
        65922,
        68021,
        68972,
        75127,
        76607,
        77006,
        82032,
        82335,
        83844,
        84799,
        91314,
    ),
    "other/udhr.jsonl.gz": (
        20,
        26,
        30,
        52,
        105,
        127,
        161,
        166,
        176,
        222,
        277,
        297,
        331,
        344,
        349,
        350,
        352,
        363,
        375,
    ),
    "en/tinyshakespeare.txt.gz": (
        8,
        25,
        26,
    ),
    "en/enwiki-pages-articles-shortened.xml.bz2": (
        0,
        1,
        2,
        3,
        4,
        5,
        8,
        9,
        10,
        12,
        13,
        15,
        16,
        17,
        19,
        20,
        22,
        30,
        32,
        34,
        35,
        37,
    ),
}


def differing(all_text: dict[str, list[str]], ours: Tokenizer, other: Callable[[list[str]], list[list[int]]]) -> dict[tuple[str, int], Any]:
    """(file, document) -> text, our ids, theirs."""
    found: dict[tuple[str, int], Any] = {}
    for name, documents in all_text.items():
        for at in range(0, len(documents), 500):
            part = documents[at : at + 500]
            for number, row in enumerate(zip(part, ours.encode_batch(part), other(part), strict=True), at):
                if row[1] != row[2]:
                    found[name, number] = row
    return found


def fast(tokenizer: Any) -> Callable[[list[str]], list[list[int]]]:
    """The ids of a transformers tokenizer, without the lists that it makes beside them."""
    engine = tokenizer.backend_tokenizer
    return lambda texts: [row.ids for row in engine.encode_batch_fast(texts, add_special_tokens=False)]


def only_the_literal_differs(ours: Tokenizer, other: Callable[[list[str]], list[list[int]]], text: str) -> bool:
    """Whether a text that says <unk>, as we read it, has their ids where the word is written otherwise."""
    plain = text.replace("<unk>", "(rare)")
    return "<unk>" in text and ours.encode_batch([plain]) == other([plain])


@pytest.mark.parametrize(("name", "expected"), [("gpt2", set()), ("gpt1", LITERAL), ("bert-uncased", set())])
def test_on_all_text_ids_are_those_of_transformers_but_where_a_text_says_unk(
    data: Path, adopted: Callable[[str], Path], all_text: dict[str, list[str]], name: str, expected: set[tuple[str, int]]
) -> None:
    assert len(all_text["ko/naver-movie-reviews.jsonl.gz"]) == 91_639 and len(all_text["other/udhr.jsonl.gz"]) == 388 and len(all_text) == 9
    ours, other = load(adopted(name)), fast(theirs(data, name))
    found = differing(all_text, ours, other)
    assert set(found) == expected
    assert all(only_the_literal_differs(ours, other, text) for text, _, _ in found.values())


def test_on_all_text_t5_ids_are_those_of_transformers_sentencepiece_but_where_a_text_says_unk(
    data: Path, adopted: Callable[[str], Path], all_text: dict[str, list[str]]
) -> None:
    ours, slow = load(adopted("t5")), around_sentencepiece(data)
    found = differing(all_text, ours, slow)
    assert set(found) == LITERAL
    assert all(only_the_literal_differs(ours, slow, text) for text, _, _ in found.values())


def test_each_document_to_which_t5_s_fast_tokenizer_gives_other_ids_is_known_and_explained(
    data: Path, adopted: Callable[[str], Path], all_text: dict[str, list[str]]
) -> None:
    ours, other = load(adopted("t5")), theirs(data, "t5")
    found = differing(all_text, ours, fast(other))
    assert set(found) == LITERAL | {(name, number) for name, numbers in OTHER_UNIGRAM.items() for number in numbers}
    for (name, _), (text, mine, their) in found.items():
        assert explained(ours, other, text, mine, their) or name == WIKITEXT
    for _, number in LITERAL:
        plain = all_text[WIKITEXT][number].replace("<unk>", "(rare)")
        mine, their = ours.encode_batch([plain])[0], fast(other)([plain])[0]
        assert mine == their or explained(ours, other, plain, mine, their)
