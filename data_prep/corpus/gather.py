"""Several sets of documents in, their union out: shards numbered anew, a document that two sets hold taken once.

Sets count in the order of their names. Two documents are the same when their ids are, and, for documents without a URL, whose
ids are their authors' own, their texts too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from data_prep import shards
from infra.artifact import Counts
from infra.compute import Compute
from infra.stage import Inputs, Stage


@dataclass(frozen=True)
class GatherConfig:
    """There is nothing to choose."""


@dataclass(frozen=True)
class Task:
    """One shard of one set, and its number in the union."""

    number: int
    shard: Path


def work(config: GatherConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Name every document, find the later ones of each name, then write the shards without them."""
    sources = [shard for name in sorted(inputs) for shard in inputs[name].shards]
    tasks = [Task(number, shard) for number, shard in enumerate(sources)]
    folder = out / ".work"
    compute.map("gather keys", partial(write_keys, folder / "keys"), tasks)
    mark_first(folder, len(tasks))
    compute.map("gather", partial(write_shard, folder / "first", out), tasks)
    counts = shards.total(shards.counts(out / shards.name(task.number)) for task in tasks)
    return shards.balance("gather", counts or {"read": 0, "kept": 0})


def write_keys(folder: Path, task: Task) -> None:
    """One number a document: of its id, or of id and text."""
    path = folder / shards.name(task.number)
    if path.exists():
        return
    table = shards.read(task.shard)
    columns = (table["id"].to_pylist(), table["url"].to_pylist(), table["text"].to_pylist())
    keys = [xxhash.xxh3_64_intdigest((name if url else f"{name}\n{text}").encode()) for name, url, text in zip(*columns, strict=True)]
    shards.write(pa.table({"key": pa.array(keys, pa.uint64())}), path)


def mark_first(folder: Path, number: int) -> None:
    """Write, for every shard, which documents come for the first time."""
    keys = [shards.read(folder / "keys" / shards.name(n))["key"].to_numpy() for n in range(number)]
    together = np.concatenate([np.zeros(0, np.uint64), *keys])
    first = np.zeros(len(together), np.bool_)
    first[np.unique(together, return_index=True)[1]] = True
    done = 0
    for n, part in enumerate(keys):
        shards.write(pa.table({"first": pa.array(first[done : done + len(part)])}), folder / "first" / shards.name(n))
        done += len(part)


def write_shard(folder: Path, out: Path, task: Task) -> None:
    """The documents of one shard that no earlier one had."""
    path = out / shards.name(task.number)
    if path.exists():
        return
    table = shards.read(task.shard)
    kept = table.filter(shards.read(folder / shards.name(task.number))["first"])
    counts = {"read": table.num_rows, "kept": kept.num_rows, "removed.same_id": table.num_rows - kept.num_rows}
    shards.write(kept, path, shards.balance("gather", counts))


GATHER = Stage(name="gather", version=1, work=work)
