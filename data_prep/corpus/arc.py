"""The records of an ARC file, the Internet Archive's format before WARC, as WARC records.

"Arc File Format" (Burner and Kahle 1996): a line `URL address date type length`, then so many bytes; version 2 has more fields
in the middle. The first record describes the file and is not a page.
"""

from __future__ import annotations

import gzip
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

_HEAD = re.compile(rb"^([a-z]{3,10}:\S[^\r\n]*?) (\S+) (\d{14})\d* (\S+)((?: \S+)*?) (\S+)\r?$", re.MULTILINE)


@dataclass(frozen=True)
class ArcRecord:
    """body is the whole HTTP answer; reason says why a record could not be read, then there is no body."""

    url: str
    date: str
    body: bytes = b""
    reason: str = ""


def is_arc(start: bytes) -> bool:
    """Whether a file that starts so (unpacked) is an ARC file."""
    return start.startswith(b"filedesc:")


def records(data: bytes) -> Iterator[ArcRecord]:
    """Every page of the unpacked file; reading goes on at the next line that looks like a record's head."""
    place = 0
    while found := _HEAD.search(data, place):
        url, date, length = found[1].decode("utf-8", "replace").replace(" ", "%20"), found[3].decode(), _number(found[6])
        start = found.end() + 1
        bad = length < 0 or length > 2 * (len(data) - start)  # at the end of a cut file half a page is a page
        place = start if bad or url.startswith("filedesc:") else start + length  # that record's length is often wrong
        if not url.startswith("filedesc:"):
            yield ArcRecord(url, date, reason="corrupt_record") if bad else ArcRecord(url, date, data[start : start + length])


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 16 else -1


def as_warc(record: ArcRecord) -> bytes:
    """One gzip member that holds the page as a WARC response record; the same bytes for the same page."""
    d, body = record.date, _with_crlf(record.body)
    name = uuid.UUID(int=xxhash.xxh3_128_intdigest(f"{record.url} {d}".encode() + body))
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {record.url}\r\n"
        f"WARC-Date: {d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}Z\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0)


def _with_crlf(body: bytes) -> bytes:
    """Some archives kept the HTTP head with bare line feeds, which WARC readers do not take."""
    head, gap, rest = body.partition(b"\n\n")
    return body if not gap or b"\r\n" in head else head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + rest
