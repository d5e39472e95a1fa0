"""Files of ready documents in, DOCUMENTS shards out: a source beside the crawl.

Each file is read once into parts under .work/; then row g of all files goes to shard g mod `shards`, so that every shard is
a sample of every file, whatever did the reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from data_prep import schemas, shards
from data_prep.corpus import readers
from data_prep.corpus.charset import lone_surrogates, normal
from data_prep.corpus.dates import valid
from data_prep.corpus.extract import document_id
from data_prep.corpus.readers import Row
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError
from infra.log import event
from infra.stage import Inputs, Stage

PART_CHARACTERS = 64_000_000  # of text in memory, and in a part
LONG_TEXT = 500_000  # characters: about the 100,000 words that filters allow a document
SET_ASIDE = pa.schema([("line", pa.string()), ("source", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class DocumentsConfig:
    """sources: files by content. text, title, url, id, date: the fields that hold them (a MediaWiki export has these names).
    format: json, parquet, text or mediawiki; "": by each file's name. separator: divides a plain text file into documents.

    A document keeps its own id if its file gives one; else it is named by its URL, else by its source and text.
    """

    sources: tuple[SourceFile, ...]
    text: str = "text"
    title: str = "title"
    url: str = "url"
    id: str = "id"
    date: str = "date"
    separator: str = ""
    format: str = ""
    shards: int = 8

    def __post_init__(self) -> None:
        """Raises ConfigError on what cannot be read or dealt."""
        if self.shards < 1:
            raise ConfigError(f"documents: shards {self.shards} must be at least 1")
        if not self.sources:
            raise ConfigError("documents: no file to read; check the path in the recipe")
        if self.format and self.format not in readers.FORMATS:
            raise ConfigError(f"documents: format {self.format!r} is none of {', '.join(readers.FORMATS)}")
        for source in self.sources:
            self.format_of(source)

    def format_of(self, source: SourceFile) -> str:
        """The format of one file. Raises ConfigError when neither the config nor its name shows it."""
        return self.format or readers.format_of(source.name)


@dataclass
class _Seen:
    """What the rows of a file leave besides documents: those that are none, and how many half characters were removed from the others."""

    aside: list[dict[str, str]] = field(default_factory=list)
    lone_surrogates: int = 0


def work(config: DocumentsConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Read every file, then deal."""
    folder = out / ".work"
    compute.map("documents read", partial(read_file, config, folder), range(len(config.sources)))
    names = [shards.name(number) for number in range(config.shards)]
    compute.map("documents deal", partial(deal, config, folder, out), [n for n in range(config.shards) if not (out / names[n]).exists()])
    return shards.balance("documents", shards.total(shards.counts(out / name) for name in names))


def read_file(config: DocumentsConfig, folder: Path, number: int) -> None:
    """Write the documents of one file in parts, and last, as the mark that it is done, its bad rows."""
    mark = folder / "aside" / shards.name(number)
    if mark.exists():
        return
    source = config.sources[number]
    columns = [config.text, config.title, config.url, config.id, config.date]
    if not Path(source.path).is_file():
        raise ArtifactError(f"{source.path}: the file is gone; put it back or change the recipe")
    seen = _Seen()
    rows = readers.rows(source.path, config.format_of(source), columns, config.separator)
    parts, found, longest = list[Path](), 0, 0
    for part in _parts(config, source, rows, seen):
        parts.append(folder / f"parts-{number:05d}" / shards.name(len(parts)))
        shards.write(pa.Table.from_pylist(part, schema=schemas.DOCUMENTS), parts[-1])
        found, longest = found + len(part), max(longest, *(len(row["text"]) for row in part))
    _warn(config, source, found, len(seen.aside), longest)
    counts = {"parts": len(parts), "lone_surrogates": seen.lone_surrogates}
    shards.write(pa.Table.from_pylist(seen.aside, schema=SET_ASIDE), mark, counts, needs=parts)


