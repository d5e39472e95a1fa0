"""A run's folder and the artifacts its stages made, read with tolerance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.artifact import Artifact
from infra.store import Store

FINISHED = ("cached", "done")
Row = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A finished stage of the run."""

    label: str
    stage: str
    state: str
    seconds: float
    artifact: Artifact
    inputs: dict[str, str]

    @cached_property
    def counts(self) -> dict[str, int]:
        return self.artifact.counts


class Run:
    """A run's folder, read with tolerance: any file may be missing while a run is on its way or ended early."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store = folder, store
        self.rows: list[Row] = read_json(folder / "stages.json") or []
        self.status: Row = read_json(folder / "status.json") or {}

    @cached_property
    def made(self) -> list[Made]:
        found = []
        for row in self.rows:
            artifact = self.store.find(row["stage"], row["fingerprint"]) if row["state"] in FINISHED else None
            if artifact is not None:
                found.append(Made(row["label"], row["stage"], row["state"], row.get("seconds", 0.0), artifact, row.get("inputs", {})))
        return found

    def of(self, *stages: str) -> list[Made]:
        return [made for made in self.made if made.stage in stages]


def read_json(path: Path) -> Any:
    """The file's content; None when it is not there or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
