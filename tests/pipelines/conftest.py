"""A small corpus of ready documents, a recipe of it, and a Prefect server of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

RECIPE = """\
name: small
corpus:
  sources:
    - {kind: documents, path: docs.jsonl}
  filter: {min_words: 20}
tokenizers:
  bytes: {kind: byte_bpe, vocab: 300}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {tokens: 2e3, batch_tokens: 512, length: 32, lr: 6e-4}}
"""
WORDS = "the of and to in is that with for as it on was are by this be at from have not language model data text page link crawl".split()  # noqa: SIM905
Textmill = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe file beside its documents: 60 short texts, no two alike."""
    rng = Random(1)
    with (tmp_path / "docs.jsonl").open("w") as file:
        for _ in range(60):
            text = " ".join(" ".join(rng.choice(WORDS) for _ in range(12)).capitalize() + "." for _ in range(10))
            file.write(json.dumps({"text": text}) + "\n")
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def textmill(tmp_path: Path) -> Textmill:
    """The real command in its own process, in an empty folder; it knows another test's Prefect server only if told its address."""

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"TEXTMILL_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **more}
        command = [sys.executable, "-m", "pipelines.cli", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return call


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server with an empty home; this process talks to it."""
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    os.environ.update({"TEXTMILL_HOME": str(home), "PREFECT_HOME": str(home / "prefect")})
    os.environ.pop("PREFECT_API_URL", None)
    from pipelines import prefect_server

    yield prefect_server.connect()
    if "prefect" in sys.modules:  # what is still to be logged would find no server
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=10)
    prefect_server.stop()
    os.environ.clear()
    os.environ.update(before)
