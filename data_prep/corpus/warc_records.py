"""WARC records by their place in a file (ISO 28500:2017, section 5): every byte belongs to a record, to damage, or to padding.

A record that cannot be read costs itself alone: reading goes on at the next record's head, in a packed file at the next gzip member.
"""

from __future__ import annotations

import mmap
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from isal import isal_zlib
from isal.igzip_lib import IsalError

from data_prep.corpus import salvage

GZIP = b"\x1f\x8b\x08"
RESERVED = 0xE0  # flags of a member that must be 0 (RFC 1952, section 2.3.1.2)
VERSION = re.compile(rb"WARC/[0-9]\.[0-9]{1,2}[ \t]*\r?\n")
CHUNK, STEP = 1 << 16, 1 << 20  # bytes given to a decompressor, and asked of it, at a time
SMALL = 1 << 13  # bytes of a member given first: most are smaller, and what lies behind them is copied
FIRST = 1 << 18  # bytes of a damaged member in which a second record is looked for
LONGEST_HEAD = 1 << 18
NEAR = 32  # bytes behind a record's end in which the next head is taken for one wherever it stands
LONGEST_BLOCK = 1 << 27  # bytes of a block held in memory; of a longer record only the head and the length are known
LARGEST_MEMBER = 1 << 34  # bytes that one member may unpack to
RETRIES = 8  # times the file's size that may be read and unpacked in damaged members before whole members are skipped
_HEAD = re.compile(rb"(?<![^\n])WARC/[0-9]\.[0-9]{1,2}[ \t]*\r?\n")  # at the start of a line
_HEAD_END = re.compile(rb"\r?\n\r?\n|\n(?=WARC/[0-9]\.[0-9])")
_BEHIND = re.compile(rb"(?:\r?\n)*")  # two line ends by the standard; writers leave more, or none
_FOLD = re.compile(rb"\r?\n[ \t]+")
_CONTENT = re.compile(rb"[^\0\t\n\r ]")  # what is not padding


@dataclass(frozen=True)
class Record:
    """A record's named fields (in lower case) and its block. length: of the block, which is cut at LONGEST_BLOCK."""

    fields: Mapping[str, str]
    block: bytes
    length: int

    @property
    def kind(self) -> str:
        return self.fields.get("warc-type", "").lower()

    @property
    def url(self) -> str:
        return self.fields.get("warc-target-uri", "").removeprefix("<").removesuffix(">").strip()


@dataclass(frozen=True)
class Span:
    """Bytes [start, end) of a file: a record, or the reason ("corrupt_record", "padding") why there is none."""

    start: int
    end: int
    record: Record | None = None
    reason: str = ""
    head: Mapping[str, str] = field(default_factory=dict)  # of a damaged record, where its head can be read


@dataclass
class Effort:
    """Bytes read and unpacked in members that turned out damaged.

    Members may be nested (each in a stored block of the one before) with a wrong checksum at the end: searching each for the next
    one reads the rest of the file again and again, in quadratic time. Beyond the limit the search resumes where reading stopped.
    """

    limit: int
    spent: int = 0

    def resume_at(self, start: int, reached: int, unpacked: int) -> int:
        """Where to search for the next member after damage in [start, reached)."""
        self.spent += reached - start + unpacked
        return start + 1 if self.spent <= self.limit else max(start + 1, reached - CHUNK)


class NotByRecord(Exception):
    """A gzip member holds more than one record, or a part of one: records cannot be reached by an offset."""


def spans(data: Any) -> Iterator[Span]:
    """All spans of a file (bytes or a mmap), without a gap. Raises NotByRecord."""
    yield from packed_spans(data) if is_packed(data) else plain_spans(data)


def is_packed(data: Any) -> bool:
    """By its start, unless that is damaged: then by what comes first."""
    if data[:3] == GZIP or data[:5] == b"WARC/":
        return bool(data[:3] == GZIP)
    member, head = data.find(GZIP), _HEAD.search(data)
    return member >= 0 and (head is None or member < head.start())


def gap(data: Any, start: int, end: int) -> Span:
    """Bytes between records."""
    return Span(start, end, reason="corrupt_record" if _CONTENT.search(data, start, end) else "padding")


def plain_spans(data: Any) -> Iterator[Span]:
    """The spans of a file that is not packed."""
    place, size = 0, len(data)
    while place < size:
        found = VERSION.search(data, place, place + NEAR) or _HEAD.search(data, place)
        start = found.start() if found else size
        if start > place:
            yield gap(data, place, start)
        if not found:
            return
        span = _plain_record(data, start, found.end())
        yield span
        place = span.end


def _plain_record(data: Any, start: int, fields: int) -> Span:
    head, block = _fields(data, fields)
    length = _length(head)
    stop = block + length
    if length >= 0 and stop <= len(data):
        behind = _BEHIND.match(data, stop)
        end = behind.end() if behind else stop
        if end == len(data) or VERSION.match(data, end) or data[stop : stop + 4] == b"\r\n\r\n" or data[stop : stop + 2] == b"\n\n":
            return Span(start, end, Record(head, data[block : min(stop, block + LONGEST_BLOCK)], length))
    if length >= 0 and VERSION.search(data, stop, stop + NEAR):  # its line ends are damaged, or its length is wrong by a few bytes
        return Span(start, stop, Record(head, data[block : min(stop, block + LONGEST_BLOCK)], length))
    following = _HEAD.search(data, block)
    return Span(start, following.start() if following else len(data), reason="corrupt_record", head=head)


