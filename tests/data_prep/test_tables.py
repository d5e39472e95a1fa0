"""Rows of csv, tsv and jsonl: as Python's csv module reads them strictly, and an invalid row never costs another."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tables
from infra.errors import ConfigError

HERE = Path("t.csv")
LABELS = ("north", "south")


def read(text: str, used: tuple[str, ...] = ("text", "label")) -> tuple[list[dict[str, str]], list[tuple[int, str]]]:
    rows = list(tables.table_rows(HERE, text, ",", used, "label"))
    return [row.cells for row in rows if not row.reason], [(row.line, row.reason) for row in rows if row.reason]


def written(rows: list[tuple[str, str]], **options: object) -> str:
    file = io.StringIO()
    csv.writer(file, **options).writerows([("text", "label"), *rows])  # type: ignore[arg-type]
    return file.getvalue()


cells = st.text(st.sampled_from('ab ",\n'), min_size=1, max_size=12)


@given(st.lists(st.tuples(cells, st.sampled_from(LABELS)), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], end: str, everything: bool) -> None:
    text = written(rows, lineterminator=end, quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL)
    assert [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), strict=True)][1:] == rows
    assert read(text) == ([{"text": t, "label": label} for t, label in rows], [])


@given(st.lists(st.sampled_from(LABELS), min_size=8, max_size=40), st.sets(st.integers(0, 39), min_size=1, max_size=4), st.data())
@settings(max_examples=150, deadline=None)
def test_a_stray_quote_costs_its_own_row_at_most(labels: list[str], chosen: set[int], data: st.DataObject) -> None:
    lines = [f"the ship sails {number},{label}" for number, label in enumerate(labels)]
    struck = sorted(number for number in chosen if number < len(lines))
    for number in struck:
        at = data.draw(st.one_of(st.just(0), st.integers(0, len(lines[number]))))
        lines[number] = lines[number][:at] + '"' + lines[number][at:]
    rows, bad = read("\n".join(["text,label", *lines]) + "\n")
    assert len(rows) + len(bad) == len(lines)  # every line is a row or counted
    assert {line - 2 for line, _ in bad} <= set(struck)
    assert [row["text"].replace('"', "") for row in rows] == [
        line.replace('"', "").split(",")[0] for number, line in enumerate(lines) if (number + 2, "quotes") not in bad
    ]


def test_a_quote_that_closes_fifty_rows_later_by_the_rules_of_csv_still_costs_one() -> None:
    """Both ends are valid csv: only the rows inside show what happened."""
    lines = [f"row {number},{LABELS[number % 2]}" for number in range(100)]
    lines[20], lines[70] = '"row 20,south', 'row 70",north'
    assert len(list(csv.reader(["text,label", *lines], strict=True))) < 60
    rows, bad = read("\n".join(["text,label", *lines]))
    assert (len(rows), bad) == (99, [(22, "quotes")])


def test_rows_inside_a_quote_are_seen_without_any_row_outside() -> None:
    lines = ['"first,north', *(f"row {number},{LABELS[number % 2]}" for number in range(8)), 'last",south']
    rows, bad = read("\n".join(["text,label", *lines]))
    assert (len(rows), bad) == (9, [(2, "quotes")])


def test_a_poem_in_a_cell_stays_one_text() -> None:
    poem = "Come, night\nThe wind, it rose\nThe sea, it fell\nThe moon, a coin\nThe harbor, dark\nThe end, of it"
    rows, bad = read(written([(poem, "north"), ("short", "south")]))
    assert (rows[0]["text"], bad) == (poem, [])


def test_a_cell_may_be_longer_than_the_csv_modules_limit() -> None:
    before = csv.field_size_limit()
    rows, bad = read(written([('a "long" text ' * 20_000, "north"), ("b", "south")]))
    assert (len(rows[0]["text"]), bad) == (280_000, [])
    assert csv.field_size_limit() == before


def test_a_lone_carriage_return_is_text_in_tsv_and_a_counted_row_in_csv() -> None:
    text = "label\ttext\nnorth\tone\rtwo\nsouth\tthree\u2028four\x85five\n"
    rows = list(tables.table_rows(HERE, text, "\t", ("text", "label")))
    assert [row.cells["text"] for row in rows] == ["one\rtwo", "three\u2028four\x85five"]
    found, bad = read("text,label\none\rtwo,north\nthree,south\n")
    assert (found, bad) == ([{"text": "three", "label": "south"}], [(2, "quotes")])
    with pytest.raises(csv.Error):
        list(csv.reader(["one\rtwo,north\n"], strict=True))


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_file_of_an_old_mac_has_rows(separator: str) -> None:
    text = "\r".join(separator.join(row) for row in [("text", "label"), ("one", "north"), ("two", "south")])
    rows = list(tables.table_rows(HERE, text, separator, ("text", "label")))
    assert [row.cells["text"] for row in rows] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label,label\na,b,c\n", "the column label occurs 2 times"),
        ("text;label\na;b\n", "look separated by ';'"),
        ("", "its header has: nothing"),
        ('"text,label\na,b\n', "no column text"),
    ],
)
def test_a_header_that_cannot_be_used_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text,label\na,b\n".encode("utf-16"), "is encoded in UTF-16"),
        ("text,label\na,b\n".encode("utf-32"), "is encoded in UTF-32"),
        ("text,label\na,b\n".encode("utf-16-le"), "looks like UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        tables.text_of(tmp_path / "t.csv")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(b"\x1f\x8b\x08\x00torn")
    with pytest.raises(ConfigError, match=r"t.csv.gz: cannot be read to its end"):
        tables.text_of(tmp_path / "t.csv.gz")


def test_the_first_bytes_of_a_file_end_with_a_whole_line(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbftext\tlabel\none\tnorth\ntwo\tsouth\n")
    assert tables.text_of(tmp_path / "t.tsv", 30) == "text\tlabel\none\tnorth\n"


@given(st.lists(st.one_of(st.text(), st.builds(json.dumps, st.recursive(st.none() | st.text() | st.floats(), st.lists)))))
@settings(max_examples=30, deadline=None)
def test_every_line_of_json_is_an_object_or_counted(lines: list[str]) -> None:
    lines = [line.replace("\n", " ") for line in lines] + ['{"text": 1}', "[" * 10_000]
    found = list(tables.json_rows("\n".join(lines) + "\n"))
    assert [row.line for row in found] == [number for number, line in enumerate(lines, 1) if line.strip()]
    assert sum(not row.reason for row in found) == 1


@given(st.text(st.sampled_from('a",\r\n\0é\ud800'), max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_text_stops_the_reading(text: str) -> None:
    rows = list(tables.table_rows(HERE, "text,label\n" + text, ",", ("text", "label"), "label"))
    assert all(set(row.cells) == {"text", "label"} or row.reason in ("quotes", "columns") for row in rows)


def test_quotes_that_never_fit_end_in_an_error_instead_of_endless_reading() -> None:
    lines = tables.Quoted(['a","b'] * 20_000)  # each line opens a quote that the next one only seems to close
    with pytest.raises(ConfigError, match="quotes do not close"):
        list(lines.records())
