"""The encoding that a page declares in its first bytes: <meta> by the HTML standard's prescan (13.2.3.2), or an XML declaration."""

from __future__ import annotations

import re
from collections.abc import Iterator

PRESCAN_BYTES = 1 << 15  # the standard scans 1,024, and changes the encoding when the parser meets a later <meta>
_SPACES = b"\t\n\x0c\r "
_META = re.compile(rb"<meta[\t\n\x0c\r /]", re.IGNORECASE)
_TAG = re.compile(rb"</?[A-Za-z]")
_XML = re.compile(rb"\A<\?xml[^>]*?\bencoding[\x00-\x20]*=[\x00-\x20]*(?:\"([^\"\x00-\x20>]*)\"|'([^'\x00-\x20>]*)')")
_ANY = re.compile(rb"<meta[\t\n\x0c\r /][^>]*charset", re.IGNORECASE)
_CHARSET = re.compile(rb"charset[\t\n\x0c\r ]*(=?)", re.IGNORECASE)


def labels(body: bytes) -> Iterator[str]:
    """The labels that each <meta> declares, in their order, then that of the XML declaration; known labels or not."""
    start = body[:PRESCAN_BYTES]
    at = 0 if _ANY.search(start) else len(start)
    while (at := start.find(b"<", at)) >= 0:
        if start.startswith(b"<!--", at):
            end = start.find(b"-->", at + 2)
            at = end + 3 if end >= 0 else len(start)
        elif _META.match(start, at):
            label, at = _meta(start, at + 5)
            if label and at < len(start):
                yield label
        elif _TAG.match(start, at):
            at = _tag_end(start, at)
        elif start[at + 1 : at + 2] in (b"!", b"/", b"?"):
            end = start.find(b">", at)
            at = end + 1 if end >= 0 else len(start)
        else:
            at += 1
    if found := _XML.match(start.lstrip(_SPACES)):
        yield (found[1] or found[2] or b"").decode("latin-1")


def _tag_end(start: bytes, at: int) -> int:
    while at < len(start) and start[at] not in b"\t\n\x0c\r >":
        at += 1
    while True:
        name, _, at = _attribute(start, at)
        if not name:
            return at + 1


def _meta(start: bytes, at: int) -> tuple[str, int]:
    """The label that a <meta> declares, and where it ends."""
    seen: set[bytes] = set()
    got_pragma = False
    needs_pragma: bool | None = None
    label = b""
    while True:
        name, value, at = _attribute(start, at)
        if not name:
            break
        if name in seen:
            continue
        seen.add(name)
        if name == b"http-equiv":
            got_pragma = got_pragma or value == b"content-type"
        elif name == b"content" and not label:
            if found := _from_content(value):
                label, needs_pragma = found, True
        elif name == b"charset":
            label, needs_pragma = value.strip(_SPACES), False
    if needs_pragma is None or (needs_pragma and not got_pragma):
        return "", at
    return label.decode("latin-1"), at


def _from_content(value: bytes) -> bytes:
    """HTML standard, "extracting a character encoding from a meta element"."""
    at = 0
    while found := _CHARSET.search(value, at):
        at = found.end()
        if not found[1]:
            continue
        rest = value[at:].lstrip(_SPACES)
        if rest[:1] in (b'"', b"'"):
            end = rest.find(rest[:1], 1)
            return rest[1:end] if end > 0 else b""
        return re.split(rb"[\t\n\x0c\r ;]", rest, maxsplit=1)[0]
    return b""


def _attribute(start: bytes, at: int) -> tuple[bytes, bytes, int]:
    """HTML standard, "get an attribute": name and value in lower case, and where the next begins; no name at the end of the tag."""
    length = len(start)
    while at < length and start[at] in b"\t\n\x0c\r /":
        at += 1
    if at >= length or start[at] == 0x3E:
        return b"", b"", at
    begin = at
    while at < length and (start[at] not in b"\t\n\x0c\r />=" or (start[at] == 0x3D and at == begin)):
        at += 1
    name = start[begin:at].lower()
    after = at
    while after < length and start[after] in _SPACES:
        after += 1
    if after >= length or start[after] != 0x3D:
        return name, b"", at
    at = after + 1
    while at < length and start[at] in _SPACES:
        at += 1
    if at >= length or start[at] == 0x3E:
        return name, b"", at
    if start[at] in b"\"'":
        end = start.find(start[at : at + 1], at + 1)
        return (name, start[at + 1 : end].lower(), end + 1) if end >= 0 else (b"", b"", length)
    begin = at
    while at < length and start[at] not in b"\t\n\x0c\r >":
        at += 1
    return name, start[begin:at].lower(), at
