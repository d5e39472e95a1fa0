"""Checks of a recipe's tasks, from the first megabytes of their files: headers, labels, sizes, and what of it fits the models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any

from infra.errors import ConfigError
from pipelines.recipe import Recipe, Task
from pipelines.recipe_paths import SITE, expand
from pipelines.recipe_yaml import Path
from training.tasks.catalog import task as task_named
from training.tasks.task import Columns, Examples, examples_of

READ = 16 << 20  # bytes of a task file; a larger one is checked by its beginning
FRAME = {False: 2, True: 3}  # special tokens of a text and of a pair, at most; one token of each text has to fit beside them
MANY = 20  # labels; more than that, and more than half of the rows, are probably texts
SIDES = ("train", "dev")


@dataclass(frozen=True)
class Sample:
    """The examples of a file. complete: all of them."""

    examples: Examples
    complete: bool


def files(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Kind, encoding, header, and whether any row can be used."""
    for name, task in recipe.tasks.items():
        for side in SIDES:
            try:
                sample(task, side)
            except ConfigError as error:
                yield ("tasks", name, side), f"tasks.{name}.{side}: {error}"


def labels(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """At least two labels, and dev labels that occur in training."""
    for name, task, train, dev in _read(recipe):
        kind = task_named(task.kind)
        try:
            known = kind.labels(train.examples)
        except ConfigError as error:
            if train.complete:
                yield ("tasks", name, "train"), f"tasks.{name}.train: {task.train}: {error}"
            continue
        try:
            if dev and train.complete:
                kind.known(dev.examples, known)
        except ConfigError as error:
            yield ("tasks", name, "dev"), f"tasks.{name}.dev: {task.dev}: {error}"


def lengths(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Sequences that fit the positions of every model of the task, and hold at least a token of each text."""
    from pipelines.recipe_shapes import shape_of

    for name, task in recipe.tasks.items():
        least = FRAME[bool(task.pair)] + (2 if task.pair else 1)
        if task.length < least:
            texts = "a pair of texts" if task.pair else "a text"
            yield ("tasks", name), f"tasks.{name}.length {task.length} is too short for {texts} with special tokens; set at least {least}"
        for model in task.models:
            shape = shape_of(recipe, model)
            if shape and task.length > shape.positions:
                yield (
                    ("tasks", name),
                    f"tasks.{name}.length {task.length} is more than the {shape.positions} positions of {model}; lower it",
                )


def batches(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """A batch for every rank."""
    ranks = recipe.resources.ranks
    for name, task in recipe.tasks.items():
        if task.batch < ranks:
            yield ("tasks", name), f"tasks.{name}.batch {task.batch} is too small for {ranks} ranks; set at least {ranks}"


def warmups(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Warnings: a warm-up as long as the fine-tuning, which the optimizer caps."""
    from pipelines.recipe_shapes import capped

    for name, task, train, _ in _read(recipe):
        steps = built(task).steps(len(train.examples.rows))
        if train.complete and round(task.warmup) >= max(1, steps):
            epochs = f"{task.epochs:g} epochs of {len(train.examples.rows)} rows in batches of {task.batch}"
            yield ("tasks", name), f"{capped(f'tasks.{name}.warmup', task.warmup, steps)} ({epochs} are {steps:,} steps)"


def rows(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Warnings: skipped rows, dev labels that score as wrong, repeated ids, fewer rows than a batch, texts in place of labels."""
    for name, task, train, dev in _read(recipe):
        if (kinds := len(train.examples.labels)) > max(MANY, len(train.examples.rows) // 2):
            told = f"{kinds} labels in {len(train.examples.rows)} rows"
            yield ("tasks", name, "train"), f"tasks.{name}.train: {told}: is `{task.label}` the column of labels?"
        for side, found in (("train", train), ("dev", dev)):
            if found and found.examples.corrupt:
                count = sum(found.examples.corrupt.values())
                yield ("tasks", name, side), f"tasks.{name}.{side}: {count} rows are skipped: {found.examples.problems()}"
            if found and found.examples.duplicate_ids:
                yield ("tasks", name, side), f"tasks.{name}.{side}: {found.examples.duplicate_ids} rows have the id of an earlier row"
        if unknown := _unknown(task, train, dev):
            told = ", ".join(f"{label} ({count})" for label, count in list(unknown.items())[:5])
            yield ("tasks", name, "dev"), f"tasks.{name}.dev: labels that training does not have count as wrong: {told}"
        if train.complete and len(train.examples.rows) < task.batch:
            yield ("tasks", name), f"tasks.{name}: {len(train.examples.rows)} rows are fewer than a batch of {task.batch}"


def summary(recipe: Recipe) -> list[dict[str, Any]]:
    """For people and JSON: rows and labels of every file that can be read."""
    told = []
    for name, task, train, dev in _read(recipe):
        for side, found in (("train", train), ("dev", dev)):
            if found:
                told.append(
                    {"task": name, "file": side, "path": getattr(task, side), "complete": found.complete, **found.examples.record()}
                )
    return told


def line(one: dict[str, Any]) -> str:
    """One of the summary's files in a sentence."""
    labels = [f"{label} {count:,}" for label, count in list(one["labels"].items())[:10]]
    more = f" and {len(one['labels']) - 10} more labels" if len(one["labels"]) > 10 else ""
    beginning = "" if one["complete"] else f" in its first {READ >> 20} MiB"
    return f"task {one['task']}, {one['file']}: {one['rows']:,} rows{beginning} ({', '.join(labels)}{more})"


def built(task: Task) -> Any:
    """The stage's config; its files stand for those of the recipe."""
    from pipelines.recipe import SOME_FILE

    return task.build(train=SOME_FILE, dev=SOME_FILE, task=task.kind, seed=0)


def sample(task: Task, side: str) -> Sample | None:
    """The examples of one of a task's files; None where the recipe's own site has yet to write it. Raises ConfigError."""
    text = getattr(task, side)
    if text.startswith(SITE):
        return None
    found = expand(text)
    if len(found) != 1:
        raise ConfigError(f"{text} names {len(found)} files; exactly one is needed")
    status = found[0].stat()
    return _sample(found[0], Columns(task.text, task.label, task.pair), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sample(path: FilePath, columns: Columns, size: int, _changed: int) -> Sample:
    packed = path.suffix.lower() in (".gz", ".xz", ".bz2", ".zst")
    complete = size <= (READ // 16 if packed else READ)
    return Sample(examples_of(path, columns, -1 if complete else READ), complete)


def _read(recipe: Recipe) -> Iterator[tuple[str, Task, Sample, Sample | None]]:
    """Tasks whose training file can be read; what cannot is `files`' to report."""
    for name, task in recipe.tasks.items():
        found: dict[str, Sample | None] = {}
        for side in SIDES:
            try:
                found[side] = sample(task, side)
            except ConfigError:
                found[side] = None
        if train := found["train"]:
            yield name, task, train, found["dev"]


def _unknown(task: Task, train: Sample, dev: Sample | None) -> dict[str, int]:
    kind = task_named(task.kind)
    try:
        return kind.known(dev.examples, kind.labels(train.examples)).unknown if dev and train.complete else {}
    except ConfigError:
        return {}
