"""Existing WARC and ARC files in, PAGES out: a crawl that somebody else has made.

One file, one shard. The file itself is linked (or copied) into the artifact; it is written again only when its records cannot be
reached by an offset: ARC files, zstd files, and archives packed as one piece. A record that cannot be read is quarantined, its neighbors
are read.
Every byte and every record of a file is counted: delivered, skipped (records that are no pages) or quarantined.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard

from data_prep import schemas, shards
from data_prep.corpus import arc, opt_outs, salvage, urls, warc_http, warc_records, zstd_archive
from data_prep.corpus.crawling import heads, validators
from data_prep.corpus.stubs import header_refresh
from data_prep.corpus.warc_records import GZIP, Record, Span
from data_prep.packed import opened
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.log import event
from infra.reuse import link
from infra.stage import Inputs, Stage

SET_ASIDE = pa.schema([("url", pa.string()), ("source", pa.string()), ("reason", pa.string())])
TEXT_TYPES = frozenset({"", "text/html", "application/xhtml+xml", "text/plain"})
PAGE_KINDS = ("response", "resource", "conversion")  # conversion: the plain text of a page, as in WET files
OTHER_KINDS = ("warcinfo", "request", "metadata", "revisit", "continuation")
LARGEST_BODY = 1 << 28  # bytes of a decoded body
AGENT = "textmill"  # directives that name an agent are read for this one


@dataclass(frozen=True)
class WarcConfig:
    """The files, by content; their order is the order of the shards. opt_outs: what pages may say to stay out (opt_outs.py)."""

    sources: tuple[SourceFile, ...]
    opt_outs: tuple[str, ...] = ("noindex", "noai", "tdm")

    def __post_init__(self) -> None:
        """Raises ConfigError when there is nothing to read."""
        if not self.sources:
            raise ConfigError("warc: no file to read; check the path in the recipe")
        opt_outs.check("warc", self.opt_outs)


@dataclass(frozen=True)
class Found:
    """A stretch of an archive: a page's row of PAGES without its file, a record that is no page (skipped), or damage (reason).

    bytes: of the file; of the unpacked content where a file is packed as one piece.
    """

    row: dict[str, Any]
    reason: str = ""
    skipped: str = ""
    bytes: int = 0


def work(config: WarcConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Index every file. Raises ArtifactError when no file holds a page."""
    todo = [n for n in range(len(config.sources)) if not (out / shards.name(n)).exists()]
    compute.map("warc", partial(index_file, config, out), todo)
    each = [shards.counts(out / shards.name(n)) for n in range(len(config.sources))]
    for source, counted in zip(config.sources, each, strict=True):
        if not counted["kept"]:
            event("warning", message=f"warc: {source.name}: no page in {told(counted)}")
    counts = balanced(shards.total(each))
    if not counts["kept"]:
        names = ", ".join(source.name for source in config.sources[:5])
        raise ArtifactError(f"warc: no page in {len(config.sources)} file(s) ({names}): {told(counts)}; name WARC, WET or ARC files")
    return counts


def told(counts: Counts) -> str:
    """A line on what was read instead of pages."""
    parts = [f"{value} {name.partition('.')[2]}" for name, value in counts.items() if name.startswith(("records_skipped.", "set_aside."))]
    return f"{counts['bytes_read']:,} bytes: " + (", ".join(parts) or "no record at all")


def balanced(counts: Counts) -> Counts:
    """The counts, if all bytes and records that were read are delivered, skipped or quarantined. Raises ArtifactError if not."""
    shards.balance("warc", counts)
    skipped = sum(value for name, value in counts.items() if name.startswith("records_skipped."))
    if counts["records_read"] != counts["read"] + skipped:
        raise ArtifactError(f"warc: the ledger does not add up: {counts['records_read']} records, {counts['read']} read, {skipped} skipped")
    parts = sum(counts[f"bytes_{name}"] for name in ("delivered", "skipped", "quarantined"))
    if counts["bytes_read"] != parts:
        raise ArtifactError(f"warc: the ledger does not add up: {counts['bytes_read']} bytes read, {parts} accounted for")
    return counts


