"""Rows dealt to piles while they stream into one file, each pile read back alone: how a list larger than memory is sorted and merged.

A file is Arrow IPC; every batch holds rows of one pile and says which, and the last batch, without rows, holds the counts. It
appears under its name only when it is whole. Which pile a row goes to is the caller's to say, and nothing of it is ever part of an
artifact: piles are scratch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from infra import finished
from infra.artifact import Counts
from infra.errors import ArtifactError

ROWS = 1 << 18  # rows held before they are dealt out; of links some 40 MiB


class Writer:
    """A file of piles being written; after the `with` block it is there whole, or not at all when the block raised."""

    def __init__(self, path: Path, schema: pa.Schema, needs: Sequence[Path] = ()) -> None:
        """needs: files that must be complete, too, for this one to count as finished."""
        self.path, self.schema, self.needs = path, schema, needs
        self.counts: Counts = {}
        self.held: list[pa.Table] = []
        self.piles: list[np.ndarray] = []
        self.rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        self.file = self.draft.open("wb")
        self.writer = pa.ipc.new_file(self.file, schema)

    def __enter__(self) -> Writer:
        return self

    def add(self, table: pa.Table, piles: np.ndarray) -> None:
        """Rows, and the pile of each."""
        self.held.append(table)
        self.piles.append(piles)
        self.rows += table.num_rows
        if self.rows >= ROWS:
            self._deal()

    def _deal(self) -> None:
        if self.rows:
            table, piles = pa.concat_tables(self.held).combine_chunks(), np.concatenate(self.piles)
            order = np.argsort(piles, kind="stable")
            numbers, starts = np.unique(piles[order], return_index=True)
            table = table.take(pa.array(order)) if len(numbers) > 1 else table
            for number, start, end in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
                for batch in table.slice(start, end - start).combine_chunks().to_batches():
                    self.writer.write_batch(batch, custom_metadata={"pile": str(number)})
        self.held, self.piles, self.rows = [], [], 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.file.close()
            self.draft.unlink(missing_ok=True)
            return
        with finished.naming(self.path):
            self._close()
        os.replace(self.draft, self.path)
        finished.record(self.path, self.needs)

    def _close(self) -> None:
        self._deal()
        last = pa.RecordBatch.from_pylist([], schema=self.schema)
        self.writer.write_batch(last, custom_metadata={"counts": json.dumps(self.counts, sort_keys=True)})
        self.writer.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def read(path: Path, pile: int) -> pa.Table:
    """The rows of one pile in the order they came, as views of the file."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        wanted = str(pile).encode()
        found = (reader.get_batch_with_custom_metadata(number) for number in range(reader.num_record_batches))
        batches = [batch for batch, metadata in found if (metadata or {}).get("pile") == wanted]
        return pa.Table.from_batches(batches, reader.schema)


def counts(path: Path) -> Counts:
    """What was counted while the file was written. Raises ArtifactError on a file that is none of ours."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        if not metadata or "counts" not in metadata:
            raise ArtifactError(f"{path}: no file of piles; remove the scratch folder it lies in, then run again")
        return dict(json.loads(metadata["counts"]))
