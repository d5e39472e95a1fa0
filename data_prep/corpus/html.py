"""Main text out of a page's markup, by one of three engines.

Measured on 79 article pages with full gold text (bag-of-words F1), and on 137 pages with snippets that should (408) and should not
(410) be there. One core of a busy machine: best 100 pages/s, trafilatura with favor_precision 69, resiliparse about 400.

    resiliparse                      0.925    (recall-heavy)
    trafilatura, favor_precision     0.970    371 wanted, 20 unwanted
    trafilatura, balanced            0.967    385 wanted, 31 unwanted
    best                             0.973    382 wanted, 26 unwanted

`best` asks resiliparse first, which costs a tenth of a millisecond a kilobyte: a page without text ends there. Then trafilatura's own
extractor on the part of the page that holds its prose (region.py), for precision; where that keeps much less than resiliparse did,
it missed something, and trafilatura in its balanced mode reads the whole page and compares itself with its two rivals: the slow part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_prep.corpus import region
from data_prep.corpus.charset import normal

ENGINES = ("best", "trafilatura", "resiliparse")
AMPLE = 200  # characters of main text with which a page is not empty, whatever counts as one
SUSPICIOUS = 0.6  # of resiliparse's main text; between 0.5 and 0.8 the F1 did not change, the time did
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
_BLANK = re.compile(r"[^\S\n]*\n[^\S\n]*(?:\n\s*)?")
_SPACES = re.compile(r"[^\S\n]+")


@dataclass(frozen=True)
class Found:
    """What a page says; text is "" when it says nothing."""

    title: str
    text: str


def extract(markup: str, engine: str = "best", least: int = 1) -> Found:
    """Title and main text; "" for a text of fewer than `least` visible characters."""
    markup = _CONTROLS.sub(" ", markup)  # lxml refuses a NUL, Arrow a lone surrogate
    tree = HTMLTree.parse(markup)
    title = clean(tree.title or "").replace("\n", " ")
    main = "" if engine == "trafilatura" else extract_plain_text(tree, main_content=True, alt_texts=False, preserve_formatting=True)
    if len(main) < AMPLE + least and len(extract_plain_text(tree, main_content=False, alt_texts=False).strip()) < least:
        return Found(title, "")
    if engine == "trafilatura":
        return Found(title, clean(_trafilatura(markup)))
    text = main if engine == "resiliparse" else _best(markup, main)
    return Found(title, clean(text))


def clean(text: str) -> str:
    """NFC, no control characters, one space or line break where there were several, one blank line between paragraphs."""
    return _BLANK.sub(_line_break, _SPACES.sub(" ", normal(text))).strip()


def _line_break(gap: re.Match[str]) -> str:
    return "\n\n" if gap[0].count("\n") > 1 else "\n"


def _best(markup: str, main: str) -> str:
    text = _trafilatura(region.prose(markup), fast=True)
    if len(text) < SUSPICIOUS * len(main):
        text = _trafilatura(markup, favor_precision=False) or text
    return text or main


def _trafilatura(page: Any, *, fast: bool = False, favor_precision: bool = True) -> str:
    """FineWeb's setting is favor_precision. Imported late: a task that meets no page must not pay for it."""
    import trafilatura

    return trafilatura.extract(page, fast=fast, favor_precision=favor_precision, include_comments=False) or ""
