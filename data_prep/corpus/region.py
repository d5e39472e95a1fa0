"""The part of a page that holds its running text, found from the positions of its long blocks.

Nearly all long paragraphs of an article are in one element, and text outside of it is menus. Blocks in parts whose names say that they
are something else (comments, teasers, a cookie notice) do not count, unless a large part of the page's text is there: site builders
give any name to anything. Lengths are in characters; one of a script without spaces between words counts as two.
"""

from __future__ import annotations

import re
from functools import lru_cache

from data_prep.corpus.blocks import Block
from data_prep.corpus.tags import Node

SHARE = 0.95  # of the weight of the long blocks that the element must hold; with less, parts of some articles were lost
KINDS = frozenset(("p", "dd", "pre", "blockquote"))  # list items, table cells and loose text are in menus too
PARAGRAPH, LOOSE = 50, 100  # characters of a long block of these kinds, and of the others
FULL = 200  # characters from which a block has its full weight: teasers are many and short
LINKED = 0.5  # of a block's characters in links: beyond it the block has no weight
ENOUGH, USUAL = 500, 0.3  # weight of blocks of these kinds, and its share of all long text, with which the others have none
LEAST = 200  # characters in long blocks, below which there is no region
MOST = 0.3  # of a page's text: a part with more of it is never refused for its name
SOME = 0.1  # of a page's text: a part with more of it is not refused for a name that articles have too
THREAD = 0.1  # of the long text that is in no refused part: with less, the page is a thread, and its comments are its text
REPEATED = 150  # characters of attributes that are likely to come again on the page
_OTHER = frozenset(
    ("nav", "footer", "aside", "menu", "dialog", "form", "button", "input", "progress", "figure", "address", "time", "label", "rp")
)
_NAMING = re.compile(r'\s(class|id|hidden|aria-hidden|style)="([^"]*)"')  # attributes that say what an element is
# What parts of a page that are not its text call themselves; and what parts of its text sometimes do, too.
_COMMENTS = "comments? commentlist disqus\\w* replies respond"
_ELSEWHERE = """share sharing shares sharedaddy social\\w* addtoany\\w* follow(?:-?us)?
    related\\w* recommend\\w* recirc\\w* more-(?:stories|from|news|on) read-?more most-?(?:read|popular|viewed) popular trending teasers?
    outbrain\\w* taboola\\w* newsletters? subscri\\w+ sign-?up login register promo\\w* sponsor\\w* advert\\w* ads? adsbygoogle ad-\\w+
    banner\\w* donat\\w+ side-?bar\\w* widget-?area breadcrumbs? crumbs? navi?\\w* menus? toolbar pagination pager pagenav skip\\w*
    footer\\w* copyright cookies? consent gdpr cli privacy modal popup overlay jump-?to-?nav navbox editsection no-?print hidden
    visually-?hidden screen-?reader\\w* sr-only invisible"""
_PERHAPS = """tags? tag-?list keywords topics categor(?:y|ies) (?:post-?|entry-?|article-?)?meta byline\\w* author\\w* bio dateline date
    timestamp published captions? wp-caption-text credits? gallery slideshow carousel thumb\\w* print printfriendly hide references?
    reflist footnotes? toc ratings? vote poll quiz survey contact search\\w* disclaimer"""
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")


def _any_of(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[_-])(?:{'|'.join(names.split())})(?=$|[_\d-])", re.IGNORECASE)


_IS_COMMENT, _IS_ELSEWHERE, _IS_PERHAPS = _any_of(_COMMENTS), _any_of(_ELSEWHERE), _any_of(_PERHAPS)


def size(text: str) -> int:
    """Characters, whitespace around them apart; one of a script without spaces between words counts as two."""
    text = text.strip()
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def drops(tag: str, attributes: str) -> bool:
    """Whether an inline element says by its tag or its names that it is no part of the text around it."""
    if tag in _OTHER:
        return True
    if attributes.startswith(' href="'):  # unlikely to come again
        return _NAMING.search(attributes) is not None and any(_names_of.__wrapped__(attributes))
    return any(_names(attributes))


