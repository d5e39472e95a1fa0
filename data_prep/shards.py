"""Read and write Arrow shards. A shard appears under its name only when it is whole, and carries its own counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ArtifactError

COUNTS, TOKENIZER = b"counts", b"tokenizer"
BATCH_ROWS = 1 << 16


@dataclass
class Made:
    """What one shard became: its main table, what was counted, and the tables that go beside it; the tokenizer whose ids they hold."""

    table: pa.Table
    counts: Counts
    sides: Mapping[str, pa.Table] = field(default_factory=dict)
    tokenizer: str = ""


def name(number: int) -> str:
    """The file name of the shard with this number."""
    return f"{number:05d}.arrow"


def read(path: Path) -> pa.Table:
    """The whole shard, memory-mapped: columns are views of the file. Raises ArtifactError naming a shard that is no Arrow file."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: not a whole Arrow file ({error}); run `textmill verify`, then run again") from error


def write(table: pa.Table, path: Path, counts: Counts | None = None, *, chunk: int = BATCH_ROWS, tokenizer: str = "") -> None:
    """Write under a temporary name, flush to the disk, then rename.

    chunk: rows of a batch. tokenizer: the fingerprint of the one whose ids the table holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    marks = {COUNTS: json.dumps(counts or {}, sort_keys=True).encode()} | ({TOKENIZER: tokenizer.encode()} if tokenizer else {})
    marked = table.replace_schema_metadata(marks)
    with draft.open("wb") as file:
        with pa.ipc.new_file(file, marked.schema) as writer:
            writer.write_table(marked, max_chunksize=chunk)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def counts(path: Path) -> Counts:
    """What the shard counted when it was made."""
    with pa.memory_map(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata or {}
    return dict(json.loads(metadata.get(COUNTS, b"{}")))


def total(parts: Iterable[Counts]) -> Counts:
    """The sums by name, names in order."""
    sums: Counts = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0) + value
    return dict(sorted(sums.items()))


def balance(stage: str, counted: Counts, read: str = "read", kept: str = "kept") -> Counts:
    """The counts, if what came in is what was kept, removed by a rule, or set aside. Raises ArtifactError if not."""
    gone = sum(value for key, value in counted.items() if key.startswith(("removed.", "set_aside.")))
    if counted.get(read, 0) != counted.get(kept, 0) + gone:
        sums = f"{read} {counted.get(read, 0)}, {kept} {counted.get(kept, 0)}, removed or set aside {gone}"
        raise ArtifactError(f"{stage}: the ledger does not add up: {sums}")
    return counted


def each(name: str, fn: Callable[[pa.Table], Made], inputs: list[Path], out: Path, compute: Compute) -> Counts:
    """Apply fn to every shard not yet done; the total of all counts, old and new."""
    return each_path(name, partial(_read_first, fn), inputs, out, compute)


def each_path(name: str, fn: Callable[[Path, Path], Made], inputs: list[Path], out: Path, compute: Compute) -> Counts:
    """As each, for an fn that reads the shard itself: it gets the shard's path and the folder to write in."""
    compute.map(name, partial(_one, fn, out), [s for s in inputs if not (out / s.name).exists()])
    return total(counts(out / s.name) for s in inputs)


def _read_first(fn: Callable[[pa.Table], Made], shard: Path, out: Path) -> Made:
    return fn(read(shard))


def _one(fn: Callable[[Path, Path], Made], out: Path, shard: Path) -> None:
    made = fn(shard, out)
    for side, table in made.sides.items():
        write(table, out / side / shard.name, tokenizer=made.tokenizer)
    write(made.table, out / shard.name, made.counts, tokenizer=made.tokenizer)  # last: a shard that is there has its sides
