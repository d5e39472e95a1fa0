"""The cuts against the expressions themselves, as `tokenizers` and the `regex` module read them."""

from __future__ import annotations

import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from data_prep.tokenizer.cuts import Cut, Gpt2Words, spaced_words

GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")  # encoder.py of the published code
library = pre_tokenizers.ByteLevel(add_prefix_space=False)
words = Gpt2Words(library.pre_tokenize_str)

TRICKY = st.text(st.sampled_from("'stremvdlSa0é \n\t\r\u00a0\u2028\u0085\x1c\u200b한漢𝔘²٣\u0301!?\x00\U0010fffe"), max_size=14)
TEXTS = st.lists(st.one_of(TRICKY, st.text(max_size=12)), max_size=8)


def parts(cut: Cut) -> list[list[str]]:
    found, ends = cut.words.to_pylist(), cut.up_to.tolist()
    assert not ends or ends[-1] == len(found)
    return [found[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def by_library(text: str) -> list[str]:
    return [text[first:last] for _, (first, last) in library.pre_tokenize_str(text)]


@given(TEXTS)
def test_gpt2_s_words_are_those_of_the_library(texts: list[str]) -> None:
    assert parts(words(texts)) == [by_library(text) for text in texts]


@given(st.lists(st.text(st.sampled_from("'stremvdla0 \n\t!?é한")), max_size=6))
def test_gpt2_s_words_are_those_of_the_published_expression(texts: list[str]) -> None:
    assert parts(words(texts)) == [GPT2.findall(text) for text in texts]


def test_known_cuts() -> None:
    for text, expected in (
        ("it's we'll they'RE", ["it", "'s", " we", "'ll", " they", "'", "RE"]),
        ("'s's '' 's", ["'s", "'s", " ''", " '", "s"]),
        ("'really", ["'re", "ally"]),
        ("a  b\n\nc \n", ["a", " ", " b", "\n", "\n", "c", " \n"]),
        ("x12y!?", ["x", "12", "y", "!?"]),
    ):
        assert parts(words([text])) == [expected] == [GPT2.findall(text)]


def test_a_text_ends_where_the_next_begins() -> None:
    assert parts(words(["a'", "s", "", " ", "b", "'", "re"])) == [["a", "'"], ["s"], [], [" "], ["b"], ["'"], ["re"]]


@given(TEXTS)
def test_words_with_their_spaces_lose_nothing_and_end_before_white_space(texts: list[str]) -> None:
    cut = parts(spaced_words(texts))
    assert ["".join(row) for row in cut] == texts
    for row in cut:
        assert all(word[0] in " \t\r\n" for word in row[1:])
        assert all(not regex.search(r"[^ \t\r\n][ \t\r\n]", word) for word in row)