def packed_spans(data: Any) -> Iterator[Span]:
    """The spans of a file of gzip members, a record each."""
    place, size, any_read = 0, len(data), False
    effort = Effort(LONGEST_BLOCK + RETRIES * size)
    while place < size:
        start = place if data[place : place + 3] == GZIP else _next_member(data, place)
        if start > place:
            yield gap(data, place, start)
        if start < size:
            span = _member(data, start, effort, first=not any_read)
            yield span
            any_read = any_read or span.record is not None
            start = span.end
        place = start


def _next_member(data: Any, start: int) -> int:
    """Where the next member that holds a record begins, or the end: three bytes alone also occur within compressed data."""
    place = data.find(GZIP, start)
    while place >= 0:
        if VERSION.match(_beginning(data, place)):
            return int(place)
        place = data.find(GZIP, place + 1)
    return len(data)


def _beginning(data: Any, place: int) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data[place : place + 512], 64)
    except zlib.error:
        return b""


def _member(data: Any, start: int, effort: Effort, *, first: bool) -> Span:
    """The record of one member. first: nothing was read before it, so its member may be a piece of a file that is packed in pieces."""
    if found := _whole_member(data, start, effort):
        return _unpacked(found[0], len(found[0]), Span(start, found[1]), whole=True, first=first)
    inflate, place, total, plain = zlib.decompressobj(31), start, 0, bytearray()
    whole = False
    try:
        while not inflate.eof and place < len(data):
            chunk = data[place : place + (CHUNK if total else SMALL)]
            place += len(chunk)
            while chunk and not inflate.eof:
                made = inflate.decompress(chunk, STEP)
                total += len(made)
                plain += made[: max(0, LONGEST_BLOCK + LONGEST_HEAD - len(plain))]
                chunk = inflate.unconsumed_tail
            if total > LARGEST_MEMBER:
                break
        whole = inflate.eof
    except zlib.error:
        pass
    if whole:
        span = Span(start, place - len(inflate.unused_data))
    else:
        span = Span(start, _next_member(data, effort.resume_at(start, place, total)))
        plain = plain or bytearray(salvage.beginning(data[start : start + FIRST], STEP))  # the error took what the last call had made
    return _unpacked(bytes(plain), max(total, len(plain)), span, whole=whole, first=first)


def _whole_member(data: Any, start: int, effort: Effort) -> tuple[bytes, int] | None:
    """What an undamaged member of usual size holds, and its end: igzip takes half of zlib's time. None for any other."""
    if effort.spent > effort.limit or (start + 3 < len(data) and data[start + 3] & RESERVED):  # igzip does not look at these
        return None
    inflate, place, total = isal_zlib.decompressobj(31), start, 0
    parts: list[bytes] = []
    try:
        while not inflate.eof:
            chunk = data[place : place + min(SMALL << len(parts), CHUNK)]
            place += len(chunk)
            parts.append(inflate.decompress(chunk, LONGEST_BLOCK))
            total += len(parts[-1])
            if not chunk or inflate.unconsumed_tail or total > LONGEST_BLOCK:
                break
    except IsalError:  # type: ignore[misc]  # its stub says that the class is an instance
        pass
    if inflate.eof:
        return b"".join(parts), place - len(inflate.unused_data)
    effort.spent += place - start + total
    return None


def _unpacked(plain: bytes, total: int, span: Span, *, whole: bool, first: bool) -> Span:
    version = VERSION.match(plain)
    head, block = _fields(plain, version.end()) if version else ({}, 0)
    length = _length(head)
    stop = block + length
    is_there = version is not None and length >= 0 and total >= stop
    if is_there and stop < len(plain) and _HEAD.search(plain, stop):
        raise NotByRecord
    if is_there and whole and (total - stop < 8 or plain[stop : stop + 4] == b"\r\n\r\n"):
        return Span(span.start, span.end, Record(head, plain[block : min(stop, block + LONGEST_BLOCK)], length))
    if version and whole and first and not is_there and (length >= 0 or not head):
        raise NotByRecord
    padding = whole and not _CONTENT.search(plain)
    return Span(span.start, span.end, reason="padding" if padding else "corrupt_record", head=head)


def _fields(data: Any, start: int) -> tuple[dict[str, str], int]:
    """The named fields from start on, the first of a name, and where the block begins. {} when the head does not end."""
    if data[start : start + 2] == b"\r\n" or data[start : start + 1] == b"\n":
        return {}, start
    end = _HEAD_END.search(data, start, min(len(data), start + LONGEST_HEAD))
    if not end or end[0] == b"\n":  # the next record begins before this head ends
        return {}, start
    found: dict[str, str] = {}
    for line in _FOLD.sub(b" ", data[start : end.start()]).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip().decode("latin-1").lower(), value.strip().decode("utf-8", "replace"))
    return found, end.end()


def _length(fields: Mapping[str, str]) -> int:
    """Of the block; -1 where the head does not state one, or states no type."""
    text = fields.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 and "warc-type" in fields else -1


def mapped(file: Any) -> Any:
    """The file's bytes, read as they are needed; a file may be empty, which mmap is not."""
    file.seek(0, 2)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def record_at(data: Any, place: int) -> Record:
    """The record that begins at an offset. Raises ValueError where none does."""
    try:
        span = _member(data, place, Effort(LARGEST_MEMBER), first=False) if data[place : place + 3] == GZIP else _at_plain(data, place)
    except NotByRecord as error:
        raise ValueError(f"no record of its own at {place}") from error
    if span.record is None:
        raise ValueError(f"no record at {place}")
    return span.record


def _at_plain(data: Any, place: int) -> Span:
    found = VERSION.match(data, place)
    return _plain_record(data, place, found.end()) if found else Span(place, place)
