"""Read and write Arrow shards. A shard appears under its name only when it is whole, and carries its own counts."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from infra import finished
from infra.artifact import Counts, digest
from infra.compute import Compute
from infra.errors import ArtifactError

COUNTS, TOKENIZER = b"counts", b"tokenizer"
BATCH_ROWS = 1 << 16


@dataclass
class Made:
    """What one shard became: its main table, what was counted, and the tables that go beside it; the tokenizer whose ids they hold."""

    table: pa.Table | pa.RecordBatchReader
    counts: Counts
    sides: Mapping[str, pa.Table | pa.RecordBatchReader] = field(default_factory=dict)
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
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path}: not a whole Arrow file ({error}); run `textmill verify`, then run again")


@contextmanager
def passing(path: Path) -> Iterator[tuple[pa.Table, Callable[[], None]]]:
    """The whole shard, as read gives it, and a call that gives back the memory of all its pages: a walk through a shard of any size
    that makes this call now and then takes little. What is read again after it comes from the file again.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise _broken(path, error) from error
    yield table, partial(mapped.madvise, mmap.MADV_DONTNEED)


class Draft:
    """Rows on their way to a shard: in a file of their own while they are made, read back a batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema, gather: bool = False) -> None:
        """path: a name that begins with a dot, so that it is never committed, should this try be killed. gather: whether the rows of
        several writes become one batch of BATCH_ROWS; else each write is one, or several if it is larger.
        """
        self._path, self._schema, self._gather = path, schema, gather
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> Draft:
        self._file = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        return self

    def __exit__(self, *_: object) -> None:
        self._flush(0)
        self._writer.close()
        self._file.close()

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if not self._gather or sum(part.num_rows for part in self._waiting) >= BATCH_ROWS:
            self._flush(BATCH_ROWS if self._gather else 0)

    def _flush(self, whole: int) -> None:
        """Write what waits; whole: only as many rows as are a multiple of this."""
        if self._waiting:
            table = pa.concat_tables(self._waiting).combine_chunks()
            rest = table.num_rows % whole if whole else 0
            self._writer.write_table(table.slice(0, table.num_rows - rest), max_chunksize=BATCH_ROWS)
            self._waiting = [table.slice(table.num_rows - rest)] if rest else []

    def read(self) -> pa.RecordBatchReader:
        """Its batches, once; the file goes."""
        file = pa.ipc.open_file(pa.OSFile(str(self._path), "rb"))  # not mapped: a mapped page counts as this process's memory
        self._path.unlink()
        return pa.RecordBatchReader.from_batches(self._schema, map(file.get_batch, range(file.num_record_batches)))


def write(
    table: pa.Table | pa.RecordBatchReader,
    path: Path,
    counts: Counts | None = None,
    *,
    chunk: int = BATCH_ROWS,
    tokenizer: str = "",
    needs: Iterable[Path] = (),
) -> None:
    """Write under a temporary name, flush to the disk, rename, then record that the shard is finished (infra/finished.py).

    chunk: rows of a batch at most. tokenizer: the fingerprint of the one whose ids the table holds. needs: files written before
    that belong to this one: it counts as finished only while they are complete, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    marks = {COUNTS: json.dumps(counts or {}, sort_keys=True).encode()} | ({TOKENIZER: tokenizer.encode()} if tokenizer else {})
    batches = table.to_batches(max_chunksize=chunk) if isinstance(table, pa.Table) else table
    with finished.naming(path), draft.open("wb") as file:
        with pa.ipc.new_file(file, table.schema.with_metadata(marks)) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    xxh3 = digest(draft)
    os.replace(draft, path)
    finished.record(path, needs, xxh3)


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
    sides = [out / side / shard.name for side in made.sides]
    for path, table in zip(sides, made.sides.values(), strict=True):
        write(table, path, tokenizer=made.tokenizer)
    write(made.table, out / shard.name, made.counts, tokenizer=made.tokenizer, needs=sides)  # last: a shard that is there has its sides
