"""What a task is, and its files read: tsv, csv or jsonl (also .gz) become examples, bad rows become counts.

A row that cannot be used never stops a run: it is left out and counted under its reason (columns, encoding, json, text, label).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.artifact import SourceFile, digest
from infra.errors import ArtifactError, ConfigError

KINDS = (".tsv", ".csv", ".jsonl")
Corrupt = dict[str, int]
Cells = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Names of columns in the header (or keys of the JSON objects). pair is empty when the task is about one text."""

    text: str = "text"
    label: str = "label"
    pair: str = ""

    @property
    def used(self) -> tuple[str, ...]:
        return (self.text, *((self.pair,) if self.pair else ()), self.label)


@dataclass(frozen=True)
class Example:
    """One row that can be used."""

    text: str
    label: str
    pair: str | None = None


@dataclass(frozen=True)
class Examples:
    """A file's usable rows in its order, and how many were not, by reason."""

    rows: tuple[Example, ...]
    corrupt: Corrupt

    @property
    def read(self) -> int:
        return len(self.rows) + sum(self.corrupt.values())


class Task(Protocol):
    """What finetune and evaluate ask of a task; catalog.py lists them by name."""

    name: str

    def labels(self, train: Examples) -> tuple[str, ...]:
        """The label set, in the order of the head's outputs."""
        ...

    def known(self, examples: Examples, labels: Sequence[str]) -> Examples:
        """Those whose label the model can say; the others are counted as corrupt."""
        ...

    def score(self, gold: NDArray[np.int64], said: NDArray[np.int64], labels: Sequence[str], samples: int, seed: int) -> dict[str, Any]: ...


def read_examples(source: SourceFile, columns: Columns) -> Examples:
    """All usable rows in the file's order. Raises ConfigError for a wrong kind of file or a missing column, ArtifactError if it changed."""
    path = Path(source.path)
    if not path.exists() or digest(path) != source.digest:
        raise ArtifactError(f"{path}: is not the file this run was planned with; start the run again to read it anew")
    rows: list[Example] = []
    corrupt: Corrupt = {}
    for cells, torn in _cells(path, columns):
        example, reason = (None, torn) if torn else _example(cells, columns)
        if example is None:
            corrupt[reason] = corrupt.get(reason, 0) + 1
        else:
            rows.append(example)
    if not rows:
        raise ConfigError(
            f"{path}: none of its {sum(corrupt.values())} rows can be used ({corrupt}); the columns are {', '.join(columns.used)}"
        )
    return Examples(tuple(rows), dict(sorted(corrupt.items())))


def _example(cells: Cells, columns: Columns) -> tuple[Example | None, str]:
    """The example, or None and what is wrong with it."""
    texts = [cells.get(name) for name in columns.used[:-1]]
    label = cells.get(columns.label)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return None, "text"
    if isinstance(label, bool | int):
        label = str(int(label))
    if not isinstance(label, str) or not label.strip():
        return None, "label"
    if any(_broken(text) for text in (*texts, label)):
        return None, "encoding"
    return Example(str(texts[0]).strip(), label.strip(), str(texts[1]).strip() if columns.pair else None), ""


def _broken(text: Any) -> bool:
    """surrogateescape left its mark: these bytes were no UTF-8. U+FFFD says that somebody before us lost them."""
    return any("\ud800" <= character <= "\udfff" for character in text) or "\ufffd" in text


def _cells(path: Path, columns: Columns) -> Iterator[tuple[Cells, str]]:
    """(cells by name, what is wrong with the row or "")."""
    kind = _kind(path)
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from _json_rows(file) if kind == ".jsonl" else _table_rows(path, file, kind, columns)


def _kind(path: Path) -> str:
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in KINDS:
        raise ConfigError(f"{path}: a task file must end in {', '.join(KINDS)} (or one of them and .gz), not in {kind or 'nothing'}")
    return kind


def _json_rows(file: io.TextIOBase) -> Iterator[tuple[Cells, str]]:
    for line in file:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            yield {}, "json"
            continue
        yield (row, "") if isinstance(row, dict) else ({}, "json")


def _table_rows(path: Path, file: io.TextIOBase, kind: str, columns: Columns) -> Iterator[tuple[Cells, str]]:
    """tsv knows no quotes (GLUE's files hold single ones); csv does."""
    if kind == ".tsv":
        rows: Iterator[list[str]] = (line.rstrip("\r\n").split("\t") for line in file)
    else:
        rows = csv.reader(file)
    header = [name.strip() for name in next(rows, [])]
    if missing := [name for name in columns.used if name not in header]:
        raise ConfigError(f"{path}: no column {', '.join(missing)}; its header has: {', '.join(header) or 'nothing'}")
    for row in rows:
        if not any(row):
            continue
        yield (dict(zip(header, row, strict=True)), "") if len(row) == len(header) else ({}, "columns")
