"""The links on a page, for a site that is followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree, NodeType

from data_prep.corpus import urls

MOST = 10_000  # links of one page; a page with more is a trap or a dump, and each is remembered until the crawl ends
LINKING = frozenset(("a", "area"))


def links_on(url: str, body: bytes, charset: str) -> list[str]:
    """Where the page's anchors lead, canonical, on the page's own host, each once, in order; media left out, and what comes after many."""
    tree = _tree(body, charset)
    if tree is None or tree.document is None:
        return []
    base, references = url, dict[str, None]()
    for node in cast(Iterable[Any], tree.document):  # resiliparse's query_selector_all asks again for every item: quadratic
        if node.type != NodeType.ELEMENT or not (reference := node.getattr("href")):
            continue
        if node.tag in LINKING:
            references[reference] = None
            if len(references) >= MOST:
                break
        elif node.tag == "base" and base == url:
            base = urls.joined(url, reference) or url
    home = urls.authority(url)
    found = {urls.joined(base, reference) for reference in references}
    return sorted(link for link in found if link and urls.authority(link) == home and not urls.is_media(link))


def _tree(body: bytes, charset: str) -> HTMLTree | None:
    for encoding in filter(None, (charset, detect_encoding(body), "latin-1")):
        try:
            return HTMLTree.parse_from_bytes(body, encoding)
        except (LookupError, ValueError, RuntimeError):  # an unknown or untrue name: ask the bytes themselves
            continue
    return None
