"""Checkpoints that are whole or absent: written aside, checked by hash, renamed, the last two kept."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash

from infra.artifact import digest
from infra.log import event
from training.engine.rank import Rank

MANIFEST = "manifest.json"
KEEP = 2


@dataclass(frozen=True)
class Point:
    """Where training stood: steps done and tokens seen. Data order, masks, dropout and rates follow from the step alone."""

    step: int = 0
    tokens: int = 0


class Stateful(Protocol):
    """What has a state in shares, one a rank."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path, world: int) -> None: ...


class Checkpoints:
    """The folder step-N holds every rank's share of the state after N steps; its manifest is written last."""

    def __init__(self, root: Path, place: Rank) -> None:
        self.root, self.place = root, place

    def save(self, engine: Stateful, point: Point) -> None:
        """All ranks; returns when the checkpoint is whole, on disk, and the older ones are gone."""
        final, part = self.root / f"step-{point.step}", self.root / f"step-{point.step}.part"
        if self.place.sum([float(self.place.first and (final / MANIFEST).exists())])[0]:
            return  # the same step has the same state, and this one is whole: resume would have removed it otherwise
        if self.place.first:
            for stale in (part, final):  # what a killed try left
                shutil.rmtree(stale, ignore_errors=True)
            part.mkdir(parents=True)
        self.place.sum([0.0])
        engine.save(part)
        self.place.sum([0.0])
        if self.place.first:
            _seal(part, {**asdict(point), "world": self.place.world})
            part.rename(final)
            _sync(self.root)
            self._rotate()
        self.place.sum([0.0])

    def resume(self, engine: Stateful) -> Point:
        """Load the newest checkpoint that is whole; the start when there is none. All ranks take the same one."""
        found = self._newest() if self.place.first else None
        step, tokens, world = (int(x) for x in self.place.sum([found[k] if found else 0 for k in ("step", "tokens", "world")]))
        if not step:
            return Point()
        engine.load(self.root / f"step-{step}", world)
        return Point(step, tokens)

    def _newest(self) -> dict[str, Any] | None:
        """The last checkpoint whose every file is what its manifest says; damaged ones are told of and removed."""
        for folder in sorted(self._folders(), key=_step, reverse=True):
            try:
                return verify(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                event("warning", message=f"checkpoint {folder.name} is damaged ({error}); the one before it is used")
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def _rotate(self) -> None:
        for folder in sorted(self._folders(), key=_step)[:-KEEP]:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return [f for f in self.root.glob("step-*") if f.name.removeprefix("step-").isdigit()]


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint. Raises OSError, KeyError, TypeError or ValueError for any other."""
    sealed = json.loads((folder / MANIFEST).read_text())
    record: dict[str, Any] = sealed["record"]
    if sealed["xxh3"] != _seal_of(record):
        raise ValueError("its manifest is not what was written")
    if record["step"] != _step(folder):
        raise ValueError(f"its manifest is of step {record['step']}")
    for name, said in record["files"].items():
        path = folder / name
        if path.stat().st_size != said["bytes"] or digest(path) != said["xxh3"]:
            raise ValueError(f"{name} is not what was written")
    return record


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _seal(folder: Path, record: dict[str, Any]) -> None:
    """Everything under folder on the disk itself, then the manifest that vouches for it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    entries = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "xxh3": digest(p)} for p in files}
    part = folder / (MANIFEST + ".part")
    whole = {**record, "files": entries}
    part.write_text(json.dumps({"record": whole, "xxh3": _seal_of(whole)}, indent=1, sort_keys=True))
    _sync(part)
    part.rename(folder / MANIFEST)
    for inner in {path.parent for path in files} | {folder}:
        _sync(inner)


def _seal_of(record: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(record, sort_keys=True).encode())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
