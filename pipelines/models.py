"""Use a model of a run: find it by its label, let it write, copy it out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.store import Store
from pipelines.recipe_checks import meant
from pipelines.rundir import all_runs

MAKERS = ("import", "pretrain", "distill", "finetune")


def find_model(workspace: Path, name: str) -> Artifact:
    """The newest model with this label, or the one of a `stage/fingerprint`."""
    store = Store(workspace / "artifacts")
    stage, slash, key = name.partition("/")
    if slash and (found := store.find(stage, key)):
        return found
    models: dict[str, Artifact] = {}
    for folder in all_runs(workspace):
        rows: list[dict[str, Any]] = json.loads((folder / "stages.json").read_text())
        done = [row for row in rows if row["stage"] in MAKERS and row["state"] in ("done", "cached")]
        models |= {row["label"]: made for row in done if (made := store.find(row["stage"], row["fingerprint"]))}
    if name in models:
        return models[name]
    there = f"; there is {', '.join(models)}" if models else f"; no run in {workspace} has made one yet"
    raise ConfigError(f"no model is called {name!r}{meant(name, models) or there}")


def model_folder(workspace: Path, name: str) -> Path:
    """The Hugging Face folder of a model given by label, by artifact, or as a folder."""
    if (Path(name) / "config.json").is_file():
        return Path(name)
    return find_model(workspace, name).path / "model"


def import_from(source: Path, folder: Path, lowercase: bool) -> dict[str, Any]:
    """Read a model that transformers saved and write it as textmill does, with its tokenizer; what was found in it."""
    _empty(folder)
    from training.imported import adopt

    return adopt(source, folder, lowercase)


def export_to(workspace: Path, name: str, folder: Path) -> Path:
    """Copy the model's folder; refuses to write into one that is not empty."""
    source = model_folder(workspace, name)
    _empty(folder)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def _empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; name another folder")
