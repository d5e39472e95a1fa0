"""A recipe that turns the whole mill in a minute, the real command to run it with, and what it leaves, read by other means than ours."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

RECIPE = """\
name: mini
site: {kind: pydoc, packages: [json, email, logging, http, pyarrow.types], task_rows: 120}
corpus:
  sources:
    - {kind: submissions, path: "site:submissions.csv.gz", min_karma: 1}
  links: {shards: 3}
  crawl: {contact: https://textmill.test/about, per_host_delay_s: 0.0, dead_after: 3, backoff_s: 0.05, allow_networks: [127.0.0.0/8]}
  filter: {languages: [en], min_words: 20}
tokenizers:
  bytes: {kind: byte_bpe, vocab: 512}
  pieces: {kind: wordpiece, vocab: 512, lowercase: true}
models:
  gpt:
    family: gpt2
    size: tiny
    tokenizer: bytes
    pretrain: &short {tokens: 12_288, batch_tokens: 512, length: 64, save_every: 5, log_every: 1}
  bert: {family: bert, size: tiny, tokenizer: pieces, pretrain: *short}
students:
  half: {teacher: bert, tokens: 12_288, batch_tokens: 512, save_every: 5, log_every: 1}
tasks:
  package:
    kind: classify
    train: "site:task/train.tsv"
    dev: "site:task/dev.tsv"
    models: [half]
    epochs: 3
    length: 64
    batch: 8
    save_every: 5
    log_every: 1
    samples: 50
"""
RUN = ("run", "mini.yaml", "--plain")
DATA = ("site", "links", "crawl", "extract", "filter", "dedup", "tokenizer", "encode", "blocks", "pairs")
FETCHED = ("fetched_at", "warc_file", "warc_offset")  # of a page: when and where, no two crawls agree on it

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A folder with the recipe and a workspace: where the command is typed."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mini.yaml").write_text(RECIPE)
        return cls(folder)

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    def environment(self) -> dict[str, str]:
        own = {"TEXTMILL_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "160", "HF_HUB_OFFLINE": "1"}
        return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | own

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipelines.cli", *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, *words: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
        """The real command in a process of its own."""
        command = [sys.executable, "-m", "pipelines.cli", *words]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    def run(self, *words: str) -> list[Row]:
        """A run that must end well; its stages."""
        told = self.call(*words)
        assert told.returncode == 0, told.stderr
        return self.rows()

    def newest(self) -> Path:
        return max((self.workspace / "runs").iterdir(), key=lambda path: (path.stat().st_ctime_ns, path.name))

    def rows(self) -> list[Row]:
        """The newest run's stages.json."""
        found: list[Row] = json.loads((self.newest() / "stages.json").read_text())
        return found

    def states(self) -> dict[str, str]:
        return {row["label"]: row["state"] for row in self.rows()}

    def events(self) -> list[Row]:
        """The newest run's events; a line that is being written is left out."""
        path = self.newest() / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def twin(self, folder: Path, *stages: str) -> Place:
        """The same place elsewhere with the artifacts of these stages (all when none is named), by hard links."""
        there = Place.make(folder)
        for artifact in self.workspace.glob("artifacts/*"):
            if not stages or artifact.name in stages:
                shutil.copytree(artifact, there.workspace / "artifacts" / artifact.name, copy_function=os.link)
        return there

    def made(self, row: Row) -> Path:
        """A stage's artifact."""
        return self.workspace / row["path"]


def content(artifact: Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest, which says when it was made."""
    files = sorted(path for path in artifact.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(artifact)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(paths: list[Path]) -> list[Row]:
    """Rows of Arrow files, read with pyarrow alone."""
    return [row for path in paths for row in pa.ipc.open_file(pa.OSFile(str(path))).read_all().to_pylist()]


def shards(artifact: Path, side: str = "") -> list[Path]:
    return sorted((artifact / side).glob("*.arrow"))


def pages(artifact: Path) -> list[Row]:
    """A crawl's rows without what no two crawls agree on."""
    return [{name: value for name, value in row.items() if name not in FETCHED} for row in table(shards(artifact))]


def counts(artifact: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((artifact / "manifest.json").read_text())["counts"]
    return found


def finished(base: Path) -> Place:
    """The recipe run once, undisturbed, for all tests of a session: a minute of CPU time."""
    place = Place.make(base / "mini")
    if not place.workspace.exists():
        told = place.call(*RUN)
        (place.folder / "stdout").write_text(told.stdout)
        assert told.returncode == 0, told.stderr
    return place
