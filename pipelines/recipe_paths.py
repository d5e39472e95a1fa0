"""Paths in a recipe: files with wildcards, or files that the demo's own web will have made."""

from __future__ import annotations

import glob
from pathlib import Path

SITE = "site:"  # a path that begins so names a file of the site's artifact
SITE_FILES = ("submissions.csv.gz", "task/train.tsv", "task/dev.tsv")


def expand(path: str) -> list[Path]:
    """The files of a path with wildcards, in the order of their names."""
    return sorted(Path(found) for found in glob.glob(path, recursive=True) if Path(found).is_file())
