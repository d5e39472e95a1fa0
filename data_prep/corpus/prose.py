"""Main text by the layout of a page: blocks of its text region, without those that are links, captions and calls to act.

Made for precision and speed: one parse, one walk over the region alone. html.py says how well it does, and when another is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lxml.etree import LxmlError, iterwalk

from data_prep.corpus import region

LINKED_BLOCK = 0.6  # of a block's characters in links: beyond it the block is no text but a way to some
LINKED_LIST = 0.4  # the same of a whole list or table
LONG_LINKED = 200  # characters of a paragraph that is kept though most of it is linked
LOOSE = 80  # characters of text outside of paragraphs, list items, cells and headings, below which it is taken for a label
NOTICE, LONG_NOTICE = 120, 400  # characters below which a block with a copyright sign, with a year behind it, is a notice
HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset(("ul", "ol", "dl", "table"))
_ITEMS = frozenset(("li", "dt", "dd", "td", "th", "tr", "div"))
_PLACED = frozenset(("p", "blockquote", "pre", "li", "dt", "dd", "td", "th", *HEADINGS))
_STRUCTURE = """section article main header hgroup thead tbody tfoot caption form fieldset center body figcaption figure details
    summary hr nav aside footer address"""
_BLOCKS = frozenset((*_LISTS, *_ITEMS, *_PLACED, *_STRUCTURE.split()))
_YEAR = re.compile(r"©\s*(?:\d{4}|[Cc]opyright|by\b)")
_BREAK = "\0"  # no page has one: a line break that is meant, as opposed to one in the source


@dataclass
class Block:
    """A run of text between two block elements; linked: its characters in links; group: the list or table it stands in."""

    kind: str
    text: str
    linked: int
    group: Any
    depth: int = 0


@dataclass
class _Walk:
    """What is open at a place in the walk."""

    blocks: list[Block] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    links: int = 0
    linked: int = 0

    def say(self, text: str | None) -> None:
        if text:
            self.pieces.append(text.replace("\n", _BREAK) if "pre" in self.kinds else text)
            if self.links:
                self.linked += len(text.strip())

    def close(self) -> None:
        """End the block that is being gathered."""
        if self.pieces:
            lines = (" ".join(line.split()) for line in "".join(self.pieces).split(_BREAK))
            if text := "\n".join(line for line in lines if line):
                group = self.groups[-1] if self.groups else None
                self.blocks.append(Block(self.kinds[-1] if self.kinds else "", text, self.linked, group))
            self.pieces.clear()
        self.linked = 0

    def enter(self, element: Any) -> None:
        tag = element.tag
        if tag in _BLOCKS:
            self.close()
            self.kinds.append(tag)
            if tag in _LISTS:
                self.groups.append(element)
        elif tag == "a":
            self.links += 1
        elif tag == "br":
            self.pieces.append(_BREAK)
        self.say(element.text)

    def leave(self, element: Any) -> None:
        tag = element.tag
        if tag in _BLOCKS:
            self.close()
            self.kinds.pop()
            if tag in _LISTS:
                self.groups.pop()
        elif tag == "a":
            self.links -= 1


def extract(markup: bytes) -> str:
    """The page's main text, a block a line; "" when it has none, or cannot be parsed."""
    try:
        tree = region.parse(markup)
    except LxmlError:
        return ""
    if tree is None:
        return ""
    return "\n".join(f"- {block.text}" if block.kind == "li" else block.text for block in kept(blocks(region.Region(tree))))


def blocks(found: region.Region) -> list[Block]:
    """The text of the region that is not refused, in its order."""
    walk = _Walk()
    events = iterwalk(found.element, events=("start", "end"))
    skipped = None
    for event, element in events:
        if event == "start":
            if element is not found.element and found.refuses(element):
                events.skip_subtree()
                if element.tag in _BLOCKS:
                    walk.close()
                skipped = element
            else:
                walk.enter(element)
            continue
        if element is not skipped:
            walk.leave(element)
        if element is not found.element:
            walk.say(element.tail)
    walk.close()
    return walk.blocks


def kept(given: list[Block]) -> list[Block]:
    """The blocks that are running text, with the headings that have some of it under them."""
    whole: dict[Any, tuple[int, int]] = {}
    for block in given:
        if block.group is not None:
            size, linked = whole.get(block.group, (0, 0))
            whole[block.group] = (size + len(block.text), linked + block.linked)
    found: list[Block] = []
    below = 0  # the level of the heading that comes next, 0 at the end and 9 when text comes first
    for block in reversed(given):
        level = HEADINGS.get(block.kind, 0)
        if not _is_text(block, whole) or (level and below <= level and len(block.text) < LOOSE):
            continue
        if found and found[-1].text == block.text and found[-1].kind != block.kind:
            continue
        below = level or 9
        found.append(block)
    return found[::-1]


def _is_text(block: Block, whole: dict[Any, tuple[int, int]]) -> bool:
    length = len(block.text)
    if block.group is not None and block.kind in _ITEMS:
        size, linked = whole[block.group]
        if linked > LINKED_LIST * size:
            return False
    if block.linked > LINKED_BLOCK * length and not (block.kind == "p" and length > LONG_LINKED):
        return False
    if length < LONG_NOTICE and "©" in block.text and (length < NOTICE or _YEAR.search(block.text)):
        return False
    return block.kind in _PLACED or length >= LOOSE
