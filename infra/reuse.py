"""Shards that an earlier artifact of the same stage has made already: linked into a new one instead of made again.

A corpus that grows by a day, or loses a few documents, changes few of its shards. A stage that says it works shard by shard
(`Stage.shardwise`) then does only those: the others stand, byte for byte, in an artifact of the same version and config.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra import finished
from infra.artifact import Artifact, digest
from infra.errors import ArtifactError

if TYPE_CHECKING:
    from infra.store import Store

Files = Mapping[str, str]  # name in an artifact -> xxh3


@dataclass(frozen=True)
class Shardwise:
    """The promise that an output shard follows from the config, the shard of the same name of this input (its main table and these
    sides of it), the input's files that are no shards, and all other inputs whole.
    """

    input: str
    sides: tuple[str, ...] = ()


def take_over(wise: Shardwise, record: Mapping[str, Any], source: Artifact, store: Store, out: Path) -> int:
    """Link into out every shard of an earlier artifact that this work would only repeat; how many.

    record is the manifest's beginning (infra.stage.record). A file that does not hash to what its manifest says is not taken.
    """
    best: dict[str, list[dict[str, Any]]] = {}
    giver: Artifact | None = None
    for other, before in _siblings(wise, record, store):
        shared = _equal(wise, source, before)
        found = {name: _files_of(other, name) for name in shared}
        found = {name: files for name, files in found.items() if files}
        if len(found) > len(best):
            best, giver = found, other
    if giver is None:
        return 0
    return sum(_link(giver.path, files, out) for _, files in sorted(best.items()))


def _siblings(wise: Shardwise, record: Mapping[str, Any], store: Store) -> Iterator[tuple[Artifact, Artifact]]:
    """Artifacts that differ from this record only in the input that is read shard by shard, each with that input."""
    for other in store.made(record["stage"]):
        try:
            theirs = other.manifest
            same = all(theirs[key] == record[key] for key in ("stage", "version", "config"))
            inputs, ours = dict(theirs["inputs"]), dict(record["inputs"])
            place = inputs.pop(wise.input, None)
            ours.pop(wise.input)
            if same and place is not None and _agree(inputs, ours) and (before := store.here(place["stage"], place["fingerprint"])):
                yield other, before
        except (ArtifactError, KeyError):  # a damaged one is set aside when it is asked for, not here
            continue


def _agree(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether two records name the same inputs; manifests of earlier versions do not say with what content."""
    return theirs.keys() == ours.keys() and all({**ours[name], **theirs[name]} == ours[name] for name in ours)


def _equal(wise: Shardwise, source: Artifact, before: Artifact) -> list[str]:
    """The names of the main shards that are the same in both, in order; none when something beside the shards differs."""
    now, then = _hashes(source), _hashes(before)
    if {n: h for n, h in now.items() if not n.endswith(".arrow")} != {n: h for n, h in then.items() if not n.endswith(".arrow")}:
        return []
    return [name for name in now if _is_main(name) and all(now.get(n) == then.get(n) for n in _parts(wise, name))]


def _hashes(artifact: Artifact) -> Files:
    return {entry["name"]: entry["xxh3"] for entry in artifact.files}


def _parts(wise: Shardwise, name: str) -> list[str]:
    return [name, *(f"{side}/{name}" for side in wise.sides)]


def _is_main(name: str) -> bool:
    return name.endswith(".arrow") and "/" not in name


def _files_of(artifact: Artifact, shard: str) -> list[dict[str, Any]]:
    """The entries of one output shard, the main table last: where it is, its sides are. Empty when the main table is not there."""
    entries = [entry for entry in artifact.files if entry["name"].rpartition("/")[2] == shard]
    entries.sort(key=lambda entry: (_is_main(entry["name"]), entry["name"]))
    return entries if entries and _is_main(entries[-1]["name"]) else []


def _link(folder: Path, entries: list[dict[str, Any]], out: Path) -> bool:
    """False, and nothing linked under the main name, when the shard is there already or a file of it is damaged."""
    if (out / entries[-1]["name"]).exists():
        return False
    for entry in entries:
        source, target = folder / entry["name"], out / entry["name"]
        if not source.is_file() or digest(source) != entry["xxh3"]:
            return False
        needs = [out / other["name"] for other in entries[:-1]] if entry is entries[-1] else []
        link(source, target, needs=needs, xxh3=entry["xxh3"])
    return True


def link(source: Path, target: Path, needs: Iterable[Path] = (), xxh3: str = "") -> None:
    """A hard link under a temporary name, then renamed and recorded; a copy where links cannot be made. Finished files are never
    written again. needs: files that must be complete, too, for this one to count. xxh3: the hash of source, if it is known.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    draft.unlink(missing_ok=True)
    try:
        os.link(source, draft)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, draft)
        finished.sync(draft)
    os.replace(draft, target)
    draft.unlink(missing_ok=True)  # rename does nothing when both names are links of one file
    finished.record(target, needs, xxh3)
