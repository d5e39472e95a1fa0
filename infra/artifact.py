"""What travels between stages: a finished folder, named by the fingerprint of what made it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import ArtifactError, Unreadable
from infra.hashing import xxh3

Counts = dict[str, int]
MANIFEST = "manifest.json"
SEAL = "xxh3"  # the key of a manifest's own hash
LOGS = ("metrics.jsonl",)  # what they hold are timings: no two runs write the same
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


def seal(manifest: dict[str, Any]) -> str:
    """The hash that a manifest holds of itself: of everything in it but this hash."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return xxh3(json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A handle small enough to pass through Ray, Prefect or a command line."""

    stage: str
    fingerprint: str
    path: Path = field(compare=False)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Raises ArtifactError when the manifest is missing, no JSON, or not what was written; Unreadable when it may not be read."""
        where = f"{self.stage}/{self.fingerprint}: {MANIFEST}"
        try:
            record: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            said = record.get(SEAL)  # manifests of earlier versions have none
            wrong = said is not None and said != seal(record)
        except PermissionError as error:
            raise Unreadable.of(self.path / MANIFEST, error) from error
        except (OSError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{where} cannot be read ({error}); run again to rebuild it") from error
        if wrong:
            raise ArtifactError(f"{where} is not what was written: its own hash differs; run again to rebuild it")
        return record

    @property
    def content(self) -> str:
        """A hash of every file's name and content, logs apart: what another artifact that was built from this one depends on.

        A kept training state (`state/`) counts, although most stages read the model alone: the training that extends it reads the state,
        and which files a stage has read is not recorded.
        """
        return fingerprint([[f["name"], f["bytes"], f["xxh3"]] for f in self.files if f["name"] not in LOGS])

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
