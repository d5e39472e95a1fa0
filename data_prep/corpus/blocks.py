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

from data_prep.corpus import formulas, tags
from data_prep.corpus.tags import Node, Token

HEADINGS = {f"h{level}": level for level in range(1, 7)}
LISTS = frozenset(("ul", "ol", "menu", "dir", "dl", "table"))
ITEMS = frozenset(("li", "dt", "dd", "td", "th", "tr", "div"))
PLACED = frozenset(("p", "blockquote", "pre", "li", "dt", "dd", "td", "th", "caption", *HEADINGS))
_STRUCTURE = """section article main header hgroup thead tbody tfoot fieldset center body figcaption figure details
    summary nav aside footer address search form dialog legend optgroup option listing xmp plaintext"""
BLOCKS = frozenset((*LISTS, *ITEMS, *PLACED, *_STRUCTURE.split()))
_COUNTED = frozenset(("ul", "ol", "menu", "dir"))
_BOUNDS = frozenset((*BLOCKS, "hr", *(f"/{tag}" for tag in BLOCKS)))
_DROPPED = frozenset(("button", "time", "label", "rp", "progress", *tags.UNSEEN))  # inline elements that go without attributes, too
_STRUCTURED = frozenset((*LISTS, "li", "tr", "td", "th", "blockquote"))
_HOLD_TEXT = frozenset(("table", "pre", "blockquote"))
_PREFORMATTED = frozenset(("pre", "listing", "xmp", "plaintext"))
_SPECIAL = _STRUCTURED | _HOLD_TEXT | {"figure"}  # block-level elements that are more than a boundary
_SPECIAL_ENDS = frozenset(f"/{tag}" for tag in _SPECIAL)
_PRE_STYLE = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)(?![\w-])", re.IGNORECASE)
_LANGUAGE = re.compile(r"(?:^|\s)(?:lang(?:uage)?-|brush:\s*|highlight-source-|sourceCode\s+)([\w+#-]{1,30})", re.IGNORECASE)
_LINE_NUMBERS = re.compile(r"\s*\d+(?:\s+\d+)+\s*\Z")
_BREAK = "\0"  # stands for <br>: the parser delivers no NUL
_NOWHERE = Node("", "", None)
INLINE = 300  # characters, or tags, of an inline element that is never dropped
MAX_COLSPAN = 1000  # HTML standard, 4.9.11

Refused = Callable[[str, str], bool]  # tag, attributes


@dataclass(slots=True)
class Item:
    """A list item: nesting depth from 0, and its number in an ordered list, else 0."""

    depth: int
    number: int


@dataclass(slots=True)
class Cell:
    """A table cell: its table, the row's index in it, the first column that it covers."""

    table: Node
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
    group: Node | None
    element: Node
    item: Item | None = None
    cell: Cell | None = None
    code: str | None = None
    quoted: bool = False
    refused: bool = False
    inside: bool = False


@dataclass
class _Table:
    element: Node
    row: int = -1
    column: int = 0
    taken: dict[int, int] = field(default_factory=dict)  # column -> rows that a rowspan still covers

    def next_row(self) -> None:
        self.row += 1
        self.column = 0
        self.taken = {column: rows - 1 for column, rows in self.taken.items() if rows > 1}

    def cell(self, element: Node) -> Cell:
        while self.column in self.taken:
            self.column += 1
        at, width = self.column, _span(element, "colspan")
        rows = _span(element, "rowspan")
        if rows > 1:
            self.taken |= dict.fromkeys(range(at, at + min(width, 50)), rows)
        self.column = at + width
        return Cell(self.element, max(self.row, 0), at, element.tag == "th")


def _span(element: Node, name: str) -> int:
    value = (element.get(name) or "1").strip()
    return max(1, min(int(value), MAX_COLSPAN)) if value.isascii() and value.isdigit() and len(value) < 20 else 1


