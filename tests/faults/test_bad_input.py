"""What cannot work is refused at once: one clear line, exit code 2, nothing written, no traceback."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.mini import Place

RECIPE = """\
name: wrong
corpus:
  sources:
    - {kind: documents, path: docs.jsonl}
  filter: {min_words: 20}
tokenizers:
  bytes: {kind: byte_bpe, vocab: 512}
  pieces: {kind: wordpiece, vocab: 512}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {length: 64, batch_tokens: 512}}
  bert: {family: bert, size: tiny, tokenizer: pieces, pretrain: {length: 64, batch_tokens: 512}}
students:
  half: {teacher: bert}
tasks:
  mood: {kind: classify, train: task.tsv, dev: task.tsv, models: [half]}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "docs.jsonl").write_text((json.dumps({"text": "Some words that are never read. " * 9}) + "\n") * 50)
    (tmp_path / "task.tsv").write_text("label\ttext\nx\tone\ny\ttwo\n")
    (tmp_path / "links.csv.gz").write_bytes(gzip.compress(b"title,ups\nno url here,3\n"))
    (tmp_path / "wrong.yaml").write_text(RECIPE)
    return Place(tmp_path)


def refusal(place: Place, *words: str) -> str:
    told = place.call("run", "wrong.yaml", "--plain", *words)
    return the_line(told, place)


def the_line(told: subprocess.CompletedProcess[str], place: Place) -> str:
    assert told.returncode == 2, told.stderr
    assert "Traceback" not in told.stderr + told.stdout and not told.stdout
    assert not place.workspace.exists(), "something was written before the refusal"
    lines = told.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("textmill: "), told.stderr
    return lines[0].removeprefix("textmill: ")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("min_words: 20", "min_word: 20", "wrong.yaml:5: corpus.filter has no `min_word`; did you mean `min_words`?"),
        ("tasks:", "task:", "wrong.yaml:14: a recipe has no `task`; did you mean `tasks`?"),
        ("family: bert", "famly: bert, family: bert", "wrong.yaml:11: models.bert has no `famly`; did you mean `family`?"),
        ("docs.jsonl", "dogs.jsonl", "wrong.yaml:4: corpus.sources.0.path: there is no file"),
        ("train: task.tsv", "train: tasks.tsv", "wrong.yaml:15: tasks.mood.train: there is no file"),
        ("min_words: 20", "min_words: twenty", "wrong.yaml:5: corpus.filter.min_words: it must be a valid integer"),
        ("vocab: 512}\n  pieces", "vocab: [512]}\n  pieces", "wrong.yaml:7: tokenizers.bytes.vocab: it must be a valid integer"),
        ("vocab: 512}\n  pieces", "vocab: 10}\n  pieces", "wrong.yaml:7: tokenizers.bytes: tokenizer.vocab 10: byte-level BPE needs 257"),
        ("min_words: 20", "min_words: 20, max_words: 10", "wrong.yaml:5: corpus.filter: filter: min_words 20 is more than max_words 10"),
        ("students:", "  spare: {family: gpt2, size: tiny, tokenizer: bites}\nstudents:", "did you mean `bytes`?"),
        ("teacher: bert", "teacher: bertha", "wrong.yaml:13: students.half.teacher: there is no model `bertha`; did you mean `bert`?"),
        ("teacher: bert", "teacher: gpt", "wrong.yaml:13: students.half: "),
        ("name: wrong\n", "name: wrong\nname: right\n", "wrong.yaml:2: `name` is given twice (first in line 1)"),
        ("tokenizers:", "tokenizers: {\n", "wrong.yaml:"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_its_line(place: Place, old: str, new: str, line: str) -> None:
    assert RECIPE.count(old) == 1
    (place.folder / "wrong.yaml").write_text(RECIPE.replace(old, new))
    assert line in refusal(place)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("models.gpt.pretrain.overrides={width: 130, heads: 4}", "models.gpt: width 130 is not a multiple of heads 4"),
        (
            "models.gpt.pretrain={length: 4096, batch_tokens: 4096}",
            "models.gpt: pretrain.length 4096 is more than gpt2/tiny's 256",
        ),
        (
            "models.bert.pretrain={length: 600, batch_tokens: 600}",
            "models.bert: pretrain.length 600 is more than bert/tiny's 512",
        ),
        ("models.gpt.size=huge", "models.gpt: gpt2 has no size `huge`; its sizes are"),
        ("models.gpt.family=gtp2", "models.gpt: there is no family `gtp2`; did you mean `gpt2`?"),
        ("models.bert.pretrain.batch_tokens=500", "is not a multiple of length 64"),
        ("students.half.layers=3", "students.half: 3 layers cannot be taken evenly from 2"),
        ("corpus.filter.min_wrods=3", "corpus.filter has no `min_wrods`; did you mean `min_words`?"),
        ("corpus.filtre.min_words=3", "did you mean `filter`?"),
        ("seed", "write it as a.key=value"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(place: Place, setting: str, line: str) -> None:
    assert line in refusal(place, "--set", setting)


def test_a_stage_that_is_none_a_recipe_that_is_not_there_and_a_folder_that_cannot_be_written(place: Place) -> None:
    assert "no stage is called so; did you mean `dedup`?" in refusal(place, "--until", "dedupe")
    assert "no recipe 'wrnog.yaml'" in the_line(place.call("run", "wrnog.yaml", "--plain"), place)
    (place.folder / "file").write_text("")
    assert "cannot be written" in refusal(place, "--workspace", "file/below")


def test_several_mistakes_are_several_lines_each_with_its_place(place: Place) -> None:
    (place.folder / "wrong.yaml").write_text(
        RECIPE.replace("min_words", "min_wrods").replace("docs.", "dogs.").replace("teacher: bert", "")
    )
    told = place.call("run", "wrong.yaml", "--plain")
    assert told.returncode == 2 and not place.workspace.exists()
    assert [line.split(": ")[1] for line in told.stderr.splitlines()] == ["wrong.yaml:4", "wrong.yaml:5", "wrong.yaml:13"]


def test_a_dump_without_the_columns_that_make_karma_is_refused_before_anything_is_made(place: Place) -> None:
    source = "{kind: submissions, path: links.csv.gz}\n  crawl: {contact: me@example.org}"
    (place.folder / "wrong.yaml").write_text(RECIPE.replace("{kind: documents, path: docs.jsonl}", source))
    told = place.call("run", "wrong.yaml", "--plain")
    assert told.returncode == 2 and "Traceback" not in told.stderr
    assert told.stderr.startswith("textmill: links.csv.gz: its first line names no columns `url` and `score`")
    assert not list(place.workspace.glob("artifacts/*/[!.]*"))
