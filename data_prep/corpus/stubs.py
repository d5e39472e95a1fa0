"""Pages that only send the reader on: a meta refresh and hardly a word beside it.

The crawler follows them as it follows redirects; in an archive that somebody else has made they are no documents.
"""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urljoin

from data_prep.corpus import charset

HEAD = 4_096  # bytes or characters in which the refresh must stand; what comes later is a page that reloads itself
LONGEST = 32_768  # a longer page is no stub, whatever stands in its head
LONGEST_WAIT_S = 15.0  # a page that sends its reader on later than this wants to be read first
FEW_CHARACTERS = 300  # of visible text, its title apart: "this page has moved, click here if nothing happens"

_TAG = re.compile(r"<(meta|base)\b((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"([a-z-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)
_UNSEEN = re.compile(r"<!--.*?(?:-->|$)|<(script|style|title|template|textarea|svg)\b.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_ANY_TAG = re.compile(r"<[^>]*>")
# The HTML standard, section 4.2.5.3, "shared declarative refresh steps": seconds, then ";" or "," or a space, then the address
_CONTENT = re.compile(r"\s*(?:(\d+)[\d.]*|\.[\d.]*)(?:\s*[;,]|\s)\s*(?:url\s*=\s*)?+(.+)", re.IGNORECASE | re.DOTALL)


def may_refresh(body: bytes) -> bool:
    """Whether meta_refresh of the decoded body is worth asking: one search in its first 4 KB."""
    start = body[:HEAD]
    return len(body) <= LONGEST and b"refresh" in (start.replace(b"\0", b"") if b"\0" in start else start).lower()


def meta_refresh(markup: bytes | str) -> tuple[float, str] | None:
    """(seconds, where to) when the page does nothing but send its reader on, else None. The address is as the page writes it.

    Cheap for every other page. A page that only reloads itself (no address) is no stub. Bytes are read as what they declare to be.
    """
    if len(markup) > LONGEST:
        return None
    if isinstance(markup, bytes):
        if not may_refresh(markup):
            return None
        markup = charset.decode(markup).text
    elif "refresh" not in markup[:HEAD].lower():
        return None
    bare = _UNSEEN.sub(" ", markup)
    found = _refresh(bare[:HEAD])
    if found is None or found[0] > LONGEST_WAIT_S or not found[1]:
        return None
    text = " ".join(unescape(_ANY_TAG.sub(" ", bare)).split())
    return None if len(text) > FEW_CHARACTERS else found


def header_refresh(value: str, body: bytes) -> tuple[float, str] | None:
    """The same for a Refresh header, which works as the markup does: a page with text of its own wants to be read."""
    said = _CONTENT.match(value) if value else None
    if not said or float((said[1] or "0")[:9]) > LONGEST_WAIT_S or len(body) > LONGEST:
        return None
    address = _unquoted(said[2])
    few = len(" ".join(unescape(_ANY_TAG.sub(" ", _UNSEEN.sub(" ", body.decode("utf-8", "replace")))).split())) <= FEW_CHARACTERS
    return (float((said[1] or "0")[:9]), address) if address and few else None


def _refresh(head: str) -> tuple[float, str] | None:
    base = ""
    for tag in _TAG.finditer(head):
        attributes = {name.lower(): unescape(a or b or c) for name, a, b, c in reversed(_ATTRIBUTE.findall(tag[2]))}  # the first counts
        if tag[1].lower() == "base":
            base = base or attributes.get("href", "").strip()
        elif attributes.get("http-equiv", "").strip().lower() == "refresh" and (said := _CONTENT.match(attributes.get("content", ""))):
            return float((said[1] or "0")[:9]), _joined(base, _unquoted(said[2]))
    return None


def _unquoted(address: str) -> str:
    if address[:1] in ("'", '"'):
        address = address[1:].partition(address[0])[0]
    return address.translate(dict.fromkeys(map(ord, "\t\n\r"))).strip()


def _joined(base: str, address: str) -> str:
    try:
        return urljoin(base, address) if base and address else address
    except ValueError:
        return address