class _Walk:
    """The open elements at one point of the walk, and the blocks found so far."""

    def __init__(self, given: list[Token], refused: Refused) -> None:
        self.blocks: list[Block] = []
        self.pieces: list[str] = []  # of the block that is being collected
        self.links = 0  # open <a>
        self.linked = 0  # characters of the block in them
        self.open: list[Node | Token] = []  # an inline element becomes a node when a block-level one starts in it
        self.nodes: list[Node] = []  # the block-level ones
        self.figures = 0
        self.groups: list[Node] = []
        self.items: list[Item | None] = []  # None: a table cell, which is no part of the list around it
        self.counters: list[int] = []
        self.tables: list[_Table] = []
        self.cells: list[Cell] = []
        self.quotes = 0
        self._given, self._refused = given, refused

    def interrupt(self) -> None:
        """A block-level element starts or ends, and with it the block that is being collected."""
        text = _collapsed("".join(self.pieces))
        self.pieces.clear()
        self._add(text, self.linked, None)
        self.linked = 0

    def start(self, at: int, tag: str, attributes: str) -> int:
        """A block-level element starts; the index of its end where it is preformatted text, which is a block, else 0."""
        around = self.open[-1] if self.open else None
        if around is not None and not isinstance(around, Node):
            around = self._inline_nodes()
        node = Node(tag, attributes, around)
        self.open.append(node)
        self.nodes.append(node)
        if tag in _SPECIAL:
            if tag in _STRUCTURED:
                self._enter(tag, node)
            if tag in _HOLD_TEXT:
                self.hold_text()
            elif tag == "figure":
                self.figures += 1
        if not (tag in _PREFORMATTED or ("white-space" in attributes and _PRE_STYLE.search(attributes))):
            return 0
        end = tags.end_of(self._given, at)
        self._add(*_preformatted(self._given[at:end], self._refused, self.links), _language(node, self._given[at + 1]))
        return end

    def end(self, tag: str) -> None:
        """A block-level element of those that are more than a boundary ends."""
        if tag in _STRUCTURED:
            self._leave(tag)
        elif tag == "figure":
            self.figures -= 1

    def inline(self, at: int, name: str, attributes: str) -> int:
        """An inline element starts; the index of the tag whose text comes next."""
        if (name in _DROPPED or (attributes and self._refused(name, attributes))) and (end := _end_of_dropped(self._given, at)):
            return end
        if name in tags.VOID:
            self.pieces += _void(name, attributes)
            return at
        self.open.append(self._given[at])
        if name == "a":
            self.links += 1
        elif name == "code":
            self.hold_text()
        return at

    def say(self, text: str) -> None:
        """Text between two tags, as it is written."""
        plain = tags.unescaped(text) if "&" in text else text
        self.pieces.append(plain)
        if self.links:
            self.linked += len(plain.strip())

    def hold_text(self) -> None:
        """Something starts with which a figure around it is no picture."""
        if self.figures:
            for node in reversed(self.nodes):
                if node.holds_text:
                    break
                node.holds_text = True

    def _inline_nodes(self) -> Node | None:
        around: Node | None = None
        at = next((at for at in range(len(self.open) - 1, -1, -1) if isinstance(self.open[at], Node)), 0)
        for index in range(at, len(self.open)):
            each = self.open[index]
            around = self.open[index] = each if isinstance(each, Node) else Node(each[0], each[1], around)
        return around

    def _add(self, text: str, linked: int, code: str | None) -> None:
        if not text:
            return
        element = self.nodes[-1] if self.nodes else _NOWHERE
        self.blocks.append(
            Block(
                element.tag,
                text,
                linked,
                self.groups[-1] if self.groups else None,
                element,
                self.items[-1] if self.items else None,
                self.cells[-1] if self.cells else None,
                code,
                self.quotes > 0,
            )
        )

    def _enter(self, tag: str, element: Node) -> None:
        if tag == "li":
            ordered = bool(self.counters and element.parent and element.parent.tag == "ol")
            self.items.append(Item(max(0, len(self.counters) - 1), self.counters[-1] if ordered else 0))
            if ordered:
                self.counters[-1] += 1
        elif tag in LISTS:
            self.groups.append(element)
            if tag in _COUNTED:
                start = element.get("start") or "1"
                first = int(start) if start.isascii() and start.lstrip("-").isdigit() and len(start) < 9 else 1
                self.counters.append(first if tag == "ol" else 0)
            elif tag == "table":
                self.tables.append(_Table(element))
        elif tag == "blockquote":
            self.quotes += 1
        elif self.tables:
            if tag == "tr":
                self.tables[-1].next_row()
            else:
                self.cells.append(self.tables[-1].cell(element))
                self.items.append(None)

    def _leave(self, tag: str) -> None:
        if tag == "li":
            self.items.pop()
        elif tag in LISTS:
            self.groups.pop()
            if tag in _COUNTED:
                self.counters.pop()
            elif tag == "table":
                self.tables.pop()
        elif tag == "blockquote":
            self.quotes -= 1
        elif tag != "tr" and self.tables:
            self.cells.pop()
            self.items.pop()


