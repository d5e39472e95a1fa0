"""Task files as bare texts: every row an item, every string in it a text, whatever the columns mean.

What is compared with a corpus need not be understood: a question, its answers and its context are all part of the item.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from data_prep.corpus.charset import normal
from data_prep.corpus.readers import COMPRESSED, opened
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
    suffixes = [s.lower() for s in PurePath(name).suffixes if s.lower() not in COMPRESSED]
    if not suffixes or suffixes[-1] not in KINDS:
        raise ConfigError(f"{name}: a task file must end in {', '.join(KINDS)} ({', '.join(sorted(COMPRESSED))} may follow)")
    return suffixes[-1]


def items(source: SourceFile) -> Iterator[Item]:
    """All rows in the file's order; what is no text of a row is passed over. Raises ArtifactError if the file has changed."""
    path = Path(source.path)
    if not path.is_file() or digest(path) != source.digest:
        raise ArtifactError(f"{path}: is not the file this run was planned with; start the run again to read it anew")
    readers = {".tsv": _tabbed, ".csv": _quoted, ".jsonl": _json_lines, ".json": _json_whole, ".txt": _lines}
    with opened(source.path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, value in readers[kind_of(source.name or path.name)](file):
            texts = tuple(normal(text).strip() for text in _strings(value) if text.strip())
            if texts:
                yield Item(number, texts)


def _tabbed(file: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    """tsv knows no quotes: GLUE's files hold single ones."""
    for number, line in enumerate(file, 1):
        yield number, line.rstrip("\r\n").split("\t")


def _quoted(file: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(file)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"a task file in csv cannot be read from line {reader.line_num} on: {error}; write it as tsv or jsonl") from error


def _lines(file: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    yield from enumerate(file, 1)


def _json_lines(file: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, 1):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, line  # a torn row may still be in the corpus


def _json_whole(file: io.TextIOBase) -> Iterator[tuple[int, Any]]:
    """Every string of the file an item of its own: nobody says where one question ends."""
    text = file.read()
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
