"""Artifacts made by hand: documents and pages given as rows, and what stages made of them as rows again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings

from data_prep import schemas, shards
from data_prep.corpus.extract import document_id
from infra.artifact import Artifact, fingerprint
from infra.compute import Compute, LocalCompute
from infra.stage import Inputs, Stage, run
from infra.store import Store

settings.register_profile("corpus", deadline=None, derandomize=True)  # the machine may be busy; a first call imports
settings.load_profile("corpus")

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    name: str


def as_document(row: dict[str, Any]) -> dict[str, Any]:
    facts = {"url": "", "host": "", "title": "", "language": "", "date": "", "charset": "", "karma": None, "source": "", **row}
    return {"id": document_id(facts["url"] or facts["text"]), **facts}


def _write(
    given: Sequence[pa.Table], files: dict[str, bytes], config: Given, inputs: Inputs, out: Path, compute: Compute
) -> dict[str, int]:
    for number, table in enumerate(given):
        shards.write(table, out / shards.name(number), {"read": table.num_rows, "kept": table.num_rows})
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    rows = sum(table.num_rows for table in given)
    return {"read": rows, "kept": rows}


@pytest.fixture
def given(store: Store) -> Callable[..., Artifact]:
    """given([[row, ...], ...]) puts documents in the store, one inner list a shard; schema and files for pages."""

    def make(parts: Sequence[Rows], schema: pa.Schema = schemas.DOCUMENTS, files: dict[str, bytes] | None = None) -> Artifact:
        fill = as_document if schema is schemas.DOCUMENTS else dict
        tables = [pa.Table.from_pylist([fill(row) for row in rows], schema=schema) for rows in parts]
        content = {name: len(body) for name, body in (files or {}).items()}
        config = Given(fingerprint([t.to_pylist() for t in tables], content))
        return run(Stage("given", 1, partial(_write, tables, files or {})), config, {}, store, LocalCompute())

    return make


def table_of(paths: Sequence[Path]) -> Rows:
    return [row for path in paths for row in shards.read(path).to_pylist()]


def bytes_of(artifact: Artifact) -> dict[str, bytes]:
    files = sorted(p for p in artifact.path.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(artifact.path)): p.read_bytes() for p in files}


@pytest.fixture
def rows() -> Callable[[Sequence[Path]], Rows]:
    return table_of


@pytest.fixture
def content() -> Callable[[Artifact], dict[str, bytes]]:
    """Every file of an artifact but its manifest, which says when it was made."""
    return bytes_of


@pytest.fixture
def json_lines(data: Path) -> Callable[[str], Rows]:
    """json_lines("text/en/books.jsonl.gz") as rows."""

    def read(name: str) -> Rows:
        with gzip.open(data / name, "rt") as file:
            return [json.loads(line) for line in file]

    return read


@pytest.fixture
def articles(data: Path) -> tuple[Rows, set[frozenset[str]]]:
    """1,000 news articles, and the ten pairs their authors planted."""
    with gzip.open(data / "neardup/articles.train.gz", "rt") as file:
        split = [line.strip().split(" ", 1) for line in file]
    truth = {frozenset(line.split()) for line in (data / "neardup/articles.truth").read_text().splitlines()}
    return [{"id": name, "text": text} for name, text in split], truth
