"""Task files as bare texts: every row an item, every string in it a text, whatever the columns mean.

What is compared with a corpus need not be understood: a question, its answers and its context are all part of the item.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from data_prep import tables
from data_prep.corpus.charset import normal
from data_prep.packed import PACKINGS
from infra.artifact import SourceFile, digest
from infra.errors import ArtifactError, ConfigError

TABLES = (".tsv", ".csv")
KINDS = (*TABLES, ".jsonl", ".json", ".txt")


@dataclass(frozen=True)
class Item:
    """One row of a task file. number: its line, from 1, or its place in a JSON file."""

    number: int
    texts: tuple[str, ...]


def kind_of(name: str) -> str:
    """The suffix that says how the file is read. Raises ConfigError on a name that says none of KINDS."""
    suffixes = [s.lower() for s in PurePath(name).suffixes if s.lower() not in PACKINGS]
    if not suffixes or suffixes[-1] not in KINDS:
        raise ConfigError(f"{name}: a task file must end in {', '.join(KINDS)} ({', '.join(sorted(PACKINGS))} may follow)")
    return suffixes[-1]


def items(source: SourceFile) -> Iterator[Item]:
    """All rows in the file's order; what is no text of a row is passed over. Raises ArtifactError if the file has changed."""
    path = Path(source.path)
    if not path.is_file() or digest(path) != source.digest:
        raise ArtifactError(f"{path}: is not the file this run was planned with; start the run again to read it anew")
    readers = {".tsv": _tabbed, ".csv": _quoted, ".jsonl": _json_lines, ".json": _json_whole, ".txt": _lines}
    text = tables.text_of(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    for number, value in readers[kind_of(source.name or path.name)](text):
        texts = tuple(normal(text).strip() for text in _strings(value) if text.strip())
        if texts:
            yield Item(number, texts)


def _tabbed(text: str) -> Iterator[tuple[int, Any]]:
    """tsv has no quotes: GLUE's files hold single ones."""
    for number, line in enumerate(tables.lines_of(text), 1):
        yield number, line.removesuffix("\r").split("\t")


def _quoted(text: str) -> Iterator[tuple[int, Any]]:
    """A line whose quotes are invalid is one text: it may still be in the corpus."""
    lines = tables.lines_of(text)
    for number, cells, _ in tables.Quoted(lines).records():
        yield number, cells if cells is not None else lines[number - 1]


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    yield from enumerate(tables.lines_of(text), 1)


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(tables.lines_of(text), 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, line  # a torn row may still be in the corpus


def _json_whole(text: str) -> Iterator[tuple[int, Any]]:
    """Every string of the file an item of its own: nobody says where one question ends."""
    value: Any
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    yield from enumerate(_strings(value), 1)


def _strings(value: Any) -> Iterator[str]:
    """The strings inside, in their order; without recursion, so that no depth is too deep."""
    open_values = [value]
    while open_values:
        one = open_values.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            open_values.extend(reversed(one.values()))
        elif isinstance(one, list):
            open_values.extend(reversed(one))
