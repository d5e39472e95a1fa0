"""Pages in, their main text out; what cannot be read is set aside with its reason, and never ends the stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from data_prep import schemas, shards
from data_prep.corpus.archive import Archive, Stored
from data_prep.corpus.child import Answer, Question, Reader
from data_prep.corpus.html import ENGINES
from data_prep.corpus.language import detect
from data_prep.corpus.render import FORMATS
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

SET_ASIDE = pa.schema([("url", pa.string()), ("reason", pa.string())])
HTML_TYPES = frozenset({"", "text/html", "application/xhtml+xml"})
XML_TYPES = frozenset({"application/xhtml+xml"})
PLAIN_TYPES = frozenset({"text/plain"})


@dataclass(frozen=True)
class ExtractConfig:
    """engine: best, trafilatura or resiliparse (see html.py). seconds: CPU time a page may take.

    format: text, or markdown (headings, lists, tables and fenced code; `best` alone writes it).

    With `best`, a page on which the slow engine runs out of time or crashes keeps what the quick ones found; `cut_short` counts these.
    `replacement_characters`: U+FFFD in the documents, for bytes, halves of surrogate pairs and references that are no character.
    """

    engine: str = "best"
    format: str = "text"
    seconds: int = 10
    memory_mb: int = 4096
    min_characters: int = 25
    max_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        """Raises ConfigError on an engine or limit that cannot be."""
        if self.engine not in ENGINES:
            raise ConfigError(f"extract: there is no engine {self.engine!r}; choose from {', '.join(ENGINES)}")
        if self.format not in FORMATS:
            raise ConfigError(f"extract: unknown format {self.format!r}; available formats: {', '.join(FORMATS)}")
        if self.format != "text" and self.engine != "best":
            raise ConfigError(f"extract: engine {self.engine!r} writes plain text only; set `engine: best` for `format: {self.format}`")
        if self.seconds < 1 or self.memory_mb < 256 or self.max_bytes < 1:
            raise ConfigError("extract: seconds and max_bytes must be at least 1, memory_mb at least 256")


def read_pages(config: ExtractConfig, shard: Path, _out: Path) -> shards.Made:
    """One shard of pages, in its order, as documents and what was set aside."""
    pages = shards.read(shard)
    counts = {"read": pages.num_rows, "kept": 0, "removed.not_ok": 0, "cut_short": 0, "replacement_characters": 0}
    documents: list[dict[str, Any]] = []
    aside: list[dict[str, str]] = []
    for page, answer in _answers(config, pages, shard.parent, counts):
        if answer.reason:
            aside.append({"url": page["url"], "reason": answer.reason})
            counts[f"set_aside.{answer.reason}"] = counts.get(f"set_aside.{answer.reason}", 0) + 1
        else:
            documents.append(_document(page, answer))
            counts["cut_short"] += answer.cut_short
            counts["replacement_characters"] += answer.text.count("\ufffd")
    counts["kept"] = len(documents)
    sides = {"set_aside": pa.Table.from_pylist(aside, schema=SET_ASIDE)}
    return shards.Made(pa.Table.from_pylist(documents, schema=schemas.DOCUMENTS), shards.balance("extract", counts), sides)


def work(config: ExtractConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Extract every shard of pages."""
    counts = shards.each_path("extract", partial(read_pages, config), inputs["pages"].shards, out, compute)
    return shards.balance("extract", counts)


def document_id(key: str) -> str:
    """xxh3_64 of a URL, or of what names a document without one."""
    return xxhash.xxh3_64_hexdigest(key.encode("utf-8", "surrogatepass"))


def _answers(config: ExtractConfig, pages: pa.Table, folder: Path, counts: Counts) -> Iterator[tuple[dict[str, Any], Answer]]:
    archive = Archive(folder, config.max_bytes)
    with Reader(config.seconds, config.memory_mb) as reader:
        for page in _rows(pages):
            if page["outcome"] != "ok":
                counts["removed.not_ok"] += 1
                continue
            kind = (page["content_type"] or "").split(";")[0].strip().lower()
            if kind not in HTML_TYPES | PLAIN_TYPES:
                yield page, Answer(reason="not_html")
                continue
            stored = archive.body(page["warc_file"], page["warc_offset"])
            question = Question(
                page["charset"] or "", config.engine, config.min_characters, kind not in PLAIN_TYPES, config.format, kind in XML_TYPES
            )
            yield page, _ask(reader, question, stored)
    archive.close()


def _ask(reader: Reader, question: Question, stored: Stored) -> Answer:
    if stored.reason or not stored.body.strip():
        return Answer(reason=stored.reason or "empty")
    return reader.ask(question, stored.body)


def _rows(pages: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in pages.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _document(page: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return {
        "id": document_id(page["url"]),
        "url": page["url"],
        "host": page["host"],
        "title": answer.title,
        "text": answer.text,
        "language": detect(answer.text),
        "date": answer.date,
        "charset": answer.charset,
        "karma": page["karma"],
        "source": page["source"],
    }


EXTRACT = Stage(name="extract", version=6, work=work)
