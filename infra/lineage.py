"""Damage follows lineage: with an artifact goes everything built from it, and whatever shares a damaged file by a hard link."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from infra.artifact import Artifact, digest
from infra.errors import ArtifactError

NOTE = "quarantine.json"  # in a quarantined directory: why it is there


@dataclass(frozen=True)
class Affected:
    """An artifact that cannot stay. because: the artifact it was built from or shares a file with, "stage/fingerprint"; "" when it is
    damaged itself. path: from the damaged artifact to this one.
    """

    artifact: Artifact
    problem: str
    because: str = ""
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quarantined(Affected):
    """place: the directory that holds its files now; none when somebody else had moved it before."""

    place: Path = field(default=Path())

    @property
    def message(self) -> str:
        """One line: what, why, and where its files are now."""
        name = f"{self.artifact.stage}/{self.artifact.fingerprint}"
        why = f"{name} was built from {self.because}, which is damaged" if self.because else self.problem
        return f"{why}; set aside as {self.place.name}"


def name_of(artifact: Artifact) -> str:
    """`stage/fingerprint`."""
    return f"{artifact.stage}/{artifact.fingerprint}"


def affected(damaged: Artifact, problem: str, every: Iterable[Artifact]) -> list[Affected]:
    """The damaged artifact and all that depends on it, descendants before what they were built from, so the damaged one comes last."""
    others = {name_of(one): one for one in every}
    parents = {name: _parents(one) for name, one in others.items()}
    root = Affected(damaged, problem, "", (name_of(damaged),))
    found = {name_of(damaged): root}
    waiting = [root]
    for twin in _sharing(damaged, others.values()):
        said = f"{name_of(twin)} shares a damaged file with {name_of(damaged)}"
        found[name_of(twin)] = Affected(twin, said, name_of(damaged), (name_of(damaged), name_of(twin)))
        waiting.append(found[name_of(twin)])
    while waiting:
        one = waiting.pop(0)
        for name in sorted(others):
            if name_of(one.artifact) in parents[name] and name not in found:
                because = f"{name} was built from {name_of(one.artifact)}"
                found[name] = Affected(others[name], because, name_of(one.artifact), (*one.path, name))
                waiting.append(found[name])
    return sorted(
        found.values(), key=lambda one: (one is root, -_depth(name_of(one.artifact), parents, found.keys()), name_of(one.artifact))
    )


def quarantine(one: Affected) -> Quarantined:
    """Move its directory to a name that nothing finds, with a note that says why. Nothing is deleted."""
    number, artifact = 0, one.artifact
    kind = "descendant" if one.because else "damaged"
    while (grave := artifact.path.with_name(f".{artifact.fingerprint}.{kind}-{number}")).exists():
        number += 1
    with suppress(FileNotFoundError):  # another process was faster
        os.rename(artifact.path, grave)
        note = {"artifact": name_of(artifact), "problem": one.problem, "because": one.because, "path": list(one.path)}
        (grave / NOTE).write_text(json.dumps(note, indent=1))
    return Quarantined(artifact, one.problem, one.because, one.path, grave)


def _parents(artifact: Artifact) -> set[str]:
    try:
        return {f"{said['stage']}/{said['fingerprint']}" for said in artifact.manifest["inputs"].values()}
    except (ArtifactError, KeyError, TypeError, AttributeError):
        return set()


def _depth(name: str, parents: dict[str, set[str]], within: Iterable[str]) -> int:
    """How many steps of lineage lead to it from the damaged artifact, by the longest way."""
    inside = [parent for parent in parents.get(name, set()) if parent in within and parent != name]
    return 1 + max((_depth(parent, parents, within) for parent in inside), default=0)


def _sharing(damaged: Artifact, others: Iterable[Artifact]) -> list[Artifact]:
    """Artifacts that hold a damaged file by a hard link."""
    bad = set()
    with suppress(ArtifactError, KeyError):
        for said in damaged.files:
            path = damaged.path / said["name"]
            with suppress(OSError):
                found = path.stat()
                if found.st_nlink > 1 and (found.st_size != said["bytes"] or digest(path) != said["xxh3"]):
                    bad.add((found.st_dev, found.st_ino))
    return [one for one in others if name_of(one) != name_of(damaged) and bad and bad & _inodes(one)]


def _inodes(artifact: Artifact) -> set[tuple[int, int]]:
    found = set()
    with suppress(ArtifactError, KeyError):
        for said in artifact.files:
            with suppress(OSError):
                stat = (artifact.path / said["name"]).stat()
                found.add((stat.st_dev, stat.st_ino))
    return found
