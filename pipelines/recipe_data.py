"""Checks of a recipe's corpus against its budgets, where its documents are files that are there: the most they can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath

from data_prep.corpus.readers import JSON, MEDIAWIKI, PARQUET, format_of
from data_prep.packed import opened
from data_prep.tables import DAMAGED
from pipelines.recipe import Documents, Recipe
from pipelines.recipe_paths import expand
from pipelines.recipe_shapes import configured
from pipelines.recipe_yaml import Path

ENOUGH = 32 << 20  # bytes of a file that are looked at; more than that is never too little
MANY_EPOCHS = 100  # of the whole corpus: a budget that is probably a mistake


@dataclass(frozen=True)
class Most:
    """The most that files can hold: documents, and bytes of text, each at least as many as its tokens but for separators."""

    documents: float
    size: float

    def __add__(self, other: Most) -> Most:
        return Most(self.documents + other.documents, self.size + other.size)


def corpus(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """A corpus that holds at least one sequence of every model."""
    held = most(recipe)
    for name, model in recipe.models.items() if held else ():
        config = configured(recipe, model) if model.trained else None
        length = max(config.lengths) if config else 0
        if held and held.size + held.documents < length:
            yield (
                ("models", name),
                f"models.{name}.pretrain.length {length} is more than the whole corpus holds (at most {held.size:,.0f} bytes of text); "
                "lower it, or add documents",
            )


def validation(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Enough documents that one can be expected in the validation split."""
    held, share = most(recipe), recipe.encode.valid_share
    if held and share and recipe.models and held.documents * share < 1:
        least = min(0.5, 2 / max(held.documents, 1))
        enough = f"raise encode.valid_share to {math.ceil(least * 100) / 100:g}, or " if held.documents >= 4 else ""
        yield (
            ("encode",),
            f"encode.valid_share {share:g} of at most {held.documents:,.0f} documents leaves none for validation; "
            f"{enough}give at least {math.ceil(1 / share):,} documents",
        )


def epochs(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Warnings: a budget that repeats the whole corpus very often."""
    held = most(recipe)
    for name, model in recipe.models.items() if held else ():
        config = configured(recipe, model) if model.trained else None
        if not (held and held.size and config):
            continue
        tokens = config.tokens
        if (often := tokens / held.size) > MANY_EPOCHS:
            yield (
                ("models", name),
                f"models.{name}.pretrain.tokens {tokens:,} repeat the corpus of at most {held.size:,.0f} bytes at least {often:,.0f} times",
            )


def most(recipe: Recipe) -> Most | None:
    """None where that cannot be known: links, crawls, files beyond ENOUGH, a corpus that holds what earlier dates brought."""
    if recipe.corpus.grow:
        return None
    total = Most(0, 0)
    for source in recipe.corpus.sources:
        if not isinstance(source, Documents):
            return None
        for path in expand(source.path):
            status = path.stat()
            found = _most(path, source.format, source.separator, status.st_size, status.st_mtime_ns)
            if found is None:
                return None
            total += found
    return total


@lru_cache(maxsize=64)
def _most(path: FilePath, form: str, separator: str, size: int, _changed: int) -> Most | None:
    if size > ENOUGH:
        return None
    form = form or format_of(path.name)
    if form == PARQUET:
        return _most_of_parquet(path)
    try:
        with opened(str(path)) as file:
            data = file.read(ENOUGH + 1)
    except DAMAGED:
        return None  # the stage reads what comes before the damage, and counts it
    if len(data) > ENOUGH:
        return None
    return Most(_most_documents(data, form, separator), len(data))


def _most_documents(data: bytes, form: str, separator: str) -> int:
    if form == JSON:  # an array of any layout has at least a brace for each document
        array = data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        return data.count(b"{") if array else sum(1 for line in data.split(b"\n") if line.strip())
    if form == MEDIAWIKI:
        return data.count(b"<page>")
    return data.count(separator.encode()) + 1 if separator else 1


def _most_of_parquet(path: FilePath) -> Most | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return Most(pq.ParquetFile(path).metadata.num_rows, math.inf)
    except (pa.ArrowException, OSError):
        return None