def index_file(config: WarcConfig, out: Path, number: int) -> None:
    """Bring one file into the artifact and write the shard of its pages."""
    source = config.sources[number]
    if not Path(source.path).is_file():
        raise ArtifactError(f"{source.path}: the file is gone; put it back or change the recipe")
    path = out / f"warc/{number:05d}-{_safe(source.name)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_arc(source.path):
        path, size, found = _from_arc(config, source, path)
    else:
        path, size, found = _from_warc(config, source, path)
    rows, aside = [], []
    counts: Counter[str] = Counter(read=0, kept=0, records_read=0, bytes_delivered=0, bytes_skipped=0, bytes_quarantined=0)
    for one in found:
        place = f"{source.name}:{one.row.get('warc_offset', 0)}"
        if one.reason:
            aside.append({"url": one.row.get("url", ""), "source": place, "reason": one.reason})
        elif not one.skipped:
            rows.append({**one.row, "warc_file": str(path.relative_to(out)), "source": place})
        _count(counts, one)
    counts["bytes_read"] = size
    bad = out / "set_aside" / shards.name(number)
    shards.write(pa.Table.from_pylist(aside, schema=SET_ASIDE), bad)
    shards.write(pa.Table.from_pylist(rows, schema=schemas.PAGES), out / shards.name(number), balanced(dict(counts)), needs=[bad, path])


def _count(counts: Counter[str], one: Found) -> None:
    kind = "quarantined" if one.reason else "skipped" if one.skipped else "delivered"
    counts[f"bytes_{kind}"] += one.bytes
    if one.skipped == "padding":
        return
    counts["records_read"] += 1
    if one.skipped:
        counts[f"records_skipped.{one.skipped}"] += 1
        return
    counts["read"] += 1
    counts[f"set_aside.{one.reason}" if one.reason else "kept"] += 1
    if not one.reason:
        counts[f"outcome.{one.row['outcome']}"] += 1
        if one.row["outcome"] == "opt_out":
            counts.update(f"opt_out.{name}" for name in opt_outs.named(one.row["reason"]))


def pages_of(path: Path, obeyed: tuple[str, ...] = ()) -> Iterator[Found]:
    """All stretches of a WARC file whose records can be reached by an offset. Raises NotByRecord."""
    with path.open("rb") as file:
        data = warc_records.mapped(file)
        if zstd_archive.is_zstd(data):
            raise warc_records.NotByRecord
        for span in warc_records.spans(data):
            yield found_in(span, span.start, obeyed)


def found_in(span: Span, offset: int, obeyed: tuple[str, ...]) -> Found:
    """What a span holds. offset: where its record will be read from."""
    size = span.end - span.start
    if span.record is None:
        if span.reason == "padding":
            return Found({}, skipped="padding", bytes=size)
        return Found({"warc_offset": offset, "url": span.head.get("warc-target-uri", "")}, span.reason, bytes=size)
    skipped = _skipped(span.record)
    if skipped:
        return Found({"warc_offset": offset}, skipped=skipped, bytes=size)
    row, reason = _page(span.record, obeyed)
    return Found({**row, "warc_offset": offset}, reason, bytes=size)


def _skipped(record: Record) -> str:
    if record.kind not in PAGE_KINDS:
        return record.kind if record.kind in OTHER_KINDS else "other"
    return "" if urls.scheme(record.url) in urls.PORTS else "not_web"


def _page(record: Record, obeyed: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """A row without its place, or a reason. Status, type and size as the record says; decoding the body shows that it is complete."""
    url, fields = record.url, record.fields
    if record.kind == "response":
        parsed = warc_http.message(record.block)
        if parsed is None or parsed[0].status is None:
            return {"url": url}, "no_http_head"
        head, stored = parsed
    else:
        head, stored = heads.Head(200, b"", b"", ((b"Content-Type", fields.get("content-type", "").encode()),)), record.block
    try:
        body = warc_http.payload(head, stored, LARGEST_BODY)
    except warc_http.Broken:
        return {"url": url}, "corrupt_record"
    except warc_http.TooLarge:
        return {"url": url}, "too_large"
    kind, charset = heads.media_type(head.get("Content-Type"))
    outcome, reason = _outcome(head, kind, body, obeyed)
    if outcome in ("ok", "truncated") and fields.get("warc-truncated"):
        outcome, reason = "ok", "truncated"
    return {
        "url": url,
        "final_url": url,
        "host": _host(url),
        "outcome": outcome,
        "status": head.status,
        "reason": reason,
        "fetched_at": fields.get("warc-date", ""),
        "content_type": kind,
        "charset": charset or ("utf-8" if record.kind == "conversion" else ""),
        "bytes": max(len(body.data), record.length if record.length > len(record.block) else 0),
        "karma": None,
        "etag": validators.etag(head.first("ETag")),
        "last_modified": validators.last_modified(head.first("Last-Modified")),
    }, ""


def _outcome(head: heads.Head, kind: str, body: warc_http.Payload, obeyed: tuple[str, ...]) -> tuple[str, str]:
    """One of schemas.OUTCOMES, and its reason."""
    status = head.status or 0
    if status >= 400 or status < 200:
        return "http_error", ""
    if status >= 300 or kind not in TEXT_TYPES:
        return ("redirected" if status >= 300 else "not_text"), ""
    if not body.complete:
        return "truncated", "the body ends before its coding does"
    if header_refresh(head.first("Refresh"), body.data):
        return "meta_refresh", "the Refresh header"
    if not obeyed:
        return "ok", ""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.fields]
    said = opt_outs.stated(headers, body.data, AGENT, is_html=kind != "text/plain")
    refusals = [f"{name}: {said[name]}" for name in obeyed if name in said and name != "nofollow"]
    return ("opt_out", ", ".join(refusals)) if refusals else ("ok", "")


