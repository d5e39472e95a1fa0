"""A connection whose response heads are read as browsers read them: tidied before aiohttp's parser, which is strict, sees them."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from data_prep.corpus.crawling.heads import Field, parse

SLOP = 4  # bytes before the status line that Chromium forgives
LONGEST_LINE = 1 << 14
CHUNKED = b"\r\nTransfer-Encoding: chunked\r\n"
SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*")
_START = re.compile(rb"[^\n]{0,4}?(?:\r?\n){0,8}?(?=(?:HTTP|ICY)\b)", re.IGNORECASE)
_END = re.compile(rb"\n\r?\n")
_CLEAN = re.compile(  # a head that needs no tidying
    rb"HTTP/1\.[01] [1-9]\d\d[\t -~\x80-\xff]*\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
_FRAMING = re.compile(rb"\n(?:transfer-encoding|content-length):", re.IGNORECASE)


class TolerantHandler(ResponseHandler):
    """Holds a response's head until it is complete, at most `most` bytes of it, then hands it on tidied."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(loop)
        self._most = most
        self._held: bytes | None = None  # of a head; None: a body is being read
        self._chunks: Chunks | None = None

    def set_response_params(self, **params: Any) -> None:
        """Called before each request is sent."""
        self._held, self._chunks = b"", None
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._held is None or self._parser is None or not data:
            super().data_received(self._chunks.feed(data) if self._chunks else data)
            return
        held, start = self._held + data, 0
        while True:
            end = _END.search(held, start)
            if (end.start() if end else len(held)) - start > self._most:
                self._too_long()
                return
            if end is None:
                self._held = held[start:]
                return
            head = held[start : end.end()]
            if not _is_interim(head):
                break
            start = end.end()
        self._held, clean = None, tidied(head)
        if CHUNKED in clean:
            self._chunks = Chunks()
            super().data_received(clean + self._chunks.feed(held[end.end() :]))
        elif clean is head and not start:
            super().data_received(held)  # most: nothing is copied
        else:
            super().data_received(clean + held[end.end() :])

    def _too_long(self) -> None:
        if self.transport is not None:
            self.transport.close()
        message = f"a response head of more than {self._most} bytes; crawl.max_header_bytes allows more"
        self.set_exception(HttpProcessingError(code=400, message=message))


class Chunks:
    """A chunked body as it comes, rewritten with plain chunk lines: extensions, spaces, bare line feeds and trailers go.

    Where a chunk line is no such line the rest passes as it is, and the parser refuses it.
    """

    def __init__(self) -> None:
        self.line = b""  # of a chunk line, or of the line end behind a chunk
        self.left = 0  # bytes of a chunk still to come
        self.state = "size"

    def feed(self, data: bytes) -> bytes:
        """The rewritten bytes, as far as they are known."""
        out = []
        while data:
            if self.state == "over":
                out.append(data)
                break
            if self.left:
                out.append(data[: self.left])
                taken = min(self.left, len(data))
                self.left, data = self.left - taken, data[taken:]
                continue
            line, feed, data = data.partition(b"\n")
            self.line += line + feed
            if feed or len(self.line) > LONGEST_LINE:
                out.append(self._on_line(self.line))
                self.line = b""
        return b"".join(out)

    def _on_line(self, line: bytes) -> bytes:
        text = line.rstrip(b"\r\n")
        if self.state == "end" and not text:  # behind a chunk
            self.state = "size"
            return b"\r\n"
        if self.state == "trailer":
            self.state = "trailer" if text else "over"
            return b"" if text else b"\r\n"
        size = SIZE.fullmatch(text.partition(b";")[0]) if self.state == "size" else None
        if size is None:
            self.state = "over"
            return line
        self.left = int(size[1], 16)
        self.state = "end" if self.left else "trailer"
        return b"%x\r\n" % self.left


def _is_interim(head: bytes) -> bool:
    """A 1xx answer, which another follows; 101 is refused with the rest."""
    parsed = parse(head) if b" 1" in head[:16] else None
    return bool(parsed and parsed.status and 100 <= parsed.status < 200)


def tidied(head: bytes) -> bytes:
    """A head with its empty line, such that a strict parser reads what browsers read; as it is where it has no status line.

    Fields without a colon or with a name that is no token are left out, folded lines are joined. A body's length: `chunked` stays and
    wins over Content-Length, equal lengths are one, lengths that are no numbers are none.
    """
    if b"\0" in head:  # browsers refuse it, and so does the parser
        return head
    if _CLEAN.fullmatch(head) and len(_FRAMING.findall(head)) < 2 and b"\ntransfer-encoding" not in head.lower():
        return head
    start = _START.match(head)
    parsed = parse(head[start.end() if start else 0 :])
    if parsed.status is None:
        return head
    lines = [b"HTTP/1.%s %d %s" % (b"0" if parsed.version == b"1.0" else b"1", parsed.status, parsed.reason)]
    lines += [name + b": " + value for name, value in _framed(parsed.fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _framed(fields: tuple[Field, ...]) -> list[Field]:
    codings = [part.strip().lower() for name, value in fields if name.lower() == b"transfer-encoding" for part in value.split(b",")]
    lengths = {part.strip() for name, value in fields if name.lower() == b"content-length" for part in value.split(b",")}
    kept = [field for field in fields if field[0].lower() not in (b"transfer-encoding", b"content-length")]
    numbers = {length.lstrip(b"0") or b"0" for length in lengths if length.isdigit()}
    if b"chunked" in codings:
        return [*kept, (b"Transfer-Encoding", b"chunked")]
    return [*kept, *((b"Content-Length", number) for number in sorted(numbers))]  # two that differ: the parser refuses them, as browsers do


def connector(limit: int, resolver: aiohttp.abc.AbstractResolver, most: int) -> aiohttp.TCPConnector:
    """Connections that read heads of up to `most` bytes."""
    made = aiohttp.TCPConnector(limit=limit, resolver=resolver, use_dns_cache=False)
    made._factory = cast(Any, partial)(TolerantHandler, asyncio.get_running_loop(), most)
    return made
