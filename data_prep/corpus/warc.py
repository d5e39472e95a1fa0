"""Existing WARC and ARC files in, PAGES out: a crawl that somebody else has made.

One file, one shard. The file itself is linked (or copied) into the artifact; it is written anew only when its records cannot be
reached by an offset: ARC files, and archives packed as one piece. A record that cannot be read is counted and its neighbours stay.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import mmap
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_prep import schemas, shards
from data_prep.corpus import arc, salvage
from data_prep.corpus.crawling import validators
from data_prep.corpus.readers import opened
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.reuse import link
from infra.stage import Inputs, Stage

SET_ASIDE = pa.schema([("url", pa.string()), ("source", pa.string()), ("reason", pa.string())])
TEXT_TYPES = frozenset({"", "text/html", "application/xhtml+xml", "text/plain"})
CHUNK, MUCH = 1 << 20, 1 << 24  # bytes of an archive's start, and of what they may hold
GZIP = b"\x1f\x8b\x08"
_HEAD = re.compile(rb"WARC/1\.[01]\r?\n")


@dataclass(frozen=True)
class WarcConfig:
    """The files, by content; their order is the order of the shards."""

    sources: tuple[SourceFile, ...]

    def __post_init__(self) -> None:
        """Raises ConfigError when there is nothing to read."""
        if not self.sources:
            raise ConfigError("warc: no file to read; check the path in the recipe")


@dataclass(frozen=True)
class Found:
    """A page's row of PAGES without its file, or (reason) a place where no record could be read."""

    row: dict[str, Any]
    reason: str = ""


