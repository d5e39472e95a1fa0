"""The part of a page that holds its running text, found from the positions of its long blocks.

Nearly all long paragraphs of an article are in one element, and text outside of it is menus. Blocks in parts whose names say that they
are something else (comments, teasers, a cookie notice) do not count, unless a large part of the page's text is there: site builders
give any name to anything. Lengths are in characters; one of a script without spaces between words counts as two.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from data_prep.corpus.blocks import BLOCKS, Block

SHARE = 0.95  # of the weight of the long blocks that the element must hold; with less, parts of some articles were lost
KINDS = frozenset(("p", "dd", "pre", "blockquote"))  # list items, table cells and loose text are in menus too
PARAGRAPH, LOOSE = 50, 100  # characters of a long block of these kinds, and of the others
FULL = 200  # characters from which a block has its full weight: teasers are many and short
LINKED = 0.5  # of a block's characters in links: beyond it the block has no weight
ENOUGH, USUAL = 500, 0.3  # weight of blocks of these kinds, and its share of all long text, with which the others have none
LEAST = 200  # characters in long blocks, below which there is no region
LEVELS = 200  # ancestors of a block that are looked at
MOST = 0.3  # of a page's text: a part with more of it is never refused for its name
SOME = 0.1  # of a page's text: a part with more of it is not refused for a name that articles have too
INLINE = 300  # characters of an inline element that is never refused
_OTHER = frozenset(
    ("nav", "footer", "aside", "menu", "dialog", "form", "button", "input", "progress", "figure", "address", "time", "label", "rp")
)
# What parts of a page that are not its text call themselves; and what parts of its text sometimes do, too.
_ELSEWHERE = """comments? commentlist disqus\\w* replies respond share sharing shares sharedaddy social\\w* addtoany\\w* follow(?:-?us)?
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
_HOLDS_TEXT = ("table", "pre", "blockquote", "code")  # in a figure: it is no picture


def _any_of(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[\s_-])(?:{'|'.join(names.split())})(?=$|[\s_\d-])", re.IGNORECASE)


_IS_ELSEWHERE, _IS_PERHAPS = _any_of(_ELSEWHERE), _any_of(_PERHAPS)


def size(text: str) -> int:
    """Characters, whitespace around them apart; one of a script without spaces between words counts as two."""
    text = text.strip()
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


def drops(element: Any) -> bool:
    """Whether an inline element is no part of the text around it, by its tag and its names; never one with much text or with blocks."""
    if not _is_named_otherwise(element, 0.0):
        return False
    length = 0
    for each in element.iter():
        if each.tag in BLOCKS:
            return False
        length += len(each.text or "") + len(each.tail or "")
        if length > INLINE + len(element.tail or ""):
            return False
    return True


class Region:
    """Sets `inside` and `refused` of blocks. element: the innermost one that holds nearly all long blocks; the root where there are few.

    weight: of the long blocks below each element, which is the evidence for where the text is; total: all of it.
    """

    def __init__(self, root: Any, blocks: list[Block]) -> None:
        self.root = self.element = root
        self.weight: dict[Any, float] = {}
        self.total = 0.0
        self._refused: dict[Any, bool] = {}
        self._held: dict[Any, int] = {}
        self._text = 0
        found: list[tuple[Block, int, list[Any]]] = []
        for block in blocks:
            length = size(block.text)
            if length < (PARAGRAPH if block.kind in KINDS else LOOSE) or block.linked > LINKED * len(block.text):
                continue
            within = [block.element, *(above for _, above in zip(range(LEVELS), block.element.iterancestors(), strict=False))]
            found.append((block, length, within))
            self._text += length
            for each in within:
                self._held[each] = self._held.get(each, 0) + length
        usual = [each for each in found if each[0].kind in KINDS]
        self._weigh(usual)
        if self.total < ENOUGH or self.total < sum(length for _, length, _ in found) * USUAL:
            self.weight, self.total = {}, 0.0
            self._weigh(found)
        if self.total >= LEAST:
            self.element = self._innermost()
        self._mark(blocks)

    def _weigh(self, found: list[tuple[Block, int, list[Any]]]) -> None:
        for block, length, within in found:
            if any(each.tag == "a" or self._refuses(each) for each in within):
                continue
            weight = length * min(1.0, length / FULL)
            self.total += weight
            for each in within[1:] if block.kind in KINDS else within:
                self.weight[each] = self.weight.get(each, 0.0) + weight

    def _mark(self, blocks: list[Block]) -> None:
        known: dict[Any, tuple[bool, bool]] = {}
        for block in blocks:
            block.refused, block.inside = self._place(block.element, known)

    def _place(self, element: Any, known: dict[Any, tuple[bool, bool]]) -> tuple[bool, bool]:
        """Whether the element is in a refused part, and whether in the region."""
        path = []
        while element is not None and element not in known:
            path.append(element)
            element = None if element is self.root else element.getparent()
        refused, inside = known[element] if element is not None else (False, False)
        for each in reversed(path):
            refused = refused or (each is not self.root and self._refuses(each))
            inside = inside or each is self.element
            known[each] = refused, inside
        return refused, inside

    def _refuses(self, element: Any) -> bool:
        """Whether the element is no part of the text, by its tag and its names."""
        known = self._refused.get(element)
        if known is None:
            share = self._held.get(element, 0) / (self._text or 1)
            known = self._refused[element] = share < MOST and _is_named_otherwise(element, share)
        return known

    def _innermost(self) -> Any:
        at, least = self.root, SHARE * self.total
        while (inner := next((child for child in at if self.weight.get(child, 0.0) >= least), None)) is not None:
            at = inner
        return at


def _is_named_otherwise(element: Any, share: float) -> bool:
    tag = element.tag
    if tag in ("html", "body"):
        return False
    if tag in _OTHER:
        return tag != "figure" or next(element.iter(*_HOLDS_TEXT), None) is None
    get = element.get
    classes, name = get("class"), get("id")
    if (classes or name) and (share < SOME or tag not in ("article", "main")):
        elsewhere, perhaps = _names(classes or "", name or "")
        if elsewhere or (share < SOME and perhaps):
            return True
    if get("hidden") is not None or get("aria-hidden") == "true":
        return True
    style = get("style")
    return bool(style and _HIDDEN.search(style))


@lru_cache(maxsize=8192)
def _names(classes: str, name: str) -> tuple[bool, bool]:
    """Whether class names and an id say that a part is not the page's text, or that it may not be."""
    if name.count("-") + name.count("_") > 2:  # an anchor made of a heading's words
        name = ""
    role = f"{classes[:1000]} {name[:1000]}"
    return bool(_IS_ELSEWHERE.search(role)), bool(_IS_PERHAPS.search(role))
