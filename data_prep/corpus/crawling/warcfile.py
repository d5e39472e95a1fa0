"""WARC 1.1 records (ISO 28500:2017), each its own gzip member, so that a reader may start at any of them."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from isal import igzip

Header = tuple[str, str]
LEVEL = 3  # igzip's best: within a tenth of zlib's level 6 in size, in a fifth of its time
NOT_MODIFIED = "http://netpreserve.org/warc/1.1/revisit/server-not-modified"  # WARC 1.1, section 6.7.3
NAMESPACE = uuid.NAMESPACE_URL.bytes
BASE32 = [a + b for a, b in itertools.product("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", repeat=2)]  # two digits of base 32 at a time
HELD_BACK = frozenset(("content-encoding", "transfer-encoding", "content-length"))


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, the body unpacked."""

    url: str
    date: str  # ISO 8601, UTC
    ip: str
    request: bytes
    status_line: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @cached_property
    def digest(self) -> str:
        """Of the body, as WARC writes it."""
        return _digest(self.body)


def info(date: str, fields: Iterable[Header]) -> bytes:
    """The record a WARC file begins with."""
    return _member("warcinfo", date, _fields(fields), "application/warc-fields")


def page(exchange: Exchange, notes: Iterable[Header]) -> bytes:
    """Response, request and metadata of one page; the response stands first, so its offset is the page's."""
    said = [("WARC-Payload-Digest", exchange.digest)]
    return _records("response", exchange, _response_head(exchange) + exchange.body, said, notes)


def revisit(exchange: Exchange, notes: Iterable[Header], date: str, digest: str) -> bytes:
    """The same for a page that has not changed since it was fetched at that date with that digest; nothing but its head came."""
    said = [
        ("WARC-Profile", NOT_MODIFIED),
        ("WARC-Refers-To", record_id("response", exchange.url, date)),
        ("WARC-Refers-To-Target-URI", exchange.url),
        ("WARC-Refers-To-Date", date),
        *([("WARC-Payload-Digest", digest)] if digest else []),
    ]
    return _records("revisit", exchange, _response_head(exchange), said, notes)


def _records(kind: str, exchange: Exchange, block: bytes, said: Sequence[Header], notes: Iterable[Header]) -> bytes:
    together = ("WARC-Concurrent-To", record_id(kind, exchange.url, exchange.date))
    where = ("WARC-Target-URI", exchange.url)
    ip = [("WARC-IP-Address", exchange.ip)] if exchange.ip else []
    http = "application/http; msgtype="
    return b"".join(
        (
            _member(kind, exchange.date, block, http + "response", [where, *ip, *said]),
            _member("request", exchange.date, exchange.request, http + "request", [where, together]),
            _member("metadata", exchange.date, _fields(notes), "application/warc-fields", [where, together]),
        )
    )


def record_id(kind: str, url: str, date: str) -> str:
    """The same for the same fetch, and no other."""
    name = bytearray(hashlib.sha1(NAMESPACE + f"{kind} {date} {url}".encode(), usedforsecurity=False).digest()[:16])
    name[6], name[8] = name[6] & 0x0F | 0x50, name[8] & 0x3F | 0x80  # uuid.uuid5 does just this, in five times the time
    text = name.hex()
    return f"<urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}>"


def _response_head(exchange: Exchange) -> bytes:
    """The head as it came, but true of the unpacked body: what was true on the wire moves to X-Crawl-* (as Common Crawl does)."""
    lines = [exchange.status_line.encode("latin-1", "replace")]
    for name, value in exchange.headers:
        moved = b"X-Crawl-" if name.decode("latin-1").lower() in HELD_BACK else b""
        lines.append(moved + name + b": " + value)
    lines.append(f"Content-Length: {len(exchange.body)}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _member(kind: str, date: str, block: bytes, content_type: str, extra: Sequence[Header] = ()) -> bytes:
    fields = [
        ("WARC-Type", kind),
        ("WARC-Record-ID", record_id(kind, extra[0][1] if extra else "", date)),
        ("WARC-Date", date),
        *extra,
        ("WARC-Block-Digest", _digest(block)),
        ("Content-Type", content_type),
        ("Content-Length", str(len(block))),
    ]
    return bytes(igzip.compress(b"".join((b"WARC/1.1\r\n", _fields(fields), b"\r\n", block, b"\r\n\r\n")), LEVEL, mtime=0))


def _fields(fields: Iterable[Header]) -> bytes:
    return "".join([f"{name}: {value if value.isprintable() else ' '.join(value.split())}\r\n" for name, value in fields]).encode()


def _digest(data: bytes) -> str:
    number = int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest())
    return "sha1:" + "".join([BASE32[number >> place & 1023] for place in range(150, -1, -10)])
