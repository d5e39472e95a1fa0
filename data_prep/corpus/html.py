"""Main text out of a page's markup, by one of three engines.

Measured on 79 article pages with full gold text (mean F1 of the bags of words, precision, recall), on 137 pages with snippets that
should (408) and should not (410) be there, and against what the Readability of a browser makes of its 109 test pages; pages/s are of
the articles, on one core, in one run (tests/benchmarks/bench_extract.py):

                                    articles             snippets            Readability's   pages/s
    resiliparse                     0.925 0.882 0.987    390 and 110         0.952           679
    trafilatura, favor_precision    0.970 0.970 0.979    371 and 20          0.946            75
    trafilatura, default            0.967 0.962 0.980    385 and 31          0.945            72
    best                            0.982 0.972 0.995    390 and 24          0.972           258

`best` asks resiliparse first, which costs a hundredth of a millisecond a kilobyte: a page without text ends there. Then prose.py,
which is the precise one. Both find about as much text on nearly every page; where they do not, one of them is wrong, and trafilatura,
without its own comparison with others, is heard too: the slow part, for a page in seven.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from data_prep.corpus import prose
from data_prep.corpus.charset import normal

ENGINES = ("best", "trafilatura", "resiliparse")
AMPLE = 200  # characters of main text with which a page is not empty, whatever counts as one
# Of resiliparse's main text: what prose.py finds outside of these is doubted. From 0.5 to 0.7 and from 1.0 to 1.2 the F1 and the
# snippets hardly changed, the time did.
LESS, MORE = 0.6, 1.1
DUMP = 2.0  # the same of trafilatura's, and AMPLE: beyond it, it found nothing and gave the whole page with its menus
_CONTROLS = bytes((*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
_TO_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))
_BLANK = re.compile(r"[^\S\n]*\n[^\S\n]*(?:\n\s*)?")
_SPACES = re.compile(r"[^\S\n]+")


@dataclass(frozen=True)
class Found:
    """What a page says; text is "" when it says nothing. cut_short: a slower engine should have been heard too, and failed."""

    title: str
    text: str
    cut_short: bool = False


def extract(markup: str, engine: str = "best", least: int = 1, meanwhile: Callable[[Found], None] | None = None) -> Found:
    """Title and main text; "" for a text of fewer than `least` visible characters.

    meanwhile: told what the quick engines of `best` found before the slow one is asked, should the caller not live to see the end.
    """
    body = markup.encode("utf-8", "replace").translate(_TO_SPACES)  # lxml ends at a NUL, Arrow refuses a lone surrogate
    tree = HTMLTree.parse_from_bytes(body, "utf-8")
    title = clean(tree.title or "").replace("\n", " ")
    main = "" if engine == "trafilatura" else extract_plain_text(tree, main_content=True, alt_texts=False, preserve_formatting=True)
    if len(main) < AMPLE + least and len(extract_plain_text(tree, main_content=False, alt_texts=False).strip()) < least:
        return Found(title, "")
    if engine == "trafilatura":
        return Found(title, clean(_trafilatura(body, favor_precision=True)))
    if engine == "resiliparse":
        return Found(title, clean(main))
    text = prose.extract(body)
    if LESS * len(main) <= len(text) <= MORE * len(main):
        return Found(title, clean(text))
    quick = Found(title, clean(text or main), cut_short=True)
    if meanwhile:
        meanwhile(quick)
    try:
        slow = _trafilatura(body, fast=True)
    except Exception:  # whatever it raises, the quick engines may have an answer, and it is counted
        if not quick.text:
            raise
        return quick
    return Found(title, clean(slow) if slow and len(slow) <= DUMP * len(main) + AMPLE else quick.text)


def clean(text: str) -> str:
    """NFC, no control characters, one space or line break where there were several, one blank line between paragraphs."""
    return _BLANK.sub(_line_break, _SPACES.sub(" ", normal(text))).strip()


def _line_break(gap: re.Match[str]) -> str:
    return "\n\n" if gap[0].count("\n") > 1 else "\n"


def _trafilatura(body: bytes, *, fast: bool = False, favor_precision: bool = False) -> str:
    """FineWeb's setting is favor_precision. Imported late: a task that meets no page must not pay for it."""
    import trafilatura

    return trafilatura.extract(body.decode(), fast=fast, favor_precision=favor_precision, include_comments=False) or ""
