"""The part of a page that holds its running text, found from where its long paragraphs stand.

Nearly all long paragraphs of an article stand in one element, and whatever stands outside of it is menus. Paragraphs in parts that
call themselves something else (comments, teasers, a cookie notice) do not count, unless most of the page stands there: site builders
give any name to anything. Lengths are in characters; one of a script without spaces between words counts as two.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from lxml.etree import HTMLParser, XPath, fromstring, strip_elements

SHARE = 0.95  # of the weight of the long paragraphs that the element must hold; with less, parts of some articles were lost
KINDS = ("p", "dd", "pre", "blockquote")  # list items and table cells are in menus too
PARAGRAPH = 50  # characters of a long paragraph
FULL = 200  # characters from which a paragraph has its whole weight: teasers are many and short
LEAST = 500  # characters in long paragraphs, below which text outside of the usual tags is looked at as well
LEVELS = 200  # ancestors of a paragraph that are looked at
MOST = 0.3  # of a page's text: a part with more of it is never refused for its name
SOME = 0.1  # of a page's text: a part with more of it is not refused for a name that articles have too
_UNSEEN = (
    *("script", "style", "noscript", "template", "svg", "math", "iframe", "select", "textarea", "datalist"),
    *("object", "embed", "canvas", "video", "audio", "map"),
)
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
_LONG_TEXT = XPath(f"//body//text()[string-length(.) >= {PARAGRAPH // 2}]", smart_strings=True)


def _any_of(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[\s_-])(?:{'|'.join(names.split())})(?=$|[\s_\d-])", re.IGNORECASE)


_IS_ELSEWHERE, _IS_PERHAPS = _any_of(_ELSEWHERE), _any_of(_PERHAPS)


def parse(markup: bytes) -> Any:
    """UTF-8 without control characters as an lxml tree, scripts and the like taken out; None when there is none. Raises LxmlError."""
    tree = fromstring(markup, _parser())
    if tree is not None:
        strip_elements(tree, *_UNSEEN, with_tail=False)
    return tree


def size(text: str) -> int:
    """Characters, white space around them apart."""
    text = text.strip()
    return len(text) if text.isascii() else len(text) + len(_WIDE.findall(text))


class Region:
    """element: the innermost one that holds nearly all long paragraphs; the body where there are few."""

    def __init__(self, tree: Any) -> None:
        self._refused: dict[Any, bool] = {}
        self._held: dict[Any, int] = {}
        self._total = 0
        paragraphs = self._paragraphs(tree)
        weights, total = self._weighed(paragraphs)
        body = tree.find("body")
        self.element = tree if body is None else body
        if total >= LEAST:
            self.element = _innermost(tree, weights, SHARE * total)

    def refuses(self, element: Any) -> bool:
        """Whether the element is no part of the text, by its tag and what it calls itself."""
        known = self._refused.get(element)
        if known is None:
            known = self._refused[element] = self._judge(element)
        return known

    def _paragraphs(self, tree: Any) -> list[tuple[Any, int, list[Any]]]:
        """Long paragraphs, their sizes and what they stand in."""
        found: list[tuple[Any, int, list[Any]]] = []
        for element in tree.iter(*KINDS):
            self._note(element, size("".join(element.itertext())), found)
        if self._total < LEAST:
            for text in _LONG_TEXT(tree):
                holder = text.getparent().getparent() if text.is_tail else text.getparent()
                if holder is not None and not any(above.tag in KINDS for above in (holder, *holder.iterancestors(*KINDS))):
                    self._note(holder, size(text), found)
        return found

    def _note(self, element: Any, length: int, found: list[tuple[Any, int, list[Any]]]) -> None:
        if length < PARAGRAPH:
            return
        within = [element, *(above for _, above in zip(range(LEVELS), element.iterancestors(), strict=False))]
        found.append((element, length, within))
        self._total += length
        for each in within:
            self._held[each] = self._held.get(each, 0) + length

    def _weighed(self, paragraphs: list[tuple[Any, int, list[Any]]]) -> tuple[dict[Any, float], float]:
        """By element, the weight of its paragraphs that stand neither in a link nor in a refused part; and all of it."""
        weights: dict[Any, float] = {}
        total = 0.0
        for element, length, within in paragraphs:
            if any(each.tag == "a" or self.refuses(each) for each in within):
                continue
            weight = length * min(1.0, length / FULL)
            total += weight
            for each in within if element.tag not in KINDS else within[1:]:
                weights[each] = weights.get(each, 0.0) + weight
        return weights, total

    def _judge(self, element: Any) -> bool:
        tag = element.tag
        share = self._held.get(element, 0) / (self._total or 1)
        if tag in ("html", "body") or share >= MOST:
            return False
        if tag in _OTHER:
            return True
        name = element.get("id") or ""
        if name.count("-") + name.count("_") > 2:  # an anchor made of a heading's words
            name = ""
        role = f"{element.get('class') or ''} {name}"
        if len(role) > 1 and (share < SOME or tag not in ("article", "main")):
            named = _IS_ELSEWHERE.search(role) or (share < SOME and _IS_PERHAPS.search(role))
            if named:
                return True
        if element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        return bool(_HIDDEN.search(element.get("style") or ""))


def _innermost(tree: Any, weights: dict[Any, float], least: float) -> Any:
    at = tree
    while (inner := next((child for child in at if weights.get(child, 0.0) >= least), None)) is not None:
        at = inner
    return at


@lru_cache(maxsize=1)
def _parser() -> HTMLParser:
    return HTMLParser(collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True)
