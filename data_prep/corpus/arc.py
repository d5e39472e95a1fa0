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
from typing import Any

import xxhash

_HEAD = re.compile(
    rb"^([a-z][a-z0-9+.-]{1,15}:\S[^\r\n]{0,65535}?) (\S+) (\d{14})\d* (\S+)((?: \S+)*?) (\S+)\r?$", re.MULTILINE | re.IGNORECASE
)
_LINE_ENDS = re.compile(rb"[\r\n]*")
_CONTENT = re.compile(rb"[^\0\t\n\r ]")


@dataclass(frozen=True)
class ArcRecord:
    """Bytes [start, end) of the unpacked file. body is the complete HTTP answer; where a record could not be read, reason says why.

    reason: "corrupt_record" or "padding" (bytes between records).
    """

    url: str
    date: str
    body: bytes = b""
    reason: str = ""
    start: int = 0
    end: int = 0

    @property
    def is_description(self) -> bool:
        return self.url.lower().startswith("filedesc:")


def is_arc(start: bytes) -> bool:
    """Whether a file that starts so (unpacked) is an ARC file."""
    return start.startswith(b"filedesc:")


def records(data: Any) -> Iterator[ArcRecord]:
    """All records of the unpacked file (bytes or a mmap), without a gap; behind damage reading goes on at the next head."""
    place, size = 0, len(data)
    while place < size:
        found = _HEAD.search(data, place)
        start = found.start() if found else size
        if start > place:
            yield ArcRecord("", "", reason="corrupt_record" if _CONTENT.search(data, place, start) else "padding", start=place, end=start)
        if not found:
            return
        record = _record(data, found)
        yield record
        place = record.end


def _record(data: Any, found: re.Match[bytes]) -> ArcRecord:
    """At a place where a head stands. Its length is wrong when no other head, and not the end, follows the body."""
    url, date, length = found[1].decode("utf-8", "replace").replace(" ", "%20"), found[3].decode(), _number(found[6])
    start = min(found.end() + 1, len(data))
    stop = start + length
    if length >= 0 and stop <= len(data):
        behind = _LINE_ENDS.match(data, stop)
        end = behind.end() if behind else stop
        if end == len(data) or _HEAD.match(data, end):
            return ArcRecord(url, date, data[start:stop], "", found.start(), end)
    following = _HEAD.search(data, start)
    end = following.start() if following else len(data)
    if url.lower().startswith("filedesc:"):  # that record's length is often wrong
        return ArcRecord(url, date, b"", "", found.start(), end)
    if following is None and length > end - start and 2 * (end - start) >= length:  # at the end of a cut file half a page is a page
        return ArcRecord(url, date, data[start:end], "", found.start(), end)
    if following and 0 <= length <= end - start and data[stop : stop + 1] in (b"\n", b"\r"):  # damage behind it, not its own
        return ArcRecord(url, date, data[start:stop], "", found.start(), stop)
    return ArcRecord(url, date, b"", "corrupt_record", found.start(), end)


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 16 else -1


def iso_date(digits: str) -> str:
    """20140102030405 as ISO 8601."""
    d = digits
    return f"{d[:4]}-{d[4:6]}-{d[6:8]}T{d[8:10]}:{d[10:12]}:{d[12:14]}Z"


def as_warc(record: ArcRecord) -> bytes:
    """One gzip member that holds the page as a WARC response record; the same bytes for the same page."""
    body = _with_crlf(record.body)
    name = uuid.UUID(int=xxhash.xxh3_128_intdigest(f"{record.url} {record.date}".encode() + body))
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {record.url}\r\n"
        f"WARC-Date: {iso_date(record.date)}\r\nWARC-Record-ID: <urn:uuid:{name}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0)


def _with_crlf(body: bytes) -> bytes:
    """Some archives kept the HTTP head with bare line feeds, which not all WARC readers take."""
    head, gap, rest = body.partition(b"\n\n")
    return body if not gap or b"\r\n" in head else head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + rest
