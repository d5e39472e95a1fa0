"""The links on a page, for a site that is followed."""

from __future__ import annotations

from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from data_prep.corpus import urls


def links_on(url: str, body: bytes, charset: str) -> list[str]:
    """Where the page's anchors lead, canonical, on the page's own host, each once, in order; media left out."""
    tree = _tree(body, charset)
    if tree is None or tree.document is None:
        return []
    base_tag = tree.document.query_selector("base[href]")
    base = (urls.joined(url, base_tag.getattr("href") or "") if base_tag else None) or url
    home = urls.authority(url)
    found = {urls.joined(base, anchor.getattr("href") or "") for anchor in tree.document.query_selector_all("a[href], area[href]")}
    return sorted(link for link in found if link and urls.authority(link) == home and not urls.is_media(link))


def _tree(body: bytes, charset: str) -> HTMLTree | None:
    for encoding in filter(None, (charset, detect_encoding(body), "latin-1")):
        try:
            return HTMLTree.parse_from_bytes(body, encoding)
        except (LookupError, ValueError, RuntimeError):  # an unknown or untrue name: ask the bytes themselves
            continue
    return None
