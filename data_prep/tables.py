"""Rows of csv, tsv and jsonl files, read strictly: a row that cannot be used is reported with its line and reason, and never costs another.

csv is RFC 4180 as Python's csv module reads it with strict=True; a quote that does not close costs its own line only. tsv has no
quotes (GLUE's files hold single ones). A row ends with \\n or \\r\\n; \\r alone ends rows only in a file that has no \\n at all.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.packed import opened
from infra.errors import ConfigError

MAX_CHARACTERS = 10_000_000  # of one cell; a longer one is quarantined ("long")
REREAD = 64  # the most characters read again after quotes that do not close, per character of the file
SWALLOWED = 4  # whole rows inside a quoted cell, with repeating last-column values, that show its quote was never closed
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?\Z")
MARKS = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\x00\x00\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, OSError)


@dataclass(frozen=True)
class Row:
    """One record: its first line (from 1) and its cells by name, or the reason why it cannot be used."""

    line: int
    cells: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def text_of(path: Path, most: int = -1) -> str:
    """The file's text; bytes that are not UTF-8 become surrogate escapes, a byte order mark is removed.

    most: read so many bytes at most, to the last complete line (-1: all). Raises ConfigError for UTF-16, UTF-32 and damaged archives.
    """
    try:
        with opened(str(path)) as file:
            data = file.read() if most < 0 else file.read(most)
    except DAMAGED as error:
        raise ConfigError(f"{path}: cannot be read to its end ({error}); write the file again") from error
    for mark, name in MARKS:
        if data.startswith(mark):
            raise ConfigError(f"{path}: is encoded in {name}; save it as UTF-8 (iconv -f {name} -t UTF-8)")
    if b"\0" in data[:200] and data[:200].count(b"\0") >= len(data[:200]) // 3:
        raise ConfigError(f"{path}: looks like UTF-16 without a byte order mark; save it as UTF-8")
    if 0 <= most == len(data) and b"\n" in data:
        data = data[: data.rindex(b"\n") + 1]
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def lines_of(text: str) -> list[str]:
    """The lines without \\n; a \\r before it stays. A file without any \\n is divided at \\r."""
    lines = text.split("\n") if "\n" in text else text.split("\r")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def json_rows(text: str) -> Iterator[Row]:
    """One JSON object per line; blank lines are skipped."""
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield Row(number, value) if isinstance(value, dict) else Row(number, reason="json")


def table_rows(path: Path, text: str, separator: str, used: Sequence[str], label: str = "") -> Iterator[Row]:
    """The rows below the header. separator: "\\t" for tsv, "," for csv.

    used: the columns that must be there, once each; label: the one whose values repeat. Raises ConfigError for a header without them.
    """
    lines = lines_of(text)
    records = _tabbed(lines) if separator == "\t" else Quoted(lines).records()
    first = next(records, None)
    header = [name.strip() for name in first[1]] if first and first[1] else []
    _check_header(path, header, used, separator)
    if separator == ",":
        records = Quoted(lines, start=first[2] if first else 0, width=len(header), label=header.index(label) if label else -1).records()
    for number, cells, _ in records:
        if cells is None:
            yield Row(number, reason="quotes")
        elif not any(cells):
            continue
        elif len(cells) != len(header):
            yield Row(number, reason="columns")
        else:
            yield Row(number, dict(zip(header, cells, strict=True)))


def _check_header(path: Path, header: Sequence[str], used: Sequence[str], separator: str) -> None:
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in header) or "nothing"
    if missing := [name for name in used if name not in header]:
        other = [mark for mark in (";", "\t", ",", "|") if mark != separator and len(header) == 1 and mark in header[0]]
        hint = f"; its columns look separated by {other[0]!r}, not by {separator!r}" if other else ""
        raise ConfigError(f"{path}: no column {', '.join(missing)}; its header has: {shown}{hint}")
    if twice := [name for name in used if header.count(name) > 1]:
        raise ConfigError(
            f"{path}: the column {twice[0]} occurs {header.count(twice[0])} times in its header ({shown}); rename all but one"
        )


Record = tuple[int, list[str] | None, int]  # first line from 1, cells (None: its quotes are invalid), index of the next line


def _tabbed(lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        yield number, line.removesuffix("\r").split("\t"), number


class _Swallowed(Exception):
    """A quoted cell has run into whole rows."""


class Quoted:
    """csv records of lines. width, label: cells of a row (0: unknown), and which of them is its label."""

    def __init__(self, lines: Sequence[str], start: int = 0, width: int = 0, label: int = -1) -> None:
        self.lines, self.start, self.width, self.label = lines, start, width, label
        self.labels: frozenset[str] = frozenset()
        self._numeric, self.budget = False, REREAD * (sum(map(len, lines)) + 4096)

    def records(self) -> Iterator[Record]:
        """Every record in order. Raises ConfigError for a file whose quotes never fit, which would be read again without end."""
        if self.width and self.label >= 0:
            single = ((cells, following - number) for number, cells, following in self._records() if cells and len(cells) == self.width)
            self.labels = frozenset(cells[self.label].strip() for cells, more in single if not more)
            self._numeric = bool(self.labels) and all(NUMBER.match(label) for label in self.labels)
        yield from self._records()

    def _records(self) -> Iterator[Record]:
        at = self.start
        while at < len(self.lines):
            line = self.lines[at].removesuffix("\r")
            if '"' in line or "\r" in line:
                cells, following = self._quoted(at)
            else:
                cells, following = line.split(",") if line else [], at + 1
            yield at + 1, cells, following
            at = following

    def _quoted(self, first: int) -> tuple[list[str] | None, int]:
        """The record that starts on a line with quotes, and the line after it; after an invalid one that is the very next line."""
        reached, inside = first, list[str]()

        def feed() -> Iterator[str]:
            nonlocal reached
            for reached in range(first, len(self.lines)):
                if reached > first + 1 and self._is_row(self.lines[reached - 1], inside):
                    raise _Swallowed
                yield self.lines[reached] + "\n"

        try:
            with _long_fields():
                return next(csv.reader(feed(), strict=True)), reached + 1
        except (csv.Error, _Swallowed):
            self.budget -= sum(len(self.lines[at]) + 1 for at in range(first, reached + 1))
            if self.budget < 0:
                raise ConfigError(
                    f"line {first + 1}: quotes do not close there and in too many other lines; write the file as tsv"
                ) from None
            return None, first + 1

    def _is_row(self, line: str, inside: list[str]) -> bool:
        """Whether a line within a quoted cell shows that the cell's quote was never closed: a whole row with a label of other rows, or
        one of several whole rows whose labels repeat. inside: labels of the whole rows so far."""
        if not self.width or '"' in line:
            return False
        cells = line.removesuffix("\r").split(",")
        if len(cells) != self.width:
            inside.clear()
            return False
        label = cells[self.label].strip()
        inside.append(label)
        if label in self.labels or (self.labels and self._numeric and NUMBER.match(label)):
            return True
        return len(inside) >= SWALLOWED and len(set(inside)) <= len(inside) // 2


@contextmanager
def _long_fields() -> Iterator[None]:
    """Without csv's limit of 131,072 characters for a cell, which is the whole process's: it is set back."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)
