"""The HTTP answer inside an archive's record: its head, and its body with the codings undone that are really there.

Archivers often store a body dechunked or decoded and leave the head as it came (warcio and pywb hand such bodies on as they are), so
each coding is undone only where the body begins as one in that coding does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from data_prep.corpus.crawling.body import Body, Bomb, Undecodable
from data_prep.corpus.crawling.heads import END, STATUS, Head, parse

_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]{0,8192})?\r?\n")  # extensions are ignored (RFC 9112, section 7.1.1)
_LINE_END = re.compile(rb"\r?\n")
PIECE = 1 << 20


class TooLarge(Exception):
    """A decoded body of more bytes than allowed."""


class Broken(Exception):
    """A body that is not in the coding it begins as."""


@dataclass(frozen=True)
class Payload:
    """complete: False when the body ends before its coding says that it does."""

    data: bytes
    complete: bool = True


def message(block: bytes) -> tuple[Head, bytes] | None:
    """The head and the body as it is stored; None where the block does not begin with an HTTP status line."""
    start = len(block) - len(block.lstrip(b"\r\n")) if block[:1] in (b"\r", b"\n") else 0
    if not STATUS.match(block, start):
        return None
    end = END.search(block, start)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block, b"")
    return parse(head), body


def payload(head: Head, body: bytes, limit: int) -> Payload:
    """The decoded body. Raises TooLarge beyond limit bytes, Broken where a coding breaks off in an error."""
    complete = True
    if "chunked" in head.get("Transfer-Encoding").lower():
        body, complete = dechunked(body)
    encoding = head.get("Content-Encoding")
    if not encoding and len(body) <= limit:
        return Payload(body, complete)
    try:
        decoder = Body(encoding, len(body), limit, lenient=True)
        for start in range(0, len(body), PIECE):
            decoder.feed(body[start : start + PIECE])
    except Bomb as error:
        raise TooLarge(str(error)) from error
    except Undecodable as error:
        raise Broken(str(error)) from error
    return Payload(decoder.data, complete and decoder.whole)


def dechunked(body: bytes) -> tuple[bytes, bool]:
    """The body without its chunk lines, and whether its last chunk is there. A body that is not chunked comes back as it is."""
    parts: list[bytes] = []
    place = 0
    while found := _CHUNK.match(body, place):
        size, start = int(found[1], 16), found.end()
        if not size:
            return b"".join(parts), True
        stop = start + size
        end = _LINE_END.match(body, stop)
        if not end and stop < len(body) and body[stop:] != b"\r":
            break
        parts.append(body[start:stop])
        place = end.end() if end else len(body)
    return (b"".join(parts), False) if parts else (body, True)
