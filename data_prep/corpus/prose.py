"""Which blocks of a page are its text: rules over the region of long paragraphs, and what other extractors retain where these doubt it.

The constants are chosen by leave-one-site-out cross-validation (tests/benchmarks/bench_extract.py --cross-validate), which also reports
what they give on sites that no choice has seen.
"""

from __future__ import annotations

import re
from typing import Any

from data_prep.corpus.blocks import HEADINGS, ITEMS, PLACED, Block
from data_prep.corpus.region import KINDS
from data_prep.corpus.tags import Node

LINKED_BLOCK = 0.6  # of a block's characters in links: beyond it the block is no text but a way to some
LINKED_LIST = 0.4  # the same of a complete list or table
LONG_LINKED = 200  # characters of a paragraph that is retained though most of it is linked
LOOSE = 80  # characters of text outside of paragraphs, list items, cells and headings, below which it is taken for a label
NOTICE, LONG_NOTICE = 120, 400  # characters below which a block with a copyright sign, with a year after it, is a notice
LEAD = 100  # characters of a paragraph between a page's heading and its region that belongs to the text
OUTSIDE_LINKED = 0.1  # of such a block's characters in links
OUTSIDE = 200  # characters of a block outside of the region that belongs to the text when another extractor retains it too
SHORT_KEY = 16  # letters and digits, below which a block is found in another text as a complete line only
_YEAR = re.compile(r"©\s*(?:\d{4}|[Cc]opyright|by\b)")
_NOT_WORD = re.compile(r"[\W_]+")
_LINES = re.compile(r"[\n\t]+")  # and the cells of a row
_OUTSIDE_KINDS = frozenset((*KINDS, "div", "td"))
_APART = frozenset(("nav", "header", "footer", "aside", "form", "figure", "figcaption", "dialog", "menu", "button", "li", "td", "th"))
_OUTSIDE_APART = _APART - {"td"}
_PICTURE = re.compile(r"caption|credit|image|gallery|slide|comment|cookie|consent|advert|newsletter|related", re.IGNORECASE)


def by_rules(given: list[Block]) -> list[bool]:
    """Whether each block is running text of the region or its lead, or a heading with some text under it."""
    groups: dict[Any, tuple[int, int]] = {}
    for block in given:
        if block.group is not None and block.inside and not block.refused:
            size, linked = groups.get(block.group, (0, 0))
            groups[block.group] = (size + len(block.text), linked + block.linked)
    lead = leads(given)
    found = [False] * len(given)
    below = 0  # the level of the heading that comes next, 0 at the end and 9 when text comes first
    last: Block | None = None
    for at in range(len(given) - 1, -1, -1):
        block = given[at]
        level = HEADINGS.get(block.kind, 0)
        if at not in lead and (not block.inside or block.refused or not _is_text(block, groups)):
            continue
        if level and below <= level and len(block.text) < LOOSE:
            continue
        if last is not None and last.text == block.text and last.kind != block.kind:
            continue
        below, last, found[at] = level or 9, block, True
    return found


def leads(given: list[Block]) -> set[int]:
    """Indices of the paragraphs between the page's main heading and the region: the lead, which many sites call a teaser."""
    start = next((at for at, block in enumerate(given) if block.inside and not block.refused and len(block.text) >= LOOSE), 0)
    heading = next((at for at in range(start - 1, -1, -1) if given[at].kind == "h1"), None)
    if heading is None:
        return set()
    return {
        at
        for at in range(heading + 1, start)
        if given[at].kind == "p"
        and len(given[at].text) >= LEAD
        and given[at].linked <= 0.3 * len(given[at].text)
        and not any(above.tag in _APART or _PICTURE.search(_role(above)) for above in given[at].element.line())
    }


def with_outside(given: list[Block], retained: list[bool], main: str) -> list[bool]:
    """The retained blocks and the long ones outside of the region that another extractor's text, `main`, contains too."""
    more = [
        at
        for at, block in enumerate(given)
        if not (block.inside or block.refused or retained[at])
        and block.kind in _OUTSIDE_KINDS
        and len(block.text) >= OUTSIDE
        and block.linked <= OUTSIDE_LINKED * len(block.text)
        and not any(above.tag in _OUTSIDE_APART for above in block.element.line())
    ]
    if not more:
        return retained
    found = list(retained)
    for at, confirmed in zip(more, held(keys([given[at] for at in more]), main), strict=True):
        found[at] = confirmed
    return found


def _role(element: Node) -> str:
    return "" if element.tag == "body" else f"{element.get('class') or ''} {element.get('id') or ''}"


def _is_text(block: Block, groups: dict[Any, tuple[int, int]]) -> bool:
    length = len(block.text)
    if block.group is not None and block.kind in ITEMS:
        size, linked = groups[block.group]
        if linked > LINKED_LIST * size:
            return False
    if block.linked > LINKED_BLOCK * length and not (block.kind == "p" and length > LONG_LINKED):
        return False
    if length < LONG_NOTICE and "©" in block.text and (length < NOTICE or _YEAR.search(block.text)):
        return False
    return block.kind in PLACED or block.code is not None or length >= LOOSE


def keys(given: list[Block]) -> list[str]:
    """Letters and digits that blocks begin with, by which they are found in another extractor's text."""
    return [_NOT_WORD.sub("", block.text[:400].lower())[:200] for block in given]


def held(keys: list[str], text: str) -> list[bool]:
    """Which blocks, by their keys, another extractor's text contains: long ones anywhere in it, short ones as a line of it."""
    lines = [_NOT_WORD.sub("", line) for line in _LINES.split(text.lower())]
    known, whole = set(lines), "".join(lines)
    return [key in known if len(key) < SHORT_KEY else key in whole for key in keys]
