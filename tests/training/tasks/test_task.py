"""Task files of every kind give the same examples, and no bad row passes or stops the reading."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import tables
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError
from training.tasks.task import Columns, Example, Examples, read_examples

ROWS = [("a fine film", "1"), ('he said "no" twice', "0"), ("naïve, but good", "1")]


def write(path: Path, content: bytes) -> SourceFile:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return SourceFile.of(path)


def tsv(rows: list[tuple[str, ...]], header: str = "text\tlabel") -> bytes:
    return "\n".join([header, *("\t".join(row) for row in rows)]).encode() + b"\n"


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.jsonl", "t.tsv.gz", "t.jsonl.gz"])
def test_one_table_reads_the_same_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    if "tsv" in name:
        content = tsv(ROWS)
    elif "jsonl" in name:
        content = "\n".join(json.dumps({"text": t, "label": int(y)}) for t, y in ROWS).encode()
    else:
        with (tmp_path / "x").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *ROWS])
        content = (tmp_path / "x").read_bytes()
    assert read_examples(write(tmp_path / name, content), Columns()).rows == tuple(Example(t, y) for t, y in ROWS)


def test_every_bad_row_is_counted_under_its_reason(tmp_path: Path) -> None:
    content = (
        tsv([*ROWS, ("too", "many", "cells"), ("", "1"), ("no label", " ")]) + b"bad \xff byte\t1\n" + "lost \ufffd once\t0\n".encode()
    )
    examples = read_examples(write(tmp_path / "t.tsv", content), Columns())
    assert len(examples.rows) == 3
    assert examples.corrupt == {"columns": 1, "encoding": 2, "label": 1, "text": 1}
    assert examples.read == 8


def test_broken_json_lines_are_counted(tmp_path: Path) -> None:
    content = b'{"text": "a", "label": "x"}\n{"text": \n[1]\n\n{"text": 3, "label": "x"}\n{"text": "b", "label": 1.5}\n'
    examples = read_examples(write(tmp_path / "t.jsonl", content), Columns())
    assert examples.rows == (Example("a", "x"), Example("b", "1.5"))
    assert examples.corrupt == {"json": 2, "text": 1}
    assert examples.problems() == "2 json (lines 2, 3); 1 text (line 5)"


def test_labels_are_kept_as_they_are_written(tmp_path: Path) -> None:
    values = [True, False, 2, 0.5, -1.0, "x y", None, float("nan"), [1]]
    content = "\n".join(json.dumps({"text": "a", "label": value}) for value in values).encode()
    examples = read_examples(write(tmp_path / "t.jsonl", content), Columns())
    assert [row.label for row in examples.rows] == ["true", "false", "2", "0.5", "-1.0", "x y"]
    assert examples.corrupt == {"label": 3} and examples.lines == {"label": (7, 8, 9)}


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_byte_order_mark_line_ends_empty_texts_and_nul(tmp_path: Path, kind: str) -> None:
    rows = ["text,label", "one,1", ",0", "two\0,1", "three,0", "", "four,1,0"]
    content = "\r\n".join(rows).replace(",", "\t" if kind == "tsv" else ",").encode("utf-8-sig")
    examples = read_examples(write(tmp_path / f"t.{kind}", content), Columns())
    assert examples.rows == (Example("one", "1"), Example("three", "0"))
    assert examples.lines == {"columns": (7,), "nul": (4,), "text": (3,)}
    assert examples.read == 5


def test_rows_in_another_encoding_are_counted_and_the_others_used(tmp_path: Path) -> None:
    content = "text\tlabel\ncafé\t1\n".encode() + "café\t1\n".encode("latin-1") + "집\t0\n".encode("cp949") + b"plain\t0\n"
    examples = read_examples(write(tmp_path / "t.tsv", content), Columns())
    assert [row.text for row in examples.rows] == ["café", "plain"]
    assert (examples.corrupt, examples.lines) == ({"encoding": 2}, {"encoding": (3, 4)})


def test_a_text_beyond_the_limit_is_counted_in_every_kind_of_file(tmp_path: Path) -> None:
    long = "a" * (tables.MAX_CHARACTERS + 1)
    for name, content in (("t.csv", f"text,label\n{long},1\nb,0\n"), ("t.tsv", f"text\tlabel\n{long}\t1\nb\t0\n")):
        examples = read_examples(write(tmp_path / name, content.encode()), Columns())
        assert (examples.rows, examples.corrupt) == ((Example("b", "0"),), {"long": 1})


def test_ids_that_occur_twice_are_counted_and_their_rows_used(tmp_path: Path) -> None:
    source = write(tmp_path / "t.tsv", tsv([("7", "a", "x"), ("8", "b", "y"), ("7", "c", "x")], "idx\ttext\tlabel"))
    examples = read_examples(source, Columns())
    assert (len(examples.rows), examples.duplicate_ids) == (3, 1)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_labels_are_counted_in_numeric_order(numbers: list[int]) -> None:
    examples = Examples(tuple(Example("a", str(number)) for number in numbers), {})
    assert list(examples.labels.items()) == [(str(number), numbers.count(number)) for number in sorted(set(numbers))]


def test_a_csv_cell_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    content = b'text,label\n"one, ""two""\nthree",yes\n'
    assert read_examples(write(tmp_path / "t.csv", content), Columns()).rows == (Example('one, "two"\nthree', "yes"),)


def test_pairs_come_from_two_named_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "t.tsv", tsv([("0", "a b", "c", "same")], "index\ts1\ts2\tgold"))
    assert read_examples(source, Columns("s1", "gold", "s2")).rows == (Example("a b", "same", "c"),)


def test_a_missing_column_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column sentence; its header has: text, label"):
        read_examples(write(tmp_path / "t.tsv", tsv(ROWS)), Columns(text="sentence"))


@pytest.mark.parametrize(
    ("name", "content", "message"), [("t.xlsx", b"x", "must end in"), ("t.tsv", b"text\tlabel\n", "none of its 0 rows")]
)
def test_a_file_that_cannot_be_a_task_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_examples(write(tmp_path / name, content), Columns())


def test_a_file_that_changed_since_it_was_named_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "t.tsv", tsv(ROWS))
    (tmp_path / "t.tsv").write_bytes(tsv(ROWS[:1]))
    with pytest.raises(ArtifactError, match="not the file"):
        read_examples(source, Columns())


cell = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffd\u2028\u2029"), min_size=1).filter(
    lambda t: t == t.strip() and t
)


@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_whatever_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    source = write(path, "\n".join(json.dumps({"text": t, "label": y}) for t, y in rows).encode())
    assert read_examples(source, Columns()) == Examples(tuple(Example(*row) for row in rows), {})


def test_real_glue_files_read_without_loss(data: Path) -> None:
    sst = read_examples(SourceFile.of(data / "finetune/glue/SST-2/dev.tsv"), Columns(text="sentence"))
    rte = read_examples(SourceFile.of(data / "finetune/glue/RTE/dev.tsv"), Columns("sentence1", "label", "sentence2"))
    assert (len(sst.rows), sst.corrupt) == (872, {})
    assert (len(rte.rows), rte.corrupt) == (277, {})


TWENTY = "".join(f"row {n},{('no', 'yes')[n % 2]}\n" for n in range(20))


@pytest.mark.parametrize(
    ("name", "content", "rows", "corrupt"),
    [
        ("t.csv", f'text,label\n"a,yes\n{TWENTY}b",no\n{TWENTY}', 41, {"quotes": 1}),
        ("t.csv", f'text,label\n{TWENTY}"open,yes\n', 20, {"quotes": 1}),
        ("t.csv", f'text,label\n"two\nlines",yes\n{TWENTY}', 21, {}),
        ("t.csv", f"text,label\na\0b,yes\n{TWENTY}", 20, {"nul": 1}),
        ("t.csv", "text,label,\n" + TWENTY.replace("\n", ",\n"), 20, {}),
        ("t.csv", f"text,label\n{TWENTY}".replace("\n", "\r"), 20, {}),
        ("t.jsonl", '{"text":"a","label":null}\n{"text":5,"label":1}\n{"text":"b","lab\n{"text":"c","label":0}\n', 1,
         {"label": 1, "text": 1, "json": 1}),
    ],
)  # fmt: skip
def test_a_bad_row_costs_itself_alone(tmp_path: Path, name: str, content: str, rows: int, corrupt: dict[str, int]) -> None:
    found = read_examples(write(tmp_path / name, content.encode()), Columns())
    assert (len(found.rows), dict(found.corrupt)) == (rows, corrupt)