class Region:
    """Sets `inside` and `refused` of blocks. element: the innermost one that holds nearly all long blocks; the root where there are few.

    weight: of the long blocks below each element, times FULL, which is the evidence for where the text is; total: all of it.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.weight: dict[Node, int] = {}
        self.total = 0
        self._around = _around(blocks)
        self.element = next(iter(self._around), None)
        found: list[tuple[Block, int]] = []
        for block in blocks:
            if 2 * len(block.text) < PARAGRAPH or block.linked > LINKED * len(block.text):
                continue
            length = size(block.text)
            if length >= (PARAGRAPH if block.kind in KINDS else LOOSE):
                found.append((block, length))
        self._refused = self._refuses(found)
        left = sum(length for block, length in found if not self._refused[block.element])
        if left < THREAD * sum(length for _, length in found):
            self._refused = self._refuses(found, is_thread=True)
        usual = [each for each in found if each[0].kind in KINDS]
        self._weigh(usual)
        if self.total < ENOUGH * FULL or self.total < sum(length for _, length in found) * USUAL * FULL:
            self._weigh(found)
        if self.total >= LEAST * FULL:
            self.element = self._innermost()
        self._mark(blocks)

    def _sums(self, own: dict[Node, int]) -> dict[Node, int]:
        """Of each element and all below it."""
        sums = dict.fromkeys(self._around, 0) | own
        for element, around in reversed(self._around.items()):
            if around is not None:
                sums[around] += sums[element]
        return sums

    def _refuses(self, found: list[tuple[Block, int]], *, is_thread: bool = False) -> dict[Node | None, bool]:
        """Whether each element, or one around it, is no part of the text, by its tag and its names. is_thread: comments are the text."""
        own: dict[Node, int] = {}
        for block, length in found:
            own[block.element] = own.get(block.element, 0) + length
        text = sum(own.values()) or 1
        refused: dict[Node | None, bool] = {None: False}
        for element, held in self._sums(own).items():
            share = held / text
            refused[element] = refused[self._around[element]] or (share < MOST and _is_named_otherwise(element, share, is_thread))
        return refused

    def _weigh(self, found: list[tuple[Block, int]]) -> None:
        linked: dict[Node | None, bool] = {None: False}
        for element, around in self._around.items():
            linked[element] = linked[around] or element.tag == "a"
        own: dict[Node, int] = {}
        self.total = 0
        for block, length in found:
            element = block.element
            if linked[element] or self._refused[element]:
                continue
            weight = length * min(FULL, length)
            self.total += weight
            holder = (self._around[element] if block.kind in KINDS else element) or element
            own[holder] = own.get(holder, 0) + weight
        self.weight = self._sums(own)

    def _mark(self, blocks: list[Block]) -> None:
        inside: dict[Node | None, bool] = {None: False}
        for element, around in self._around.items():
            inside[element] = inside[around] or element is self.element
        for block in blocks:
            block.refused, block.inside = self._refused[block.element], inside[block.element]

    def _innermost(self) -> Node | None:
        at, least = self.element, SHARE * self.total
        for element, around in self._around.items():
            if around is at and self.weight[element] >= least:
                at = element
        return at


def _around(blocks: list[Block]) -> dict[Node, Node | None]:
    """The elements of the blocks and all around them, each with its parent, parents first."""
    found: dict[Node, Node | None] = {}
    for block in blocks:
        path: list[Node] = []
        element: Node | None = block.element
        while element is not None and element not in found:
            path.append(element)
            element = element.parent
        for each in reversed(path):
            found[each] = element
            element = each
    return found


def _is_named_otherwise(element: Node, share: float, is_thread: bool) -> bool:
    tag = element.tag
    if tag in ("html", "body"):
        return False
    if tag in _OTHER:
        return tag != "figure" or not element.holds_text
    if not element.attributes:
        return False
    comment, elsewhere, perhaps, is_hidden = _names(element.attributes)
    if (elsewhere or (comment and not is_thread)) and (share < SOME or tag not in ("article", "main")):
        return True
    return is_hidden or (perhaps and share < SOME)


def _names(attributes: str) -> tuple[bool, bool, bool, bool]:
    """Whether class names and an id say that a part is comments, another part that is not the page's text, or one that may not be;
    whether it is hidden."""
    return _names_of(attributes) if len(attributes) <= REPEATED else _names_of.__wrapped__(attributes)


@lru_cache(maxsize=4096)
def _names_of(attributes: str) -> tuple[bool, bool, bool, bool]:
    comment = elsewhere = perhaps = is_hidden = False
    for name, value in _NAMING.findall(attributes):
        if name == "style":
            is_hidden = is_hidden or _HIDDEN.search(value) is not None
        elif name in ("hidden", "aria-hidden"):
            is_hidden = is_hidden or name == "hidden" or value == "true"
        elif name == "class" or value.count("-") + value.count("_") <= 2:  # else an anchor made of a heading's words
            for each in value[:1000].split():
                first, second, third = _word(each)
                comment, elsewhere, perhaps = comment or first, elsewhere or second, perhaps or third
    return comment, elsewhere, perhaps, is_hidden


@lru_cache(maxsize=1 << 15)
def _word(name: str) -> tuple[bool, bool, bool]:
    return _IS_COMMENT.search(name) is not None, _IS_ELSEWHERE.search(name) is not None, _IS_PERHAPS.search(name) is not None