def _warn(config: DocumentsConfig, source: SourceFile, found: int, quarantined: int, longest: int) -> None:
    """Warn of a file that gives nothing, and of a long text file that is read as one document."""
    if not found:
        event("warning", message=f"{source.name}: no document in it; {quarantined} rows quarantined (`textmill show documents`)")
    elif config.format_of(source) == readers.TEXT and not config.separator and longest > LONG_TEXT:
        event(
            "warning",
            message=f"{source.name} is read as one document of {longest:,} characters, which filter.max_words may remove as a whole; "
            'if it holds several, set the source\'s `separator` to the text between them (such as "\\n\\n\\n")',
        )


def deal(config: DocumentsConfig, folder: Path, out: Path, shard: int) -> None:
    """Write one shard: its share of all documents, and the bad rows of its share of the files."""
    tables, seen = [schemas.DOCUMENTS.empty_table()], 0
    for number in range(len(config.sources)):
        for part in range(shards.counts(folder / "aside" / shards.name(number))["parts"]):
            table = shards.read(folder / f"parts-{number:05d}" / shards.name(part)).replace_schema_metadata(None)
            tables.append(table.take(pa.array(np.arange((shard - seen) % config.shards, table.num_rows, config.shards))))
            seen += table.num_rows
    table = pa.concat_tables(tables).combine_chunks()  # one piece: the parts must not show in the bytes
    mine = range(shard, len(config.sources), config.shards)
    bad = [shards.read(folder / "aside" / shards.name(number)).replace_schema_metadata(None) for number in mine]
    aside = pa.concat_tables([SET_ASIDE.empty_table(), *bad]).combine_chunks()
    counts = {"read": table.num_rows + aside.num_rows, "kept": table.num_rows}
    counts["lone_surrogates"] = sum(shards.counts(folder / "aside" / shards.name(number))["lone_surrogates"] for number in mine)
    reasons = aside["reason"].to_pylist()
    counts |= {f"set_aside.{reason}": reasons.count(reason) for reason in sorted(set(reasons))}
    shards.write(aside, out / "set_aside" / shards.name(shard))
    shards.write(table, out / shards.name(shard), shards.balance("documents", counts), needs=[out / "set_aside" / shards.name(shard)])


def document(config: DocumentsConfig, source: str, row: Row) -> dict[str, Any] | str:
    """The row as a document, or the reason why it is none."""
    value = row.fields.get(config.text)
    if row.reason or not isinstance(value, str):
        return row.reason or "no_text"
    text = normal(value).strip("\n")
    if not text.strip():
        return "empty"
    url, title, place = _string(row, config.url), normal(_string(row, config.title)), f"{source}:{row.number}"
    name = _string(row, config.id) or document_id(url or f"{place}\n{text}")
    facts = {"id": name, "url": url, "host": _host(url), "title": title, "text": text}
    return {**facts, "language": "", "date": _day(row.fields.get(config.date)), "charset": "", "karma": None, "source": place}


def _parts(config: DocumentsConfig, source: SourceFile, rows: Iterator[Row], seen: _Seen) -> Iterator[list[dict[str, Any]]]:
    """The documents in runs of bounded size; what is none, and what is removed from them, goes into seen."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        made = document(config, source.name, row)
        if isinstance(made, str):
            seen.aside.append({"line": normal(row.line), "source": f"{source.name}:{row.number}", "reason": made})
            continue
        part.append(made)
        seen.lone_surrogates += sum(lone_surrogates(value) for value in row.fields.values() if isinstance(value, str))
        size += len(made["text"])
        if size >= PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _string(row: Row, name: str) -> str:
    value = row.fields.get(name)
    return normal(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _day(value: Any) -> str:
    return valid(value.isoformat() if isinstance(value, date) else str(value)) if value is not None else ""


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


DOCUMENTS = Stage(name="documents", version=4, work=work)
