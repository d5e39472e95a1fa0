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
_START = re.compile(rb"[^\n]{0,4}?(?:\r?\n){0,8}?(?=(?:HTTP|ICY)\b)", re.IGNORECASE)
_END = re.compile(rb"\n\r?\n")
_CLEAN = re.compile(  # a head that needs no tidying
    rb"HTTP/1\.[01] [1-9]\d\d[ \t-~\x80-\xff]*\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)+\r\n"
)
_FRAMING = re.compile(rb"\n(?:transfer-encoding|content-length):", re.IGNORECASE)


class TolerantHandler(ResponseHandler):
    """Holds a response's head until it is complete, at most `most` bytes of it, then hands it on tidied."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(loop)
        self._most = most
        self._held: bytes | None = None  # of a head; None: a body is being read

    def set_response_params(self, **params: Any) -> None:
        """Called before each request is sent."""
        self._held = b""
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if self._held is None or self._parser is None or not data:
            super().data_received(data)
            return
        held = self._held + data
        while True:
            end = _END.search(held)
            if (end.start() if end else len(held)) > self._most:
                self._too_long()
                return
            if end is None:
                self._held = held
                return
            head, held = held[: end.end()], held[end.end() :]
            if not _is_interim(head):
                break
        self._held = None
        super().data_received(tidied(head) + held)

    def _too_long(self) -> None:
        if self.transport is not None:
            self.transport.close()
        message = f"a response head of more than {self._most} bytes; crawl.max_header_bytes allows more"
        self.set_exception(HttpProcessingError(code=400, message=message))


def _is_interim(head: bytes) -> bool:
    """A 1xx answer, which another follows; 101 is refused with the rest."""
    parsed = parse(head) if b" 1" in head[:16] else None
    return bool(parsed and parsed.status and 100 <= parsed.status < 200)


def tidied(head: bytes) -> bytes:
    """A head with its empty line, such that a strict parser reads what browsers read; as it is where it has no status line.

    Fields without a colon or with a name that is no token are left out, folded lines are joined. A body's length: `chunked` stays and
    wins over Content-Length, equal lengths are one, lengths that are no numbers are none.
    """
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