def work(config: WarcConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Index every file."""
    todo = [n for n in range(len(config.sources)) if not (out / shards.name(n)).exists()]
    compute.map("warc", partial(index_file, config, out), todo)
    return shards.balance("warc", shards.total(shards.counts(out / shards.name(n)) for n in range(len(config.sources))))


def index_file(config: WarcConfig, out: Path, number: int) -> None:
    """Bring one file into the artifact and write the shard of its pages."""
    source = config.sources[number]
    name = f"warc/{number:05d}-{_safe(source.name)}"
    path, aside = _bring(source, out / name)
    rows: list[dict[str, Any]] = []
    for found in pages_of(path):
        place = f"{source.name}:{found.row.get('warc_offset', 0)}"
        if found.reason:
            aside.append({"url": found.row.get("url", ""), "source": place, "reason": found.reason})
        else:
            rows.append({**found.row, "warc_file": str(path.relative_to(out)), "source": place})
    counts = {"read": len(rows) + len(aside), "kept": len(rows)}
    reasons = [bad["reason"] for bad in aside]
    counts |= {f"set_aside.{reason}": reasons.count(reason) for reason in sorted(set(reasons))}
    bad = out / "set_aside" / shards.name(number)
    shards.write(pa.Table.from_pylist(aside, schema=SET_ASIDE), bad)
    counts = shards.balance("warc", counts)
    shards.write(pa.Table.from_pylist(rows, schema=schemas.PAGES), out / shards.name(number), counts, needs=[bad, path])


def pages_of(path: Path) -> Iterator[Found]:
    """Every page of a WARC file whose records can be reached by offset."""
    told = -1  # the offset of a record already found corrupt
    for offset, record in _records(path):
        if record is None:
            if offset != told:
                yield Found({"warc_offset": offset}, "corrupt_record")
        elif record.record_type in (WarcRecordType.response, WarcRecordType.resource):
            url = (record.headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
            if url.startswith(("http://", "https://")):
                found = _page(url, offset, record)
                told = offset if found.reason == "corrupt_record" else told
                yield found


def _page(url: str, offset: int, record: Any) -> Found:
    """status, type and size as the record says; reading the body is the test that it is whole."""
    is_answer = record.record_type == WarcRecordType.response
    head = record.http_headers
    if is_answer and head is None:
        return Found({"url": url, "warc_offset": offset}, "no_http_head")
    try:
        size = _drain(record.reader)
    except (OSError, ValueError):
        return Found({"url": url, "warc_offset": offset}, "corrupt_record")
    status = head.status_code if is_answer else 200
    kind = (record.http_content_type if is_answer else record.headers.get("Content-Type")) or ""
    return Found(
        {
            "url": url,
            "final_url": url,
            "host": _host(url),
            "outcome": _outcome(status, kind),
            "status": status,
            "reason": "truncated" if record.headers.get("WARC-Truncated") else "",
            "fetched_at": record.headers.get("WARC-Date") or "",
            "content_type": kind.split(";")[0].strip().lower(),
            "charset": (record.http_charset if is_answer else "") or "",
            "bytes": size,
            "warc_offset": offset,
            "karma": None,
            "etag": validators.etag((head.get("ETag") if is_answer else "") or ""),
            "last_modified": validators.last_modified((head.get("Last-Modified") if is_answer else "") or ""),
        }
    )


def _outcome(status: int | None, kind: str) -> str:
    if status is None or status >= 400 or status < 200:
        return "http_error"
    if 300 <= status < 400:
        return "redirected"
    return "ok" if kind.split(";", maxsplit=1)[0].strip().lower() in TEXT_TYPES else "not_text"


def _records(path: Path, *, parse_http: bool = True) -> Iterator[tuple[int, Any]]:
    """(offset, record), or (offset, None) where none could be read; then on at the next thing that looks like one."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            packed, place = _is_packed(data), 0
            told = False  # of a stretch that cannot be read: once, however many tries it takes to leave it
            while place >= 0:
                last, any_read = place, False
                try:
                    file.seek(place)
                    for record in ArchiveIterator(file, auto_decode="all" if parse_http else "none", parse_http=parse_http):
                        last, told = record.stream_pos, False
                        any_read = file.tell() < len(data) or _is_whole(data, last, record.content_length, packed=packed)
                        if not any_read:
                            break
                        yield last, record
                    if any_read:
                        return
                except (OSError, ValueError):
                    pass
                if not told:
                    yield last, None
                told, place = True, _next_head(data, last + 1, packed=packed)


def _is_packed(data: mmap.mmap) -> bool:
    """By its start, unless that is damaged: then by what comes first."""
    if data[:3] == GZIP or data[:5] == b"WARC/":
        return data[:3] == GZIP
    member, head = data.find(GZIP), _HEAD.search(data)
    return member >= 0 and (head is None or member < head.start())


def _is_whole(data: mmap.mmap, offset: int, length: int, *, packed: bool) -> bool:
    """Whether the file goes on to the record's end: the reader is content with less."""
    if not packed:
        return data.find(b"\r\n\r\n", offset) + 4 + length <= len(data)
    inflate = zlib.decompressobj(31)
    try:
        for place in range(offset, len(data), CHUNK):
            rest = data[place : place + CHUNK]
            while rest and not inflate.eof:
                inflate.decompress(rest, MUCH)
                rest = inflate.unconsumed_tail
    except zlib.error:
        return False
    return inflate.eof


def _next_head(data: mmap.mmap, start: int, *, packed: bool) -> int:
    if packed:
        return data.find(GZIP, start)
    found = _HEAD.search(data, start)
    return found.start() if found else -1


def _bring(source: SourceFile, path: Path) -> tuple[Path, list[dict[str, str]]]:
    """The file inside the artifact, reachable by offset, and what was lost in writing it anew."""
    if not Path(source.path).is_file():
        raise ArtifactError(f"{source.path}: the file is gone; put it back or change the recipe")
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_arc(source.path):
        return _from_arc(source, path)
    if _reachable(Path(source.path)):
        if not path.exists():
            link(Path(source.path), path)
        return path, []
    return _repacked(source, path)


def _is_arc(path: str) -> bool:
    with contextlib.suppress(OSError, EOFError, zlib.error), opened(path) as stream:
        return arc.is_arc(stream.read(16))
    return False


def _from_arc(source: SourceFile, path: Path) -> tuple[Path, list[dict[str, str]]]:
    aside = []
    path = path.with_name(path.name.removesuffix(".gz").removesuffix(".arc") + ".warc.gz")
    with _plain(Path(source.path), path) as (plain, whole), _drafted(path) as draft:
        if not whole:
            aside.append({"url": "", "source": source.name, "reason": "corrupt_record"})
        for record in arc.records(plain.read_bytes()):
            if record.reason:
                aside.append({"url": record.url, "source": source.name, "reason": record.reason})
            elif record.url.startswith(("http://", "https://")):
                draft.write(arc.as_warc(record))
    return path, aside


def _reachable(path: Path) -> bool:
    """Whether each record has a place of its own: packed one by one, or not packed at all."""
    places = []
    with path.open("rb") as file:
        with contextlib.suppress(OSError, ValueError):
            places = [record.stream_pos for record in ArchiveIterator(file, parse_http=False)]
        if places and places[-1] == path.stat().st_size:  # what is found behind a cut member is nothing
            places.pop()
        if len(places) > 1:
            return len(set(places)) == len(places)
        file.seek(0)
        start = file.read(CHUNK)
    return start[:3] != GZIP or len(_HEAD.findall(salvage.beginning(start, MUCH))) < 2  # or one piece that is damaged further on


def _repacked(source: SourceFile, path: Path) -> tuple[Path, list[dict[str, str]]]:
    """Each record its own member, from an archive packed as one piece; what its damage took is told once."""
    aside = []
    path = path.with_name(path.name.removesuffix(".gz").removesuffix(".warc") + ".warc.gz")
    with _plain(Path(source.path), path) as (plain, whole), _drafted(path) as draft:
        lost = not whole
        for _, record in _records(plain, parse_http=False):
            block = io.BytesIO()
            if record is not None:
                record.write(block)
            if record is None or len(block.getvalue().partition(b"\r\n\r\n")[2]) < record.content_length:
                lost = True
            elif record.record_type in (WarcRecordType.response, WarcRecordType.resource):
                draft.write(gzip.compress(block.getvalue(), mtime=0))
    if lost:
        aside.append({"url": "", "source": source.name, "reason": "corrupt_record"})
    return path, aside


@contextlib.contextmanager
def _plain(source: Path, beside: Path) -> Iterator[tuple[Path, bool]]:
    """The source unpacked, as far as it can be, and whether that is all of it."""
    with source.open("rb") as file:
        if file.read(3) != GZIP:
            yield source, True
            return
    plain = beside.with_name(f"{beside.name}.{os.getpid()}.plain.part")
    try:
        yield plain, salvage.unpacked(source, plain)
    finally:
        plain.unlink(missing_ok=True)


@contextlib.contextmanager
def _drafted(path: Path) -> Iterator[Any]:
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _drain(reader: Any) -> int:
    size = 0
    while block := reader.read(1 << 20):
        size += len(block)
    return size


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


WARC = Stage(name="warc", version=2, work=work)
