"""What travels between stages: a finished folder, named by the fingerprint of what made it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import ArtifactError
from infra.hashing import xxh3

Counts = dict[str, int]
MANIFEST = "manifest.json"
CHUNK = 1 << 20


def digest(path: Path) -> str:
    """xxh3 (128 bits) of a file's bytes."""
    state = xxh3()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            state.update(block)
    return state.hexdigest()


@dataclass(frozen=True)
class SourceFile:
    """A file from outside: its content is part of a fingerprint, the place where it lies is not."""

    path: str
    digest: str
    name: str = ""

    @classmethod
    def of(cls, path: str | Path) -> SourceFile:
        """Raises ArtifactError when the file cannot be read."""
        path = Path(path)
        try:
            return cls(str(path.resolve()), digest(path), path.name)
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check the path in the recipe") from error


def how(default: Any) -> Any:
    """A config field that says how work is done and changes nothing of what comes out: it is not fingerprinted."""
    return field(default=default, metadata={"how": True})


def plain(value: Any) -> Any:
    """value as JSON can hold it, without `how` fields; what has no stable form (a set, a path, an object) is refused."""
    if isinstance(value, SourceFile):
        return {"name": value.name, "digest": value.digest}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if not f.metadata.get("how")}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no stable form and cannot be part of a fingerprint: {value!r}")


def fingerprint(*parts: Any) -> str:
    """Twelve hex digits that change when, and only when, one of the parts does."""
    text = json.dumps(plain(parts), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Artifact:
    """A handle small enough to pass through Ray, Prefect or a command line."""

    stage: str
    fingerprint: str
    path: Path = field(compare=False)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Raises ArtifactError when the manifest is missing or no JSON."""
        try:
            record: dict[str, Any] = json.loads((self.path / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.stage}/{self.fingerprint}: manifest cannot be read ({error}); run again to remake it") from error
        return record

    @property
    def counts(self) -> Counts:
        return dict(self.manifest["counts"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def files(self) -> list[dict[str, Any]]:
        """The manifest's entries {name, rows, bytes, xxh3}, by name."""
        return list(self.manifest["shards"])

    @property
    def shards(self) -> list[Path]:
        """The main Arrow shards, in order."""
        return [self.path / f["name"] for f in self.files if f["name"].endswith(".arrow") and "/" not in f["name"]]

    def side(self, name: str) -> list[Path]:
        """The Arrow shards of a side output, in order; empty when there is none."""
        return [self.path / f["name"] for f in self.files if f["name"].endswith(".arrow") and f["name"].rpartition("/")[0] == name]

    def file(self, name: str) -> Path:
        """Raises ArtifactError when the manifest lists no such file."""
        if all(f["name"] != name for f in self.files):
            raise ArtifactError(f"{self.stage}/{self.fingerprint} has no file {name}")
        return self.path / name
