"""What a task is, and its files read: tsv, csv or jsonl (also compressed) become examples, bad rows become counts.

A row that cannot be used never stops a run: it is quarantined and counted under its reason: quotes, columns, json, text, label,
encoding, nul, long. data_prep/tables.py says how rows are told apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep import tables
from data_prep.packed import PACKINGS
from infra.artifact import SourceFile, digest
from infra.errors import ArtifactError, ConfigError

KINDS = (".tsv", ".csv", ".jsonl")
IDS = ("id", "idx", "guid")  # columns whose values should differ from row to row
SHOWN = 5  # line numbers kept for each reason
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
    lines: dict[str, tuple[int, ...]] = field(default_factory=dict)  # the first of them by reason, from 1
    unknown: Corrupt = field(default_factory=dict)  # labels that the model does not know: in rows, and wrong whatever it answers
    duplicate_ids: int = 0  # rows whose id occurred before; they are used

    @property
    def read(self) -> int:
        return len(self.rows) + sum(self.corrupt.values())

    @property
    def labels(self) -> dict[str, int]:
        """How many rows have each label, in the order of the labels."""
        counted = Counter(row.label for row in self.rows)
        return {label: counted[label] for label in sorted(counted, key=order_of(counted))}

    def problems(self) -> str:
        """The quarantined rows by reason with their first lines, such as `2 quotes (lines 20, 71)`; empty when there are none."""
        return "; ".join(f"{count} {reason}{self._at(reason, count)}" for reason, count in self.corrupt.items())

    def _at(self, reason: str, count: int) -> str:
        lines = self.lines.get(reason, ())
        more = ", ..." if count > len(lines) else ""
        return f" (line{'s' if count > 1 else ''} {', '.join(map(str, lines))}{more})" if lines else ""

    def record(self) -> dict[str, Any]:
        """For the card and the report."""
        return {
            "rows": len(self.rows),
            "labels": self.labels,
            "quarantined": {reason: {"rows": count, "lines": list(self.lines.get(reason, ()))} for reason, count in self.corrupt.items()},
            "unknown_labels": self.unknown,
            "duplicate_ids": self.duplicate_ids,
        }


class Task(Protocol):
    """What finetune and evaluate ask of a task; catalog.py lists them by name."""

    name: str

    def labels(self, train: Examples) -> tuple[str, ...]:
        """The label set, in the order of the head's outputs."""
        ...

    def known(self, examples: Examples, labels: Sequence[str]) -> Examples:
        """The same rows, labels spelled as in `labels` where they mean the same; `unknown` counts those that mean none of them."""
        ...

    def score(self, gold: NDArray[np.int64], said: NDArray[np.int64], labels: Sequence[str], samples: int, seed: int) -> dict[str, Any]: ...


def order_of(labels: Sequence[str] | Mapping[str, int]) -> Any:
    """The sort key of a set of labels: by value when all are numbers, else by text."""
    if all(tables.NUMBER.match(label) for label in labels):
        return lambda label: (Decimal(label), len(label), label)
    return lambda label: label


def meaning_of(labels: Sequence[str] | Mapping[str, int]) -> Any:
    """What a label means among others: its value when all of them are numbers (1 and 1.0), true or false in any case when all are,
    else its text."""
    if all(tables.NUMBER.match(label) for label in labels):
        return lambda label: Decimal(label) if tables.NUMBER.match(label) else label
    if all(label.casefold() in ("true", "false") for label in labels):
        return str.casefold
    return str


def read_examples(source: SourceFile, columns: Columns) -> Examples:
    """All usable rows in the file's order. Raises ConfigError for an invalid file name or header, ArtifactError if the file changed."""
    path = Path(source.path)
    if not path.exists() or digest(path) != source.digest:
        raise ArtifactError(f"{path}: is not the file this run was planned with; start the run again to read it anew")
    return examples_of(path, columns)


def examples_of(path: Path, columns: Columns, most: int = -1) -> Examples:
    """The usable rows of a file, or of its first `most` bytes. Raises ConfigError as read_examples does."""
    rows: list[Example] = []
    corrupt: Counter[str] = Counter()
    lines: dict[str, tuple[int, ...]] = {}
    ids: set[str] = set()
    duplicates = 0
    for row in _rows(path, columns, most):
        example, reason = (None, row.reason) if row.reason else _example(row.cells, columns)
        if example is None:
            corrupt[reason] += 1
            lines[reason] = (*lines.get(reason, ()), row.line)[:SHOWN]
            continue
        rows.append(example)
        if (name := next((str(row.cells[key]) for key in IDS if key in row.cells), "")) in ids:
            duplicates += 1
        elif name:
            ids.add(name)
    found = Examples(tuple(rows), dict(sorted(corrupt.items())), lines, duplicate_ids=duplicates)
    if not rows:
        counted = found.problems() or "it has none"
        raise ConfigError(f"{path}: none of its {found.read} rows can be used: {counted}; the columns are {', '.join(columns.used)}")
    return found


def _example(cells: Cells, columns: Columns) -> tuple[Example | None, str]:
    """The example, or None and the reason why there is none."""
    texts = [cells.get(name) for name in columns.used[:-1]]
    label = _label(cells.get(columns.label))
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return None, "text"
    if not label:
        return None, "label"
    if any(len(text) > tables.MAX_CHARACTERS for text in texts if text):
        return None, "long"
    if any(_broken(text) for text in (*texts, label)):
        return None, "encoding"
    if any("\0" in text for text in (*texts, label) if text):
        return None, "nul"
    return Example(str(texts[0]).strip(), label, str(texts[1]).strip() if columns.pair else None), ""


def _label(value: Any) -> str:
    """As it is written: JSON's true and 1.5 are `true` and `1.5`. Empty where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    return value.strip() if isinstance(value, str) else ""


def _broken(text: Any) -> bool:
    """Whether a text holds bytes that were not UTF-8 (surrogate escapes) or the character that replaces such bytes (U+FFFD)."""
    return any("\ud800" <= character <= "\udfff" for character in text) or "\ufffd" in text


def _rows(path: Path, columns: Columns, most: int) -> Iterator[tables.Row]:
    kind = _kind(path)
    text = tables.text_of(path, most)
    if kind == ".jsonl":
        return tables.json_rows(text)
    return tables.table_rows(path, text, "\t" if kind == ".tsv" else ",", columns.used, columns.label)


def _kind(path: Path) -> str:
    suffixes = [suffix for suffix in PurePath(path.name.lower()).suffixes if suffix not in PACKINGS]
    if not suffixes or suffixes[-1] not in KINDS:
        packed = ", ".join(sorted(PACKINGS))
        raise ConfigError(f"{path}: a task file must end in {', '.join(KINDS)} ({packed} may follow), not in {path.suffix or 'nothing'}")
    return suffixes[-1]
