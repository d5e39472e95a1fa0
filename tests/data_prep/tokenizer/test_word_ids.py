"""The fast way against the library's own batch call, id by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from data_prep.tokenizer import byte_bpe, hub, merging, word_ids
from data_prep.tokenizer.catalog import load
from data_prep.tokenizer.cuts import Cut, Letters, spaced_words
from data_prep.tokenizer.hub import MARK, HubTokenizer
from data_prep.tokenizer.word_ids import WordIds, batches, flattened
from infra.errors import ArtifactError
from infra.log import attach

HUB = ["byte_bpe", "bpe_eow", "wordpiece"]
ALPHABET = st.sampled_from(
    ["ka", "lo", "miter", "'s", "'ll", " ", "  ", "\n", "가", "é", "e\u0301", "\u0301", "!", "[x]", "42", "\x00", MARK]
)
MADE_UP = st.lists(st.one_of(st.lists(ALPHABET, max_size=12).map("".join), st.text(max_size=12)), max_size=10)


def opened(folder: Path) -> HubTokenizer:
    tokenizer = load(folder)
    assert isinstance(tokenizer, HubTokenizer)
    return tokenizer


@pytest.fixture(scope="module", params=HUB)
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Path]) -> HubTokenizer:
    return opened(trained[request.param])


@given(texts=MADE_UP)
def test_any_texts_get_the_library_s_ids(tokenizer: HubTokenizer, texts: list[str]) -> None:
    fast, slow = tokenizer._words(texts), tokenizer._by_library(texts)
    assert fast.lists() == slow.lists()


def test_both_ways_are_taken_and_agree(tokenizer: HubTokenizer, texts: list[str]) -> None:
    assert sum(map(len, texts)) > hub.FEW > len(texts[0])
    assert tokenizer.encode_batch(texts) == [tokenizer.encode_batch([text])[0] for text in texts]


def test_words_are_forgotten_when_there_are_too_many(tokenizer: HubTokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tokenizer._by_library(texts).lists()
    for limit in ("MOST_WORDS", "MOST_IDS", "MOST_BYTES"):
        assert tokenizer._words(texts).lists() == expected and len(tokenizer._words._known) > 50
        monkeypatch.setattr(word_ids, limit, 50)
        assert tokenizer._words(texts).lists() == expected
        assert len(tokenizer._words._known) == len(tokenizer._words._ids) == 0
        monkeypatch.undo()


def test_each_word_is_encoded_once_until_words_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def encode(words: pa.StringArray) -> word_ids.Encoded:
        asked.extend(words.to_pylist())
        return flattened([[len(word)] * 2 for word in words.to_pylist()])

    known = WordIds(spaced_words, encode)
    assert known(["a bb a", "", "bb ccc"]).lists() == [[1, 1, 3, 3, 2, 2], [], [2, 2, 4, 4]]
    assert known(["", "a bb d"]).lists() == [[], [1, 1, 3, 3, 2, 2]] and known([]).lists() == []
    assert asked == ["a", " bb", " a", "bb", " ccc", " d"]
    monkeypatch.setattr(word_ids, "MOST_BYTES", 100)
    assert known(["x" * 101]).lists() == [[101, 101]]
    assert known(["a bb"]).lists() == [[1, 1, 3, 3]] and asked[-3:] == ["x" * 101, "a", " bb"]


@pytest.mark.parametrize("name", ["byte_bpe", "wordpiece"])
def test_words_that_hold_the_mark_between_words_get_the_library_s_ids(trained: dict[str, Path], texts: list[str], name: str) -> None:
    """New words go to the library many at once, with a mark between them; it may stand in a text too, and may be all of it."""
    tokenizer, mark = opened(trained[name]), {"byte_bpe": merging.MARK, "wordpiece": MARK}[name]
    for text in (f"kalo{mark}miter", mark, mark * 3, f"{mark} ka", f"a\n{mark}", f"x {mark} {mark}y"):
        assert tokenizer._words([text, "miter son"]).lists() == tokenizer._by_library([text, "miter son"]).lists()
    many = [*texts, f"qu{mark}ing", *texts[:3]]
    assert opened(trained[name])._words(many).lists() == tokenizer._by_library(many).lists()


def test_a_word_of_a_megabyte_overflows_nothing(trained: dict[str, Path]) -> None:
    tokenizer = opened(trained["byte_bpe"])
    for letter in (" ", "a", "가", "!"):
        text = letter * 300_000
        assert tokenizer._words([text]).lists() == tokenizer._by_library([text]).lists()


@given(st.lists(st.text("x", max_size=9), max_size=30), st.integers(1, 20))
def test_batches_are_all_texts_in_order_and_no_larger_than_asked(texts: list[str], together: int) -> None:
    made = [list(part) for part in batches(texts, together)]
    assert [text for part in made for text in part] == texts and all(made)
    for part in made:
        assert sum(map(len, part)) <= together or len([text for text in part if text]) == 1


def test_lower_casing_comes_first(texts: list[str], tmp_path: Path) -> None:
    byte_bpe.train(texts, tmp_path, 400, lowercase=True)
    tokenizer = opened(tmp_path)
    many = [*texts, "ΣΊΣΥΦΟΣ İSTANBUL ǅ"]
    assert tokenizer.encode_batch(many) == tokenizer._by_library(many).lists()
    assert tokenizer.decode(tokenizer.encode_batch(many)[0]) == many[0].lower()


def test_a_file_that_reads_text_otherwise_is_refused_not_followed_by_half(
    trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = opened(trained["byte_bpe"])

    def elsewhere(texts: Sequence[str]) -> Cut:
        letters = Letters(texts)
        return letters.cut(np.arange(len(letters.points)) % 2 == 0)

    monkeypatch.setattr(hub.cuts, "Gpt2Words", lambda _: elsewhere)
    with pytest.raises(ArtifactError, match="other ids by words"):
        _ = tokenizer._words


LETTERS = list(merging.byte_letters())


def model_of(merges: list[tuple[str, str]], extra: list[str] | None = None) -> tuple[dict[str, int], models.BPE]:
    pieces = list(dict.fromkeys([*LETTERS, *(left + right for left, right in merges), *(extra or [])]))
    ids = {piece: number for number, piece in enumerate(pieces[::-1])}  # ids in another order than the merges
    return ids, models.BPE(ids, merges)


def test_merges_go_through_tiktoken_only_where_it_must_agree() -> None:
    ids, model = model_of([("a", "b"), ("ab", "c"), ("c", "c")])
    encode = merging.merger(ids, [("a", "b"), ("ab", "c"), ("c", "c")], model)
    assert encode is not None
    for word in ("abccab", "ababcc", "cccc", "é"):
        letters = "".join(LETTERS[list(merging.byte_letters().values()).index(byte)] for byte in word.encode())
        assert encode(pa.array([word])).lists() == [[token.id for token in model.tokenize(letters)]]
    for merges in (
        [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")],  # abc is made in two ways
        [("ab", "c"), ("a", "b")],  # used before it is made
        [("b", "c"), ("a", "b"), ("ab", "c")],  # abc is never made: bc is taken first
    ):
        assert merging.merger(*((made := model_of(merges, ["ab", "abc", "bc"]))[0], merges, made[1])) is None
    ids, model = model_of([])
    del ids["!"]
    assert merging.merger(ids, [], model) is None


def test_a_vocabulary_tiktoken_cannot_take_is_said_and_encoded_by_the_library(tmp_path: Path, texts: list[str]) -> None:
    merges = [("b", "c"), ("a", "b"), ("ab", "c"), ("Ġ", "k")]
    ids, _ = model_of(merges, ["<|endoftext|>"])
    byte_bpe.finish(byte_bpe.blank(models.BPE(ids, merges), False), tmp_path, lowercase=False)
    told: list[str] = []
    detach = attach(lambda event: told.append(str(event.get("message"))))
    try:
        tokenizer = opened(tmp_path)
        many = [*texts, "abcab abc bcab"]
        assert tokenizer.encode_batch(many) == tokenizer._by_library(many).lists()
    finally:
        detach()
    assert any("slower library" in message for message in told)


def test_flattened() -> None:
    made = flattened([[1, 2], [], [70_000]])
    assert made.ids.tolist() == [1, 2, 70_000] and made.lengths.tolist() == [2, 0, 1] and made.ids.dtype == np.uint32
