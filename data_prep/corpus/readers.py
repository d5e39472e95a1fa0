"""Rows of files that hold documents: JSON lines, JSON arrays, Parquet, plain text, MediaWiki exports; each may be compressed.

What cannot be read comes as a row with its reason, never as an exception.
"""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.corpus import charset, dumps, json_values, mediawiki
from data_prep.packed import PACKINGS, opened
from infra.errors import ArtifactError, ConfigError

JSON, PARQUET, TEXT, MEDIAWIKI = "json", "parquet", "text", "mediawiki"
FORMATS = (JSON, PARQUET, TEXT, MEDIAWIKI)
SUFFIXES = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSON),
    **dict.fromkeys((".txt", ".text", ".md", ".rst"), TEXT),
    ".parquet": PARQUET,
    ".xml": MEDIAWIKI,
}
SHOWN = 500  # characters of a bad line that are retained
HEAD = 1 << 16  # bytes of the first line that show whether a JSON file is one array
TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
    pa.types.is_null,
)
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)


@dataclass(frozen=True)
class Row:
    """One record, or the reason why there is none and the beginning of the line."""

    number: int  # line, or row, from 1
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    line: str = ""


def format_of(name: str) -> str:
    """json, parquet, text or mediawiki, by the file's name. Raises ConfigError for a name that does not say."""
    suffixes = [s.lower() for s in PurePath(name).suffixes]
    last = next((s for s in reversed(suffixes) if s not in PACKINGS), "")
    if last in SUFFIXES:
        return SUFFIXES[last]
    raise ConfigError(
        f"{name}: its name does not show its format; add `format: {'`, `'.join(FORMATS)}` to the source, or name the file "
        ".jsonl, .json, .parquet, .txt or .xml (.gz .xz .zst .bz2 may follow)"
    )


def rows(path: str, form: str, columns: list[str], separator: str = "") -> Iterator[Row]:
    """Every record of the file in order. What cannot be read, to the end of a broken archive, comes as a Row with a reason.

    Raises ArtifactError where a Parquet file has no text column, or one that holds no text.
    """
    if form == PARQUET:
        yield from _parquet(path, columns)
        return
    number, cut = 0, dumps.is_cut(Path(path))  # zstd alone does not report a missing end
    try:
        with opened(path) as stream:
            for row in _read(stream, form, columns[0], separator):
                if cut and (form == TEXT or row.reason in ("bad_json", "bad_xml")):  # the record within which the file ends
                    break
                number = row.number
                yield row
        if cut:
            yield Row(number + 1, reason="truncated", line="the file ends within a zstd frame")
    except _BROKEN as error:
        yield Row(number + 1, reason="truncated", line=str(error)[:SHOWN])


def _read(stream: BinaryIO, form: str, text: str, separator: str) -> Iterator[Row]:
    if form == TEXT:
        return _plain(stream, text, separator)
    if form == MEDIAWIKI:
        return _mediawiki(stream)
    return _json(stream)


def _json(stream: BinaryIO) -> Iterator[Row]:
    """JSON lines; or one array, or objects over several lines, where the first line that is not blank begins like one."""
    number, head = 1, stream.readline(HEAD)
    while head and not head.removeprefix(dumps.BOM).strip():
        number, head = number + 1, stream.readline(HEAD)
    start = head.removeprefix(dumps.BOM).strip()
    following = b""
    if start.startswith(b"["):
        following = stream.readline(HEAD) if head.endswith(b"\n") else b""
        if not (following.strip() and _is_value(start)):  # else lines that each are an array
            yield from _json_values(stream, head + following)
            return
    if start == b"{":
        yield from _json_values(stream, head)
        return
    lines = chain(_completed(stream, head), _completed(stream, following), stream)
    for place, line in enumerate(lines, number):
        if line.strip():
            yield _json_line(place, line)


def _completed(stream: BinaryIO, line: bytes) -> Iterator[bytes]:
    """The line to its end, if it holds anything."""
    if line:
        yield line if line.endswith(b"\n") else line + stream.readline()


def _is_value(line: bytes) -> bool:
    """Whether a line is a JSON value by itself."""
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _json_values(stream: BinaryIO, start: bytes) -> Iterator[Row]:
    number = 0
    try:
        for number, value in enumerate(json_values.values(stream, start), 1):
            yield Row(number, fields=value) if isinstance(value, dict) else Row(number, reason="not_object", line=str(value)[:SHOWN])
    except json_values.BadJson as error:
        yield Row(number + 1, reason=error.reason, line=f"the rest of the file is unread: {error}"[:SHOWN])


def _json_line(number: int, line: bytes) -> Row:
    shown = line[: SHOWN * 4].decode("utf-8", "replace").strip()[:SHOWN]
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError:
        return Row(number, reason="bad_utf8", line=shown)
    except (ValueError, RecursionError):
        return Row(number, reason="bad_json", line=shown)
    return Row(number, fields=value) if isinstance(value, dict) else Row(number, reason="not_object", line=shown)


def _plain(stream: BinaryIO, text: str, separator: str) -> Iterator[Row]:
    decoded = charset.decode(stream.read())
    if not decoded.is_text:
        yield Row(1, reason="undecodable")
        return
    parts = charset.normal(decoded.text).split(separator) if separator else [decoded.text]
    for number, part in enumerate(parts, 1):
        yield Row(number, fields={text: part})


def _mediawiki(stream: BinaryIO) -> Iterator[Row]:
    """Pages under the usual names of the fields."""
    number = 0
    try:
        for number, page in enumerate(mediawiki.pages(stream), 1):
            fields = {"text": page.text, "title": page.title, "url": page.url, "id": page.id, "date": page.date}
            yield Row(number, fields, page.reason, line=page.title[:SHOWN] if page.reason else "")
    except mediawiki.BadXml as error:
        yield Row(number + 1, reason="bad_xml", line=f"the rest of the file is unread: {error}"[:SHOWN])


def _parquet(path: str, columns: list[str]) -> Iterator[Row]:
    number = 0
    try:
        file = pq.ParquetFile(path)
        _check_text(path, file.schema_arrow, columns[0])
        present = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1024, columns=present):
            for fields in batch.to_pylist():
                number += 1
                yield _with_text(number, fields, columns[0])
    except (pa.ArrowException, OSError) as error:
        yield Row(number + 1, reason="truncated", line=str(error)[:SHOWN])


def _check_text(path: str, schema: pa.Schema, text: str) -> None:
    if text not in schema.names:
        raise ArtifactError(f"{path}: it has no column {text!r}; its columns are {', '.join(schema.names)}: set the source's `text`")
    kind = schema.field(text).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(fits(kind) for fits in TEXT_TYPES):
        raise ArtifactError(f"{path}: column {text!r} is of type {kind}, which is no text; set the source's `text` to a column of strings")


def _with_text(number: int, fields: dict[str, Any], text: str) -> Row:
    """The row, its text decoded where the column is binary."""
    value = fields.get(text)
    if not isinstance(value, bytes):
        return Row(number, fields=fields)
    try:
        return Row(number, fields={**fields, text: value.decode()})
    except UnicodeDecodeError:
        return Row(number, reason="bad_utf8", line=value[: SHOWN * 4].decode("utf-8", "replace")[:SHOWN])
