"""A folder of artifacts. The manifest is written last and the folder renamed whole, so what exists is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

from infra.artifact import MANIFEST, Artifact, Counts, digest
from infra.errors import ArtifactError
from infra.lease import held
from infra.log import event
from infra.mirror import Mirror

SOFTWARE = ("numpy", "pyarrow", "tokenizers", "sentencepiece", "torch", "deepspeed")


@dataclass
class Work:
    """A scratch folder to fill; counts end in the manifest."""

    out: Path
    counts: Counts


def write_whole(path: Path, text: str) -> None:
    """Write text so that a reader, or a crash, sees the old file or the new one and nothing between."""
    draft = path.with_name(f".{path.name}.part")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


class Store:
    """`root/<stage>/<fingerprint>/`; scratch folders are `root/<stage>/.<fingerprint>/` beside them."""

    def __init__(self, root: Path | str, mirror: Mirror | None = None) -> None:
        self.root, self.mirror = Path(root), mirror

    def path(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint

    def scratch(self, stage: str, fingerprint: str) -> Path:
        """Where it is made, until it is whole."""
        return self.root / stage / f".{fingerprint}"

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact if it is finished and every file has its size; a damaged one is set aside, with a warning."""
        path = self.path(stage, fingerprint)
        if not path.exists() and not (self.mirror and self.mirror.pull(stage, fingerprint, path)):
            return None
        artifact = Artifact(stage, fingerprint, path)
        try:
            _check(artifact, deep=False)
        except ArtifactError as error:
            event("warning", message=f"{error}; set aside and made again")
            self.set_aside(artifact)
            return None
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
        """The artifact if its folder stands in this store, unchecked: nothing is fetched and nothing set aside."""
        path = self.path(stage, fingerprint)
        return Artifact(stage, fingerprint, path) if (path / MANIFEST).is_file() else None

    def verify(self, artifact: Artifact) -> None:
        """Hash every file again; raises ArtifactError naming the first that differs."""
        _check(artifact, deep=True)

    def set_aside(self, artifact: Artifact) -> Path:
        """Move a damaged artifact out of the way without deleting anything."""
        number = 0
        while (grave := artifact.path.with_name(f".{artifact.fingerprint}.damaged-{number}")).exists():
            number += 1
        os.rename(artifact.path, grave)
        return grave

    @contextmanager
    def writing(self, stage: str, fingerprint: str, record: dict[str, Any]) -> Iterator[Work]:
        """Hand out a scratch folder and commit it if the block ends well; if not, it stays for the next try.

        Hold `exclusive` around it: two tries at once would fill the same folder.
        """
        final = self.path(stage, fingerprint)
        scratch = self.scratch(stage, fingerprint)
        scratch.mkdir(parents=True, exist_ok=True)
        work = Work(scratch, {})
        yield work
        (scratch / MANIFEST).unlink(missing_ok=True)  # left by a try that was killed between writing it and the rename
        _drop_unfinished(scratch)
        manifest = {
            **record,
            "counts": work.counts,
            "shards": _listing(scratch),
            "software": _software(),
            "created": datetime.now(UTC).isoformat(),
        }
        write_whole(scratch / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
        _sync(scratch)
        try:
            os.rename(scratch, final)
        except OSError:
            if not (final / MANIFEST).exists():
                raise
            shutil.rmtree(scratch)  # somebody else was faster: same fingerprint, same content
        if self.mirror:
            self.mirror.push(Artifact(stage, fingerprint, final))

    @contextmanager
    def exclusive(self, stage: str, fingerprint: str) -> Iterator[None]:
        """The right to make this artifact; waits while another living process has it."""
        with held(self.root / stage / f".{fingerprint}.lease"):
            yield


def whole(artifacts: Iterable[Artifact]) -> None:
    """Hash every file again, which takes a second or less for a gigabyte that was read lately; raises ArtifactError naming the first
    that is not what its manifest says. Work that reads views of files would not notice a flipped bit.
    """
    try:
        for artifact in artifacts:
            _check(artifact, deep=True)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; run `textmill verify`, then run again") from error


def _check(artifact: Artifact, *, deep: bool) -> None:
    for entry in artifact.files:
        path = artifact.path / entry["name"]
        where = f"{artifact.stage}/{artifact.fingerprint}: {entry['name']}"
        if not path.is_file():
            raise ArtifactError(f"{where} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise ArtifactError(f"{where} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}")
        if deep and digest(path) != entry["xxh3"]:
            raise ArtifactError(f"{where} does not hash to what its manifest says")


def _drop_unfinished(folder: Path) -> None:
    """Dot names and `.part` files are a stage's own scratch: journals, checkpoints, drafts."""
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name.endswith(".part"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.is_dir():
            _drop_unfinished(path)


def _rows(path: Path) -> int | None:
    if path.suffix != ".arrow":
        return None
    import pyarrow as pa  # the command line starts without it

    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def _listing(folder: Path) -> list[dict[str, Any]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [{"name": p.relative_to(folder).as_posix(), "rows": _rows(p), "bytes": p.stat().st_size, "xxh3": digest(p)} for p in files]


def _software() -> dict[str, str]:
    found = {"python": python_version()}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
