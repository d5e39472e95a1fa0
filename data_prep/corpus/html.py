"""Main text out of a page's markup, by one of three engines, as plain text or Markdown.

`best` repairs the markup as a browser does (document.py), splits it into blocks (blocks.py) and retains those of its text (region.py,
prose.py). resiliparse, which costs a hundredth of a millisecond per kilobyte, checks the result: where both find about as much text, as on
six pages of seven, the blocks are the answer. Elsewhere trafilatura, without its own comparison with others, decides which blocks are
text; when its text is not in the blocks it is taken as it is. A short text that is longer by its lists and tables alone is not doubted.
tests/benchmarks/bench_extract.py measures quality and speed of the
engines, and with --cross-validate what the constants here and in region.py give on sites that they were not chosen on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resiliparse.extract.html2text import extract_plain_text

from data_prep.corpus import blocks, document, linked_data, prose, region, render
from data_prep.corpus.charset import normal
from data_prep.corpus.tags import tokens

ENGINES = ("best", "trafilatura", "resiliparse")
AMPLE = 200  # characters of main text with which a page is not empty, whatever counts as one
LESS, MORE = 0.6, 1.05  # of resiliparse's main text: outside of these, what the rules retain is doubted
SHORT = 1000  # characters of a text whose lists and tables do not count as more: resiliparse leaves those of short pages out
DUMP = 2.0  # the same of trafilatura's, and AMPLE: beyond it, it found nothing and returned the complete page with its menus
NOTHING_NEW, LITTLE_LESS, CONFIRMED = 0.05, 0.5, 0.5  # see _retained
COVERED = 0.8  # of trafilatura's text in blocks: with less, it is taken as it is
STATED = 3.0  # times the page's own text that the text of its JSON-LD must be longer, and AMPLE, to be taken for it
_BLANK = re.compile(r"[^\S\n]*\n[^\S\n]*(?:\n\s*)?")
_SPACES = re.compile(r"[^\S\n]+")
_C1 = re.compile("[\x80-\x9f]")
_RULE = re.compile(r"^\|[-|]+\|$\n?", re.MULTILINE)  # between the head and the body of trafilatura's tables
_ROW = re.compile(r"^\| (.*?)[ |]*\|\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """What a page says; text is "" when it says nothing. cut_short: a slower engine should have been asked too, and failed."""

    title: str
    text: str
    cut_short: bool = False


def extract(
    markup: str,
    engine: str = "best",
    least: int = 1,
    meanwhile: Callable[[Found], None] | None = None,
    *,
    form: str = "text",
    is_xhtml: bool = False,
) -> Found:
    """Title and main text; "" for a text of fewer than `least` visible characters.

    meanwhile: receives what the quick engines of `best` found before the slow one is asked, should the caller not live to see the end.
    form: text or markdown (render.py), for `best`. is_xhtml: the page is served as XML.
    """
    page = document.parse(markup, is_xhtml)
    title = clean(page.title).replace("\n", " ")
    main = "" if engine == "trafilatura" else extract_plain_text(page.tree, main_content=True, alt_texts=False, preserve_formatting=True)
    if len(main) < AMPLE + least and len(extract_plain_text(page.tree, main_content=False, alt_texts=False).strip()) < least:
        return Found(title, _stated(markup, "", form))
    if engine == "trafilatura":
        return Found(title, clean(_trafilatura(page.markup, favor_precision=True)))
    if engine == "resiliparse":
        return Found(title, clean(main))
    return _best(markup, page, title, main, form, meanwhile)


def _best(markup: str, page: document.Document, title: str, main: str, form: str, meanwhile: Callable[[Found], None] | None) -> Found:
    """What the rules find, or on a page that they are doubted on, what trafilatura decides."""
    given = _blocks(page)
    ours = prose.with_outside(given, prose.by_rules(given), main)
    plain = rendered(given, ours)
    text = plain if form == "text" else rendered(given, ours, form)
    if agrees(plain, main):
        return Found(title, text)
    if stated := _stated(markup, plain or main, form):
        return Found(title, stated)
    if is_short(given, ours, plain, main):
        return Found(title, text)
    quick = Found(title, text or clean(main), cut_short=True)
    if meanwhile:
        meanwhile(quick)
    try:
        slow = _trafilatura(page.markup, fast=True)
    except Exception:  # whatever it raises, the quick engines may have an answer, and it is counted
        if not quick.text:
            raise
        return quick
    return Found(title, decided(given, ours, quick.text, main, slow, form))


def agrees(text: str, main: str) -> bool:
    """Whether the rules found about as much text as resiliparse."""
    return LESS * len(main) <= len(text) <= MORE * len(main)


def is_short(given: list[blocks.Block], ours: list[bool], text: str, main: str) -> bool:
    """Whether the rules' text is a short one that is longer than resiliparse's by its lists and tables alone."""
    loose = sum(len(block.text) + 1 for block, own in zip(given, ours, strict=True) if own and not (block.item or block.cell))
    return 0 < len(text) <= SHORT and LESS * len(main) <= len(text) and loose <= MORE * len(main)


def decided(given: list[blocks.Block], ours: list[bool], quick: str, main: str, slow: str, form: str = "text") -> str:
    """The text of a page whose rules, which retain `ours`, are doubted; quick: their text, main: resiliparse's, slow: trafilatura's."""
    if not slow or len(slow) > DUMP * len(main) + AMPLE:
        return quick
    slow = clean(slow)
    plain, keys = _with_tabs(slow), prose.keys(given)
    retained = _retained(given, ours, prose.held(keys, main), prose.held(keys, plain), len(plain))
    if retained is None:
        return slow if form == "markdown" else plain
    return rendered(given, retained, form)


def clean(text: str) -> str:
    """NFC, no control characters, one space or line break where there were several, one blank line between paragraphs."""
    return _BLANK.sub(_line_break, _SPACES.sub(" ", normal(text))).strip()


def _blocks(page: document.Document) -> list[blocks.Block]:
    """Of the page, marked by region.py."""
    given = blocks.blocks(tokens(page.body()), region.drops)
    region.Region(given)
    return given


def rendered(given: list[blocks.Block], retained: list[bool], form: str = "text") -> str:
    """The retained blocks as NFC text without control characters."""
    text = render.render([block for block, is_text in zip(given, retained, strict=True) if is_text], form)
    return _C1.sub("", normal(text)).strip("\n")


def _retained(given: list[blocks.Block], ours: list[bool], main: list[bool], slow: list[bool], length: int) -> list[bool] | None:
    """The blocks of a doubted page; None when trafilatura's text, of this length, is mostly elsewhere.

    The rules' where trafilatura adds nothing, lacks less than half of them, and resiliparse has most of what it lacks; else trafilatura's,
    the rest of lists and tables of which it has at least half, and the rules' code, which both extractors take for a picture when it is
    in a figure.
    """

    def characters(of: list[bool], without: list[bool] | None = None, within: list[bool] | None = None) -> int:
        """Of the blocks in `of`, and in `within`, and not in `without`."""
        chosen = enumerate(given)
        return sum(len(b.text) for at, b in chosen if of[at] and not (without and without[at]) and (within is None or within[at]))

    lacking, retained = characters(ours, slow), characters(ours)
    adds_nothing = characters(slow, ours) <= NOTHING_NEW * characters(slow)
    if retained and adds_nothing and lacking <= LITTLE_LESS * retained and characters(ours, slow, main) >= CONFIRMED * lacking:
        return ours
    if characters(slow) < COVERED * length:
        return None
    shares: dict[Any, list[int]] = {}
    for block, own, theirs in zip(given, ours, slow, strict=True):
        if own and block.group is not None:
            share = shares.setdefault(block.group, [0, 0])
            share[theirs] += len(block.text)
    complete = {group for group, (left_out, taken) in shares.items() if taken >= left_out}
    return [
        theirs or (own and (block.code is not None or block.group in complete))
        for block, own, theirs in zip(given, ours, slow, strict=True)
    ]


def _stated(markup: str, text: str, form: str) -> str:
    """The article text of the page's JSON-LD where it is much longer than the page's own; "" elsewhere."""
    body = linked_data.article_body(markup)
    if len(body) < STATED * len(text) + AMPLE:
        return ""
    given = _blocks(document.parse(body))
    stated = rendered(given, [True] * len(given), form)
    return stated if len(stated) >= STATED * len(text) + AMPLE else ""


def _with_tabs(text: str) -> str:
    """trafilatura's text with its tables as render.py writes them."""
    return _ROW.sub(lambda row: "\t".join(cell.strip() for cell in row[1].split("|")), _RULE.sub("", text))


def _line_break(gap: re.Match[str]) -> str:
    return "\n\n" if gap[0].count("\n") > 1 else "\n"


def _trafilatura(body: bytes, *, fast: bool = False, favor_precision: bool = False) -> str:
    """FineWeb's setting is favor_precision. Imported late: a task that meets no page must not pay for it."""
    import trafilatura

    return trafilatura.extract(body.decode(), fast=fast, favor_precision=favor_precision, include_comments=False) or ""
