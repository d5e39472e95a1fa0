"""WARC 1.1 records (ISO 28500:2017), each its own gzip member, so that a reader may start at any of them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Header = tuple[str, str]
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


def info(date: str, fields: Iterable[Header]) -> bytes:
    """The record a WARC file begins with."""
    return _member("warcinfo", date, _fields(fields), "application/warc-fields")


def page(exchange: Exchange, notes: Iterable[Header]) -> bytes:
    """Response, request and metadata of one page; the response stands first, so its offset is the page's."""
    answer = record_id("response", exchange.url, exchange.date)
    head = _response_head(exchange)
    payload = ("WARC-Payload-Digest", _digest(exchange.body))
    together = ("WARC-Concurrent-To", answer)
    where = [("WARC-Target-URI", exchange.url)]
    ip = [("WARC-IP-Address", exchange.ip)] if exchange.ip else []
    http = "application/http; msgtype="
    return b"".join(
        (
            _member("response", exchange.date, head + exchange.body, http + "response", [*where, *ip, payload]),
            _member("request", exchange.date, exchange.request, http + "request", [*where, together]),
            _member("metadata", exchange.date, _fields(notes), "application/warc-fields", [*where, together]),
        )
    )


def record_id(kind: str, url: str, date: str) -> str:
    """The same for the same fetch, and no other."""
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{kind} {date} {url}')}>"


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
    return gzip.compress(b"WARC/1.1\r\n" + _fields(fields) + b"\r\n" + block + b"\r\n\r\n", 6, mtime=0)


def _fields(fields: Iterable[Header]) -> bytes:
    return b"".join(f"{name}: {' '.join(value.split())}\r\n".encode() for name, value in fields)


def _digest(data: bytes) -> str:
    return "sha1:" + base64.b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