def _from_warc(config: WarcConfig, source: SourceFile, path: Path) -> tuple[Path, int, list[Found]]:
    """The file inside the artifact, its bytes, and what it holds."""
    try:
        found = list(pages_of(Path(source.path), config.opt_outs))
    except warc_records.NotByRecord:
        return _repacked(config, source, path)
    if not path.exists():
        link(Path(source.path), path)
    return path, Path(source.path).stat().st_size, found


def _from_arc(config: WarcConfig, source: SourceFile, path: Path) -> tuple[Path, int, list[Found]]:
    path = path.with_name(_bare(path.name).removesuffix(".arc") + ".warc.gz")

    def write(data: Any, draft: Any) -> Iterator[Found]:
        for record in arc.records(data):
            size, place = record.end - record.start, draft.tell()
            if record.reason == "padding" or record.is_description:
                yield Found({}, skipped=record.reason or "warcinfo", bytes=size)
            elif record.reason:
                yield Found({"url": record.url, "warc_offset": record.start}, record.reason, bytes=size)
            elif urls.scheme(record.url) not in urls.PORTS:
                yield Found({}, skipped="not_web", bytes=size)
            else:
                span = Span(0, size, Record({"warc-type": "response", "warc-target-uri": record.url, **_dated(record)}, record.body, 0))
                found = found_in(span, place, config.opt_outs)
                if not found.reason:
                    draft.write(arc.as_warc(record))
                yield found

    return _rewritten(source, path, write)


def _dated(record: arc.ArcRecord) -> dict[str, str]:
    return {"warc-date": arc.iso_date(record.date)}


def _repacked(config: WarcConfig, source: SourceFile, path: Path) -> tuple[Path, int, list[Found]]:
    """Each record its own gzip member, from an archive packed as one piece, or with zstd."""
    path = path.with_name(_bare(path.name).removesuffix(".warc") + ".warc.gz")

    def write(data: Any, draft: Any) -> Iterator[Found]:
        for span in warc_records.plain_spans(data):
            found = found_in(span, draft.tell(), config.opt_outs)
            if found.row and not found.reason and not found.skipped:
                draft.write(gzip.compress(data[span.start : span.end], mtime=0))
            yield found

    return _rewritten(source, path, write)


def _rewritten(source: SourceFile, path: Path, write: Callable[[Any, Any], Iterator[Found]]) -> tuple[Path, int, list[Found]]:
    """path written by `write`, which gets the unpacked source; what was lost in unpacking it is quarantined."""
    plain = path.with_name(f"{path.name}.{os.getpid()}.plain.part")
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    lost = salvage.Lost()
    try:
        with open(source.path, "rb") as file:
            data = warc_records.mapped(file)
            unpack = salvage.unpacked if data[:3] == GZIP else zstd_archive.unpacked if zstd_archive.is_zstd(data) else None
            if unpack:
                with plain.open("wb") as target:
                    lost = unpack(data, target)
        with open(plain if plain.exists() else source.path, "rb") as file, draft.open("wb") as target:
            data = warc_records.mapped(file)
            found, size = list(write(data, target)), len(data) + lost.bytes
            target.flush()
            os.fsync(target.fileno())
        os.replace(draft, path)
    finally:
        plain.unlink(missing_ok=True)
        draft.unlink(missing_ok=True)
    if lost.damaged:  # the record that the damage cut is found already, or the damage lies between records
        last = next((n for n in reversed(range(len(found))) if found[n].reason), len(found))
        cut = found.pop(last) if last < len(found) else Found({}, "corrupt_record")
        found.insert(last, replace(cut, bytes=cut.bytes + lost.bytes))
    return path, size, found


def _is_arc(path: str) -> bool:
    with contextlib.suppress(OSError, EOFError, zlib.error, zstandard.ZstdError), opened(path) as stream:
        return arc.is_arc(stream.read(16))
    return False


def _host(url: str) -> str:
    canonical = urls.canonical(url, keep_tracking=True)
    return urls.host_of(urls.authority(canonical)) if canonical else ""


def _bare(name: str) -> str:
    return re.sub(r"\.(?:gz|zst|zstd)$", "", name)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


WARC = Stage(name="warc", version=3, work=work)
