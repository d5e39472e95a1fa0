"""The text blocks of a page in document order: paragraphs, headings, list items, table cells and code, each with its structure.

A block is the text between two block-level elements. Whitespace in it is collapsed as a browser does, except in preformatted text,
whose indentation and blank lines are part of it. Which blocks are the page's text is decided elsewhere (region.py, prose.py);
render.py writes those as plain text or Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lxml.etree import iterwalk

HEADINGS = {f"h{level}": level for level in range(1, 7)}
LISTS = frozenset(("ul", "ol", "menu", "dir", "dl", "table"))
ITEMS = frozenset(("li", "dt", "dd", "td", "th", "tr", "div"))
PLACED = frozenset(("p", "blockquote", "pre", "li", "dt", "dd", "td", "th", "caption", *HEADINGS))
_STRUCTURE = """section article main header hgroup thead tbody tfoot fieldset center body figcaption figure details
    summary hr nav aside footer address search form dialog legend optgroup option listing xmp plaintext"""
BLOCKS = frozenset((*LISTS, *ITEMS, *PLACED, *_STRUCTURE.split()))
_STRUCTURED = frozenset((*LISTS, "li", "tr", "td", "th", "blockquote"))
_PREFORMATTED = frozenset(("pre", "listing", "xmp", "plaintext"))
_PRE_STYLE = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)(?![\w-])", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:^|\s)(?:lang(?:uage)?-|brush:\s*|highlight-source-|sourceCode\s+)([\w+#-]{1,30})", re.IGNORECASE)
_LINE_NUMBERS = re.compile(r"\s*\d+(?:\s+\d+)+\s*\Z")
_BREAK = "\0"  # stands for <br>: the parser delivers no NUL
MAX_COLSPAN = 1000  # HTML standard, 4.9.11


@dataclass(slots=True)
class Item:
    """A list item: nesting depth from 0, and its number in an ordered list, else 0."""

    depth: int
    number: int


@dataclass(slots=True)
class Cell:
    """A table cell: its table, the row's index in it, the first column that it covers."""

    table: Any
    row: int
    column: int
    header: bool


@dataclass(slots=True)
class Block:
    """kind, element: the innermost block-level tag and element; linked: characters in links; group: the innermost list or table.

    code: the language of preformatted text, "" when unknown; None for other text. quoted: in a block quotation.
    refused, inside: set by region.py; in a part that is not the page's text, and in the part that holds its long paragraphs.
    """

    kind: str
    text: str
    linked: int
    group: Any
    element: Any
    item: Item | None = None
    cell: Cell | None = None
    code: str | None = None
    quoted: bool = False
    refused: bool = False
    inside: bool = False


@dataclass
class _Table:
    element: Any
    row: int = -1
    column: int = 0
    taken: dict[int, int] = field(default_factory=dict)  # column -> rows that a rowspan still covers

    def next_row(self) -> None:
        self.row += 1
        self.column = 0
        self.taken = {column: rows - 1 for column, rows in self.taken.items() if rows > 1}

    def cell(self, element: Any) -> Cell:
        while self.column in self.taken:
            self.column += 1
        at, width = self.column, _span(element, "colspan")
        rows = _span(element, "rowspan")
        if rows > 1:
            self.taken |= dict.fromkeys(range(at, at + min(width, 50)), rows)
        self.column = at + width
        return Cell(self.element, max(self.row, 0), at, element.tag == "th")


def _span(element: Any, name: str) -> int:
    value = (element.get(name) or "1").strip()
    return max(1, min(int(value), MAX_COLSPAN)) if value.isascii() and value.isdigit() and len(value) < 20 else 1


