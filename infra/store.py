"""A directory of artifacts. The manifest is written last and the directory renamed, so what exists is finished.

Commit, in this order, each step on the disk before the next: the stage's files, the manifest, the rename, and only then the removal
of the stage's scratch. A kill between two steps leaves an unfinished attempt that the next one continues, or a finished artifact with
some scratch in it that the next look removes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from infra import finished
from infra.artifact import MANIFEST, SEAL, Artifact, Counts, digest, seal
from infra.errors import ArtifactError, DamagedInput, Unreadable
from infra.lease import bury, held
from infra.lineage import Quarantined, affected, name_of, quarantine
from infra.log import event
from infra.mirror import Mirror

SOFTWARE = ("numpy", "pyarrow", "tokenizers", "sentencepiece", "torch", "deepspeed")
INPUTS = ".inputs.json"  # in scratch: what the attempt is built from; the last of the scratch to go
Identity = tuple[int, int, int]  # size, mtime in ns, inode


@dataclass
class Work:
    """A scratch directory to fill; counts end in the manifest."""

    out: Path
    counts: Counts


def write_whole(path: Path, text: str) -> None:
    """Write text so that a reader, or a crash, sees the old file or the new one and nothing between."""
    draft = path.with_name(f".{path.name}.part")
    with finished.naming(path), draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


class Store:
    """`root/<stage>/<fingerprint>/`; scratch directories are `root/<stage>/.<fingerprint>/` next to them.

    Files that were hashed once are not hashed again by this object while their size, date and inode stay the same.
    """

    def __init__(self, root: Path | str, mirror: Mirror | None = None) -> None:
        self.root, self.mirror = Path(root), mirror
        self._hashed: dict[Path, tuple[Identity, str]] = {}

    def path(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint

    def scratch(self, stage: str, fingerprint: str) -> Path:
        """Where it is made, until it is whole."""
        return self.root / stage / f".{fingerprint}"

    def find(self, stage: str, fingerprint: str, inputs: Mapping[str, Artifact] | None = None) -> Artifact | None:
        """The artifact if it is finished and every file has its size; a damaged one is quarantined, with a warning.

        inputs: what it must have been built from: one that was built from other content under the same names is quarantined, too.
        Raises Unreadable when this user may not read it.
        """
        path = self.path(stage, fingerprint)
        bury(self._lease(stage, fingerprint))
        if not path.exists() and not (self.mirror and self.mirror.pull(stage, fingerprint, path)):
            return None
        artifact = Artifact(stage, fingerprint, path)
        try:
            _check_sizes(artifact)
            _check_inputs(artifact, inputs or {})
        except Unreadable:
            raise
        except ArtifactError as error:
            self.quarantine(artifact, str(error))
            return None
        if (path / INPUTS).exists():
            with suppress(OSError):  # somebody else's workspace, or a read-only disk: it is finished all the same
                _drop_scratch(path)
        if self.mirror:
            self.mirror.push(artifact)  # a push that was cut off earlier
        return artifact

    def get(self, stage: str, fingerprint: str) -> Artifact:
        if found := self.find(stage, fingerprint):
            return found
        raise ArtifactError(f"no {stage}/{fingerprint} in {self.root}")

    def all(self) -> list[Artifact]:
        """Every finished artifact, by stage and fingerprint."""
        manifests = sorted(self.root.glob(f"*/*/{MANIFEST}"))
        return [Artifact(m.parent.parent.name, m.parent.name, m.parent) for m in manifests if not m.parent.name.startswith(".")]

    def made(self, stage: str) -> list[Artifact]:
        """Every finished artifact of one stage, by fingerprint."""
        manifests = sorted((self.root / stage).glob(f"*/{MANIFEST}"))
        return [Artifact(stage, m.parent.name, m.parent) for m in manifests if not m.parent.name.startswith(".")]

    def here(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact if its directory stands in this store, unchecked: nothing is fetched and nothing quarantined."""
        path = self.path(stage, fingerprint)
        return Artifact(stage, fingerprint, path) if (path / MANIFEST).is_file() else None

    def verify(self, artifact: Artifact) -> None:
        """Hash every file again; raises ArtifactError naming the first that differs, Unreadable for one that may not be read."""
        _check_sizes(artifact)
        for said in artifact.files:
            path = artifact.path / said["name"]
            try:
                found = digest(path)
            except PermissionError as error:
                raise Unreadable.of(path, error) from error
            except OSError as error:
                raise ArtifactError(f"{_place(artifact, said)} cannot be read ({error})") from error
            if found != said["xxh3"]:
                raise ArtifactError(f"{_place(artifact, said)} does not hash to what its manifest says")

    def check(self, artifacts: Iterable[Artifact]) -> None:
        """Hash the files of artifacts that something is to be built from, those that this object has not hashed yet.

        Raises DamagedInput when one differs: it is quarantined then, with everything that was built from it.
        """
        for artifact in artifacts:
            known = Artifact(artifact.stage, artifact.fingerprint, artifact.path)  # its manifest as it stands on the disk now
            try:
                _check_sizes(known)
                fresh = [
                    said for said in known.files if self._hashed.get(path := known.path / said["name"]) != (_identity(path), said["xxh3"])
                ]
                if fresh:
                    self.verify(known)
                    self._hashed |= {(path := known.path / said["name"]): (_identity(path), said["xxh3"]) for said in known.files}
            except Unreadable:
                raise
            except (ArtifactError, OSError) as error:
                gone = self.quarantine(known, str(error)) if known.path.exists() else []
                names = ", ".join(name_of(one.artifact) for one in gone)
                raise DamagedInput(
                    f"{error}; quarantined: {names or 'nothing, it is gone'}; run again to rebuild it", name_of(known)
                ) from error

    def quarantine(self, artifact: Artifact, problem: str) -> list[Quarantined]:
        """Move a damaged artifact, and everything that was built from it or shares a damaged file, out of the way; nothing is deleted.

        Descendants go first, so that after a kill the damage is found again and the rest follows.
        """
        self._hashed.clear()
        gone = [quarantine(one) for one in affected(artifact, problem, self.all())]
        for one in gone:
            event("warning", message=f"{one.message}; it will be rebuilt")
        return gone

    @contextmanager
    def writing(self, stage: str, fingerprint: str, record: dict[str, Any], own: Iterable[str] = ()) -> Iterator[Work]:
        """Hand out a scratch directory and commit it if the block ends well; if not, it stays for the next attempt.

        own: see Stage. Hold `exclusive` around it: two attempts at once would fill the same directory.
        """
        final, scratch = self.path(stage, fingerprint), self.scratch(stage, fingerprint)
        _prepare(scratch, json.dumps(record.get("inputs", {}), sort_keys=True), own)
        work = Work(scratch, {})
        yield work
        files = self._listing(scratch)
        manifest = {
            **record,
            "counts": work.counts,
            "shards": files,
            "software": _software(),
            "created": datetime.now(UTC).isoformat(),
        }
        manifest[SEAL] = seal(manifest)
        for folder in {scratch / Path(said["name"]).parent for said in files} - {scratch}:
            finished.sync(folder)
        write_whole(scratch / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
        finished.sync(scratch)
        try:
            os.rename(scratch, final)
        except OSError:
            if not (final / MANIFEST).exists():
                raise
            shutil.rmtree(scratch)  # somebody else was faster: same fingerprint, same content
        finished.sync(final.parent)
        _drop_scratch(final)
        for said in files:
            self._hashed[final / said["name"]] = (_identity(final / said["name"]), said["xxh3"])
        if self.mirror:
            self.mirror.push(Artifact(stage, fingerprint, final))

    @contextmanager
    def exclusive(self, stage: str, fingerprint: str) -> Iterator[None]:
        """The right to make this artifact; waits while another living process has it."""
        with held(self._lease(stage, fingerprint)):
            yield

    def _lease(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f".{fingerprint}.lease"

    def _listing(self, folder: Path) -> list[dict[str, Any]]:
        """What is committed, each file with its hash: the one of its record if nobody has touched it since, else it is hashed now."""
        known, found = finished.recorded(folder), []
        for path in sorted(
            p for p in folder.rglob("*") if p.is_file() and not _is_scratch(p.relative_to(folder)) and p != folder / MANIFEST
        ):
            said = known.get(path, {})
            if (said.get("bytes"), said.get("mtime_ns"), said.get("inode")) == _identity(path):
                hashed = said["xxh3"]
            else:
                finished.sync(path)
                hashed = digest(path)
            found.append({"name": path.relative_to(folder).as_posix(), "rows": _rows(path), "bytes": path.stat().st_size, "xxh3": hashed})
        return found


def _prepare(scratch: Path, inputs: str, own: Iterable[str]) -> None:
    """An empty scratch directory, or what an earlier attempt has finished from the same inputs."""
    said = scratch / INPUTS
    if scratch.exists() and not (said.is_file() and said.read_text(errors="replace") == inputs):
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    if not said.exists():
        write_whole(said, inputs)
    damaged = finished.sweep(scratch, (*own, INPUTS))
    if damaged:
        event("warning", message=f"{scratch.parent.name}: unfinished work was damaged and is done again: {', '.join(damaged[:3])}")


def _check_sizes(artifact: Artifact) -> None:
    try:
        files = [(said, artifact.path / said["name"], int(said["bytes"])) for said in artifact.files]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{artifact.stage}/{artifact.fingerprint}: {MANIFEST} lists no files ({error!r})") from error
    for said, path, expected in files:
        try:
            size = path.stat().st_size
        except PermissionError as error:
            raise Unreadable.of(path, error) from error
        except OSError as error:
            raise ArtifactError(f"{_place(artifact, said)} is missing") from error
        if size != expected:
            raise ArtifactError(f"{_place(artifact, said)} has {size} bytes, its manifest says {expected}")


def _check_inputs(artifact: Artifact, inputs: Mapping[str, Artifact]) -> None:
    """Raises ArtifactError when the manifest says that it was built from other content than these inputs have now."""
    for name, said in artifact.manifest.get("inputs", {}).items():
        if name in inputs and "content" in said and (inputs[name].path / MANIFEST).is_file() and said["content"] != inputs[name].content:
            raise ArtifactError(
                f"{artifact.stage}/{artifact.fingerprint} was built from another content of {said['stage']}/{said['fingerprint']}"
            )


def _place(artifact: Artifact, said: Mapping[str, Any]) -> str:
    return f"{artifact.stage}/{artifact.fingerprint}: {said['name']}"


def _identity(path: Path) -> Identity:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _is_scratch(name: Path) -> bool:
    """Dot names and `.part` files are a stage's own: logs, checkpoints, records, temporary files."""
    return any(part.startswith(".") or part.endswith(".part") for part in name.parts)


def _drop_scratch(folder: Path) -> None:
    """Remove the scratch of a finished artifact; the list of its inputs goes last, and says until then that there may be more."""
    for parent, folders, files in os.walk(folder):
        for name in [one for one in folders if _is_scratch(Path(one))]:
            shutil.rmtree(Path(parent, name), ignore_errors=True)
            folders.remove(name)
        for name in files:
            if _is_scratch(Path(name)) and Path(parent, name) != folder / INPUTS:
                Path(parent, name).unlink(missing_ok=True)
    (folder / INPUTS).unlink(missing_ok=True)


def _rows(path: Path) -> int | None:
    if path.suffix != ".arrow":
        return None
    import pyarrow as pa  # the command line starts without it

    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def _software() -> dict[str, str]:
    found = {"python": python_version()}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found
