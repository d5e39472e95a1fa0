"""Paths in a recipe: files with wildcards, or files that the demo's own web will have made; those beside a recipe become absolute."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

SITE = "site:"  # a path that begins so names a file of the site's artifact
FILTER_LISTS = ("block_hosts", "block_url_words", "bad_words")
SITE_FILES = ("submissions.csv.gz", "task/train.tsv", "task/dev.tsv")


def expand(path: str) -> list[Path]:
    """The files of a path with wildcards, in the order of their names."""
    return sorted(Path(found) for found in glob.glob(path, recursive=True) if Path(found).is_file())


def absolute_paths(value: dict[str, Any], base: Path) -> None:
    """A relative path is looked for beside the recipe, then where the command was typed."""
    corpus, tasks = value.get("corpus"), value.get("tasks")
    sources = corpus.get("sources") if isinstance(corpus, dict) else None
    places = [(item, "path") for item in sources if isinstance(item, dict)] if isinstance(sources, list) else []
    if isinstance(tasks, dict):
        places += [(task, key) for task in tasks.values() if isinstance(task, dict) for key in ("train", "dev")]
    if isinstance(corpus, dict) and isinstance(corpus.get("filter"), dict):
        places += [(corpus["filter"], key) for key in FILTER_LISTS]
    if isinstance(corpus, dict):
        places.append((corpus, "takedown"))
    if isinstance(corpus, dict) and isinstance(corpus.get("links"), dict):
        places += [(corpus["links"], key) for key in ("exclude_hosts_file", "allow_hosts_file")]
    models = value.get("models")
    places += [(model, "init") for model in models.values() if isinstance(model, dict)] if isinstance(models, dict) else []
    for holder, key in places:
        text = holder.get(key)
        if isinstance(text, str) and text and not text.startswith(SITE):
            beside = str(base / text)
            holder[key] = beside if _there(beside) or not _there(text) else str(Path(text).absolute())


def _there(path: str) -> bool:
    return bool(expand(path)) or Path(path).is_dir()
