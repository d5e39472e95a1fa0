"""The markup that reaches the parser: in NFC and without control characters, whatever characters the page has."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from data_prep.corpus import document

BASES = "aKe\u00e9\u1100\u1161\u3131\uac00\u05d0\u0915\u304b<"


def written(text: str) -> str:
    """A text as it is in the parsed page."""
    return document.parse(f"<p>{text}</p>").body()


def test_every_character_after_a_letter_is_in_nfc() -> None:
    shown = [chr(code) for code in range(0x80, 0x30000) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Cc") and code != 0x338]
    for letter in "eK\u1100":
        for character in shown:
            body = letter + character
            if unicodedata.is_normalized("NFC", body):
                continue
            assert unicodedata.is_normalized("NFC", written(body)), hex(ord(character))


@given(st.text(alphabet=st.one_of(st.sampled_from(BASES), st.characters(exclude_categories=("Cs", "Cc")))))
def test_any_text_is_in_nfc(text: str) -> None:
    body = document.parse(f"<p>{text}</p>").body()
    if "\u0338" not in text:
        assert unicodedata.is_normalized("NFC", body)


def test_control_characters_become_spaces_with_and_without_accents() -> None:
    assert "a b\tc" in written("a\x01b\tc")
    assert "\u00e9 b" in written("e\u0301\x0bb")
    assert "\u2126 b" not in written("\u2126\x7fb") and "\u03a9 b" in written("\u2126\x7fb")


def test_a_stroke_does_not_take_a_tag_away() -> None:
    assert "</p>" in written("a\u0338 b") and "<p>" in document.parse("<p>\u0338x</p>").body()