class _Walk:
    """The open elements at one point of the walk, and the blocks found so far."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.pieces: list[str] = []
        self.open: list[Any] = []
        self.groups: list[Any] = []
        self.items: list[Item | None] = []  # None: a table cell, which is no part of the list around it
        self.counters: list[int] = []
        self.tables: list[_Table] = []
        self.cells: list[Cell] = []
        self.preformatted: list[Any] = []
        self.quotes = self.links = self.linked = 0

    def close(self) -> None:
        """End the block that is being collected."""
        joined = "".join(self.pieces)
        self.pieces.clear()
        text = _code(joined) if self.preformatted else _collapsed(joined)
        if text:
            element = self.open[-1] if self.open else None
            self.blocks.append(
                Block(
                    element.tag if element is not None else "",
                    text,
                    self.linked,
                    self.groups[-1] if self.groups else None,
                    element,
                    self.items[-1] if self.items else None,
                    self.cells[-1] if self.cells else None,
                    _language(self.preformatted[0]) if self.preformatted else None,
                    bool(self.quotes),
                )
            )
        self.linked = 0

    def enter(self, tag: str, element: Any) -> None:
        """A block-level element starts."""
        if self.preformatted:
            self.pieces.append("\n" if self.pieces and not self.pieces[-1].endswith("\n") else "")
        elif self.pieces:
            self.close()
        style = element.get("style")
        if tag in _PREFORMATTED or (style and _PRE_STYLE.search(style)):
            self.preformatted.append(element)
        if len(self.preformatted) < 2:
            self.open.append(element)
        if tag in _STRUCTURED:
            self._structure(tag, element)

    def _structure(self, tag: str, element: Any) -> None:
        if tag in LISTS:
            self.groups.append(element)
        if tag in ("ul", "ol", "menu", "dir"):
            start = element.get("start") or "1"
            first = int(start) if start.isascii() and start.lstrip("-").isdigit() and len(start) < 9 else 1
            self.counters.append(first if tag == "ol" else 0)
        elif tag == "li":
            ordered = bool(self.counters and element.getparent().tag == "ol")
            self.items.append(Item(max(0, len(self.counters) - 1), self.counters[-1] if ordered else 0))
            if ordered:
                self.counters[-1] += 1
        elif tag == "table":
            self.tables.append(_Table(element))
        elif tag == "tr" and self.tables:
            self.tables[-1].next_row()
        elif tag in ("td", "th") and self.tables:
            self.cells.append(self.tables[-1].cell(element))
            self.items.append(None)
        elif tag == "blockquote":
            self.quotes += 1

    def leave(self, tag: str, element: Any) -> None:
        """A block-level element ends."""
        if self.preformatted and self.preformatted[0] is not element:
            self.pieces.append("\n" if self.pieces and not self.pieces[-1].endswith("\n") else "")
        elif self.pieces:
            self.close()
        if len(self.preformatted) < 2:
            self.open.pop()
        if self.preformatted and self.preformatted[-1] is element:
            self.preformatted.pop()
        if tag in _STRUCTURED:
            self._unstructure(tag)

    def _unstructure(self, tag: str) -> None:
        if tag in LISTS:
            self.groups.pop()
        if tag in ("ul", "ol", "menu", "dir"):
            self.counters.pop()
        elif tag == "li":
            self.items.pop()
        elif tag == "table":
            self.tables.pop()
        elif tag in ("td", "th") and self.tables:
            self.cells.pop()
            self.items.pop()
        elif tag == "blockquote":
            self.quotes -= 1


def blocks(root: Any, dropped: Callable[[Any], bool]) -> list[Block]:
    """All text blocks below an element. dropped: whether an inline element is no part of the text around it."""
    walk = _Walk()
    skipped = None
    events = iterwalk(root, events=("start", "end"))
    for event, element in events:
        tag = element.tag
        if event == "start":
            if tag in BLOCKS:
                walk.enter(tag, element)
            elif dropped(element):
                events.skip_subtree()
                skipped = element
                continue
            elif tag == "a":
                walk.links += 1
            elif tag == "br":
                walk.pieces.append("\n" if walk.preformatted else _BREAK)
            text = element.text
        else:
            if element is skipped:
                skipped = None
            elif tag in BLOCKS:
                walk.leave(tag, element)
            elif tag == "a":
                walk.links -= 1
            text = None if element is root else element.tail
        if text and (walk.pieces or walk.preformatted or not text.isspace()):
            walk.pieces.append(text)
            if walk.links:
                walk.linked += len(text.strip())
    walk.close()
    return walk.blocks


def _collapsed(text: str) -> str:
    if _BREAK not in text:
        return " ".join(text.split())
    lines = (" ".join(line.split()) for line in text.split(_BREAK))
    return "\n".join(line for line in lines if line)


def _code(text: str) -> str:
    """Preformatted text without trailing whitespace and without blank lines around it; "" for a column of line numbers."""
    if _LINE_NUMBERS.match(text):
        numbers = text.split()
        if all(int(after) == int(before) + 1 for before, after in pairwise(numbers)):
            return ""
    lines = [line.rstrip() for line in text.replace("\u00a0", " ").split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def _language(element: Any) -> str:
    """The language that the class names of preformatted text, or of what is directly around or in it, state."""
    around = element.getparent()
    for each in [element, *element[:1], *([around] if around is not None else [])]:
        if (found := _LANGUAGE.search(each.get("class") or "")) and found[1].lower() not in ("none", "plaintext", "text", "default"):
            return found[1].lower()
    return ""
