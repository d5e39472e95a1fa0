"""Finished artifacts on an object store (any fsspec URL), so that another machine need not make them again.

There is no rename there: files go up first and the manifest last, so an artifact whose manifest is there is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from infra.artifact import MANIFEST, Artifact, digest
from infra.errors import ArtifactError, ConfigError


class Mirror:
    """`<url>/<stage>/<fingerprint>/`, laid out as the local store. Credentials come from the environment, as fsspec has it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def check(self) -> None:
        """Raises ConfigError when the URL names no kind of store that is installed here."""
        self._remote("", "")

    def _remote(self, stage: str, fingerprint: str) -> tuple[Any, str]:
        import fsspec  # 0.1 s that a run without a mirror need not wait

        try:
            filesystem, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"resources.mirror {self.url}: {error}") from error
        return filesystem, f"{root}/{stage}/{fingerprint}"

    def push(self, artifact: Artifact) -> None:
        """Copy what is not there yet; the manifest ends it."""
        filesystem, folder = self._remote(artifact.stage, artifact.fingerprint)
        if filesystem.exists(f"{folder}/{MANIFEST}"):
            return
        for entry in artifact.files:
            target = f"{folder}/{entry['name']}"
            filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
            if not (filesystem.exists(target) and filesystem.size(target) == entry["bytes"]):
                filesystem.put_file(str(artifact.path / entry["name"]), target)
        filesystem.put_file(str(artifact.path / MANIFEST), f"{folder}/{MANIFEST}")

    def pull(self, stage: str, fingerprint: str, path: Path) -> bool:
        """Fetch the artifact to path; False when the mirror does not have it. Raises ArtifactError when a file came broken."""
        filesystem, folder = self._remote(stage, fingerprint)
        if not filesystem.exists(f"{folder}/{MANIFEST}"):
            return False
        draft = path.with_name(f".{fingerprint}.pull-{os.getpid()}")
        draft.mkdir(parents=True)
        try:
            filesystem.get_file(f"{folder}/{MANIFEST}", str(draft / MANIFEST))
            for entry in json.loads((draft / MANIFEST).read_text())["shards"]:
                self._fetch(filesystem, folder, draft, entry)
            os.rename(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return True

    def _fetch(self, filesystem: Any, folder: str, draft: Path, entry: dict[str, Any]) -> None:
        name = entry["name"]
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{self.url}: manifest names {name}, a path outside its artifact; the mirror is not to be trusted")
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(f"{folder}/{name}", str(draft / name))
        if digest(draft / name) != entry["xxh3"]:
            raise ArtifactError(f"{self.url}: {name} does not hash to what its manifest says; remove {folder} from the mirror")
