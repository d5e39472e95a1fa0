"""Task files of every kind give the same examples, and no bad row passes or stops the reading."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    assert examples.rows == (Example("a", "x"),)
    assert examples.corrupt == {"json": 2, "label": 1, "text": 1}


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
