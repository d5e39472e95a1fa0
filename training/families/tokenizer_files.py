"""A tokenizer's files beside the model's: which they are, and the ids that config.json repeats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from infra.errors import ArtifactError

META = "meta.json"


def tokenizer_folder(path: Path) -> Path:
    """The folder that holds the files: the given one, or its `tokenizer/`."""
    inner = path / "tokenizer"
    found = inner if inner.is_dir() else path
    if not found.is_dir():
        raise ArtifactError(f"{path} is no tokenizer folder; give the tokenizer artifact's path")
    return found


def special_ids(path: Path | None) -> dict[str, int]:
    """Role -> id ("pad": 0), from the tokenizer's own record; empty without a tokenizer."""
    if path is None:
        return {}
    path = Path(path)
    for record in (tokenizer_folder(path) / META, path / META):
        if record.exists():
            return {str(role): int(number) for role, number in json.loads(record.read_text(encoding="utf-8"))["specials"].items()}
    return {}


def copy_tokenizer(path: Path, folder: Path) -> None:
    """All its files, the record of ours included: a model folder then stands alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(tokenizer_folder(path).iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
