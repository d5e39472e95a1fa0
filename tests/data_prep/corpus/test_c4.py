from __future__ import annotations

import re

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import c4


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("It ends as a sentence should.", True),
        ("Does it end so?  ", True),
        ("“It ends in a quotation.”", True),
        ("A heading without an end", False),
        ("It trails off...", False),
        ("And so does this…", False),
        ("Two words.", False),
        ("Please enable JavaScript to see this page.", False),
        ("We use cookies and a privacy policy here.", False),
        ("A page with Lorem Ipsum in it is bad.", True),  # the rules are to see it
        ("function() { return all of it.", True),
        ("A word of " + "x" * 1001 + " letters is none.", False),
    ],
)
def test_lines_that_c4_keeps(line: str, kept: bool) -> None:
    assert c4.clean(f"First line is good.\n{line}\nLast line is good.").split("\n") == [
        "First line is good.", *([line.strip()] if kept else []), "Last line is good.",
    ]  # fmt: skip


def test_citation_marks_are_taken_out() -> None:
    assert c4.clean("It was so[12] in the end[citation needed].") == "It was so in the end."


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("One without an end", 1),
        ("One. Two! Three?", 3),
        ("Mr. Smith met Dr. J. R. Brown, e.g. at 3.5 km.", 1),
        ('He said "Go." Then he went.', 2),
        ("Line one.\n\nLine two. And three.", 3),
        ("Wait... what? Yes.", 2),
        ("我来了。你好吗？很好！", 3),
        ("안녕하세요. 반갑습니다. 또 만나요!", 3),
    ],
)
def test_sentences_are_counted(text: str, number: int) -> None:
    assert c4.sentences(text) == number


@drawn(st.text(alphabet='Ab .?!"\n{[1]…', max_size=200))
def test_a_clean_text_is_clean_and_its_lines_come_from_the_text(text: str) -> None:
    once = c4.clean(text)
    assert all(len(line.split()) >= 1 for line in once.split("\n") if once)
    assert once.count("\n") <= text.count("\n")
    assert c4.sentences(once) >= len(once.split("\n")) or not once


def slow_clean(text: str) -> str:
    """C4's code in its own order, one test a line (tensorflow/datasets, c4_utils.py), with every script's marks at the end."""
    kept = []
    for whole in map(str.strip, text.split("\n")):
        words = whole.split()
        if any(len(word) > 1000 for word in words):
            continue
        line = re.sub(r"\[\d*\]|\[edit\]|\[citation needed\]", "", whole)
        if not line.endswith(tuple(c4.ENDS)) or line.endswith(("...", "…")) or len(words) < 3:
            continue
        lower = line.lower()
        if "lorem ipsum" not in lower and ("javascript" in lower or ("{" not in line and any(p in lower for p in c4.POLICY))):
            continue
        kept.append(line)
    return "\n".join(kept)


PIECES = [
    "word ",
    "[1]",
    "[edit]",
    ". ",
    "…",
    "{",
    "Lorem Ipsum ",
    "JavaScript ",
    "use cookies ",
    "\n",
    "끝。",
    "x" * 1001,
    "”",
    " ",
    "नहीं।",
]


@drawn(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_cleaning_is_that_of_the_code_that_made_c4(text: str) -> None:
    assert c4.clean(text) == slow_clean(text)


@drawn(st.text(alphabet='Ab .?!"”…\n(é한', max_size=80))
def test_the_quick_look_for_sentences_finds_what_the_slow_one_does(text: str) -> None:
    assert c4.sentences(text) == c4.sentences(text + "\n។") - 1
