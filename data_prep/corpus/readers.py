"""Rows out of files that hold documents: JSON lines, Parquet, plain text, each also compressed. A bad row is told, not raised."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.corpus import charset, dumps
from infra.errors import ConfigError

JSON_LINES = frozenset({".jsonl", ".ndjson", ".json"})
PLAIN = frozenset({".txt", ".text", ".md", ".rst"})
COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst"})
SHOWN = 500  # characters of a bad line that are kept
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)


@dataclass(frozen=True)
class Row:
    """One record, or the reason why there is none and the beginning of the line."""

    number: int  # line, or row, from 1
    fields: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    line: str = ""


def kind_of(name: str) -> str:
    """jsonl, parquet or text, by the file's name. Raises ConfigError on a name that says none of them."""
    suffixes = [s.lower() for s in PurePath(name).suffixes]
    plain = [s for s in suffixes if s not in COMPRESSED]
    last = plain[-1] if plain else ""
    if last == ".parquet":
        return "parquet"
    if last in JSON_LINES:
        return "jsonl"
    if last in PLAIN:
        return "text"
    raise ConfigError(f"{name}: its name does not say what it holds; name it .jsonl, .parquet or .txt (.gz .xz .zst .bz2 may follow)")


def rows(path: str, kind: str, columns: list[str], separator: str = "") -> Iterator[Row]:
    """Every record of the file in order. What cannot be read, to the end of a broken archive, comes as a Row with a reason."""
    if kind == "parquet":
        yield from _parquet(path, columns)
        return
    number, cut = 0, dumps.is_cut(Path(path))  # zstd alone does not tell of a missing end
    try:
        with opened(path) as stream:
            for row in _json_lines(stream) if kind == "jsonl" else _plain(stream, columns[0], separator):
                if cut and (kind == "text" or row.reason == "bad_json"):  # a text without its end, or the line that it ends within
                    break
                number = row.number
                yield row
        if cut:
            yield Row(number + 1, reason="truncated", line="the file ends within a zstd frame")
    except _BROKEN as error:
        yield Row(number + 1, reason="truncated", line=str(error)[:SHOWN])


def opened(path: str) -> BinaryIO:
    """The file's bytes, unpacked by the last part of its name."""
    suffix = PurePath(path).suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if suffix == ".zst":
        packed = open(path, "rb")  # noqa: SIM115 - closed by the reader that is returned
        reader = zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True, closefd=True)
        return io.BufferedReader(cast(io.RawIOBase, reader))
    return open(path, "rb")


def _json_lines(stream: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _json_line(number, line)


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


def _parquet(path: str, columns: list[str]) -> Iterator[Row]:
    number = 0
    try:
        file = pq.ParquetFile(path)
        present = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=1024, columns=present):
            for fields in batch.to_pylist():
                number += 1
                yield Row(number, fields=fields)
    except (pa.ArrowException, OSError) as error:
        yield Row(number + 1, reason="truncated", line=str(error)[:SHOWN])