def blocks(given: list[Token], refused: Refused) -> list[Block]:
    """All text blocks of a page. refused: whether an inline element of this tag with these attributes may be no text."""
    walk = _Walk(given, refused)
    pieces, opened, nodes, start, inline, say = walk.pieces, walk.open, walk.nodes, walk.start, walk.inline, walk.say
    following = 0
    for at, (name, attributes, text) in enumerate(given):
        if at < following:
            continue
        if name in _BOUNDS:
            if pieces:
                walk.interrupt()
            if name in BLOCKS:
                if end := start(at, name, attributes):
                    following = end
                    continue
            elif name != "hr":
                opened.pop()
                nodes.pop()
                if name in _SPECIAL_ENDS:
                    walk.end(name[1:])
        elif name[0] == "/":
            opened.pop()
            walk.links -= name == "/a"
        elif (last := inline(at, name, attributes)) > at:
            following, text = last + 1, given[last][2]  # noqa: PLW2901
        if text and (pieces or not text.isspace()):
            say(text)
    walk.interrupt()
    return walk.blocks


def _end_of_dropped(given: list[Token], at: int) -> int:
    """The index of the end of an inline element that may be no part of the text around it; 0 where it is part of it.

    One with much text or with blocks is part of it, whatever it calls itself.
    """
    tag = given[at][0]
    is_unseen = tag in tags.UNSEEN
    if tag in tags.VOID:
        return at
    if is_unseen:
        return tags.end_of(given, at)
    end, length, depth = "/" + tag, 0, 0
    for index in range(at, min(len(given), at + INLINE)):
        name, _, text = given[index]
        depth += (name == tag) - (name == end)
        if not depth:
            return index
        length += len(text)
        if length > INLINE or name in BLOCKS:
            return 0
    return 0


def _void(tag: str, attributes: str) -> list[str]:
    """The text that an element without content stands for."""
    if tag == "br":
        return [_BREAK]
    tex = formulas.of_image(Node(tag, attributes, None)) if tag == "img" and 'alt="' in attributes else ""
    return [tex] if tex else []


def _preformatted(given: list[Token], refused: Refused, links: int) -> tuple[str, int]:
    """The text of a preformatted element, in which block-level elements are lines of their own, and its characters in links."""
    pieces: list[str] = []
    linked = following = 0
    for at, (name, attributes, text) in enumerate(given):
        if at < following:
            continue
        after = text
        if at and name in _BOUNDS:
            if pieces and not pieces[-1].endswith("\n"):
                pieces.append("\n")
        elif name[0] == "/":
            links -= name == "/a"
        elif at and (name in _DROPPED or (attributes and refused(name, attributes))) and (end := _end_of_dropped(given, at)):
            following, after = end + 1, given[end][2]
        elif name in tags.VOID:
            pieces += (piece.replace(_BREAK, "\n") for piece in _void(name, attributes))
        else:
            links += name == "a"
        if after:
            pieces.append(tags.unescaped(after))
            linked += len(pieces[-1].strip()) if links else 0
    return _code("".join(pieces)), linked


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


def _language(element: Node, first: Token) -> str:
    """The language that the class names of preformatted text, or of what is directly around or first in it, state."""
    around = element.parent
    for each in (element, Node(*first[:2], element), *([around] if around else [])):
        if (found := _LANGUAGE.search(each.get("class") or "")) and found[1].lower() not in ("none", "plaintext", "text", "default"):
            return found[1].lower()
    return ""
