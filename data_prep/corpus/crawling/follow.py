"""The links on a page, for a site that is followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from resiliparse.parse.html import HTMLTree, NodeType

from data_prep.corpus import charset, urls
from data_prep.corpus.trackers import KNOWN, Trackers

MOST = 10_000  # links of one page; a page with more is a trap or a dump, and each is remembered until the crawl ends
LINKING = frozenset(("a", "area"))


def links_on(url: str, body: bytes, label: str, *, trackers: Trackers = KNOWN, obey_nofollow: bool = True) -> list[str]:
    """Where the page's anchors lead, canonical, on the page's own host, each once, in order; media left out, and what comes after many.

    label: the charset of the Content-Type field, or "". Links are read in the encoding that the page's text is read in. obey_nofollow:
    whether links with rel=nofollow are left out.
    """
    decoded = charset.decode(body, label)
    tree = HTMLTree.parse(decoded.text)
    if tree is None or tree.document is None:
        return []
    base, references = url, dict[str, None]()
    for node in cast(Iterable[Any], tree.document):  # resiliparse's query_selector_all asks again for every item: quadratic
        if node.type != NodeType.ELEMENT or not (reference := node.getattr("href")):
            continue
        if node.tag in LINKING:
            if obey_nofollow and "nofollow" in (node.getattr("rel") or "").lower().split():
                continue
            references[reference] = None
            if len(references) >= MOST:
                break
        elif node.tag == "base" and base == url:
            base = urls.joined(url, reference, encoding=decoded.charset) or url
    home = urls.authority(url)
    found = {urls.joined(base, reference, encoding=decoded.charset, trackers=trackers) for reference in references}
    return sorted(link for link in found if link and urls.authority(link) == home and not urls.is_media(link))
