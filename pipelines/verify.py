"""`textmill verify`: every file of every artifact hashed again; what is damaged is quarantined with all that was built from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra.artifact import MANIFEST
from infra.errors import ArtifactError, Unreadable
from infra.lineage import Quarantined, name_of
from infra.store import Store


@dataclass
class Verified:
    """num_artifacts: how many were there. unreadable: what this user may not read, which is neither sound nor damaged."""

    num_artifacts: int
    quarantined: list[Quarantined] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> list[str]:
        return [one.message for one in self.quarantined]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints. lineage: from the damaged artifact to each quarantined one."""
        rows = [
            {
                "artifact": name_of(one.artifact),
                "problem": one.problem,
                "because": one.because,
                "lineage": list(one.path),
                "moved_to": str(one.place),
            }
            for one in self.quarantined
        ]
        return {"artifacts": self.num_artifacts, "damaged": self.damaged, "quarantined": rows, "unreadable": self.unreadable}


def verify(store: Store) -> Verified:
    """Check all artifacts of a store, in the order of stage and fingerprint."""
    every = store.all()
    found = Verified(len(every))
    for artifact in every:
        if not (artifact.path / MANIFEST).exists():  # gone by now, as a descendant of another
            continue
        try:
            store.verify(artifact)
            problem = _stale(store, artifact.manifest.get("inputs", {}), name_of(artifact))
        except Unreadable as error:
            found.unreadable.append(str(error))
            continue
        except ArtifactError as error:
            problem = str(error)
        if problem:
            found.quarantined += store.quarantine(artifact, problem)
    return found


def _stale(store: Store, inputs: dict[str, dict[str, str]], name: str) -> str:
    """Why an artifact does not belong to what its inputs hold now; "" when it does, or when its manifest does not say."""
    for said in inputs.values():
        source = store.here(said["stage"], said["fingerprint"])
        if source is None or "content" not in said:
            continue
        try:
            if source.content != said["content"]:
                return f"{name} was built from another content of {said['stage']}/{said['fingerprint']}"
        except ArtifactError:
            continue  # it is checked itself
    return ""
