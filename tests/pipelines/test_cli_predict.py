"""`textmill predict` through the command itself: files of every kind, columns, rows that cannot be read."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner, Result

from data_prep.tokenizer import byte_bpe, wordpiece
from infra.errors import ConfigError
from pipelines.cli import app
from training.families.catalog import family
from training.families.family import Use
from training.finetune import classes_of

TEXT = "The miller carried the sack to the mill and the wind turned the wheel. " * 20
SHAPE = {"width": 32, "layers": 2, "heads": 4, "ffn": 0, "embedding_width": 0, "positions": 40, "dropout": 0.0, "init_std": 0.2}
ROWS = [("The miller carried the sack.", "The wind turned."), ("mill", "the wheel " * 30), ("the wind " * 40, "x")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT classifier with random weights."""
    root = tmp_path_factory.mktemp("predict")
    meta = wordpiece.train([TEXT], root / "tokenizer", 80, min_frequency=1)
    found = family("bert")
    body = found.build(replace(found.sizes["tiny"], vocab=meta.vocab, **SHAPE), seed=0)
    found.export(found.task_tower(body, 3), root / "bert", root / "tokenizer", Use(length=20, retained=classes_of(["no", "maybe", "yes"])))
    return root / "bert"


def predict(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def rows_of(told: Result) -> list[dict]:
    assert told.exit_code == 0, told.output
    return [json.loads(line) for line in told.stdout.splitlines()]


@pytest.fixture(scope="module")
def pairs(model: Path) -> list[dict]:
    pipe = transformers.pipeline("text-classification", model=str(model))
    return pipe([{"text": a, "text_pair": b} for a, b in ROWS], truncation=True, padding=True)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "jsonl.gz"])
def test_pairs_of_every_kind_of_file_are_those_of_the_pipeline(kind: str, model: Path, pairs: list[dict], tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    if "jsonl" in kind:
        data = "".join(json.dumps({"a": a, "b": b, "more": 1}) + "\n" for a, b in ROWS).encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("".join(f"{a}{mark}{b}\n" for a, b in [("a", "b"), *ROWS]))
    rows = rows_of(predict(model, path, "--text", "a", "--pair", "b"))
    assert [row["label"] for row in rows] == [one["label"] for one in pairs]
    assert [row["score"] for row in rows] == pytest.approx([one["score"] for one in pairs], abs=1e-5)
    assert [row["line"] for row in rows] == ([1, 2, 3] if "jsonl" in kind else [2, 3, 4])
    assert all(set(row["scores"]) == {"no", "maybe", "yes"} and row["scores"][row["label"]] == row["score"] for row in rows)


def test_lines_of_a_plain_file_are_texts(model: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text('The miller\r\nThe wind, "quoted"\n', encoding="utf-8")
    rows = rows_of(predict(model, tmp_path / "lines.txt"))
    pipe = transformers.pipeline("text-classification", model=str(model))
    assert [row["score"] for row in rows] == pytest.approx([one["score"] for one in pipe(["The miller", 'The wind, "quoted"'])], abs=1e-5)


def test_batches_change_nothing_and_out_is_a_file(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(json.dumps({"text": "the wind " * n}) + "\n" for n in range(1, 12)))
    one = rows_of(predict(model, path, "--batch", 1))
    told = predict(model, path, "--batch", 5, "--out", out)
    assert told.exit_code == 0 and not told.stdout
    five = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["score"] for row in five] == pytest.approx([row["score"] for row in one], abs=1e-6)


def test_rows_that_cannot_be_read_keep_their_place_and_are_counted(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "the mill"}\n{broken\n{"text": ""}\n{"other": 1}\n{"text": 5}\n{"text": "\xff"}\n{"text": "wind"}\n')
    told = predict(model, path)
    rows = rows_of(told)
    assert [row.get("error", "") for row in rows] == ["", "json", "text", "text", "text", "encoding", ""]
    assert "5 rows have no prediction" in told.stderr


def test_what_cannot_be_predicted_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text("text\tlabel\nx\ty\n")
    (tmp_path / "rows.parquet").write_text("")
    (tmp_path / "lines.txt").write_text("x\n")

    def refused(*words: object) -> str:
        error = predict(*words).exception
        assert isinstance(error, ConfigError), error
        return str(error)

    assert "no column sentence" in refused(model, tmp_path / "rows.tsv", "--text", "sentence")
    assert "must be in a .tsv, .csv, .jsonl or .txt" in refused(model, tmp_path / "rows.parquet")
    assert "there is no file" in refused(model, tmp_path / "nothing.tsv")
    assert "reads pairs" in refused(model, tmp_path / "lines.txt", "--text", "a", "--pair", "b")
    assert "no model is called 'nobody'" in refused("nobody", tmp_path / "rows.tsv", "--workspace", tmp_path)
    meta = byte_bpe.train([TEXT], tmp_path / "tokenizer", 300)
    found = family("gpt2")
    found.export(found.build(replace(found.sizes["tiny"], vocab=meta.vocab, **SHAPE), seed=0), tmp_path / "gpt", tmp_path / "tokenizer")
    assert "no classification head" in refused(tmp_path / "gpt", tmp_path / "rows.tsv")
