"""Which documents are exactly equal: each gets the place of the first document ever with its words as the number of its content."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import shards
from data_prep.corpus.deduping import outside
from data_prep.corpus.deduping.corpus import Corpus, column
from data_prep.corpus.words import Hashes, Ints
from infra.compute import Compute


def number(corpus: Corpus, compute: Compute) -> None:
    """Write the contents of every new shard; those of earlier ones never change."""
    todo = [shard for shard in range(corpus.old, len(corpus.names)) if not (corpus.out / "contents" / corpus.names[shard]).exists()]
    if not todo:
        return
    files = outside.files_for(corpus.documents, corpus.config.partition)
    folder = corpus.scratch / f"contents-{files}"
    outside.deal_once(folder / "dealt", partial(_entries, corpus), files)
    compute.map("dedup equal", partial(_equal, folder), range(files))
    compute.map("dedup contents", partial(_write, corpus, folder), todo)


def local_firsts(corpus: Corpus, shard: int) -> Ints:
    """For each row of a shard the first row of the shard that is equal."""
    high, low = (corpus.column("signatures", shard, name) for name in ("high", "low"))
    first = np.arange(len(high))
    some = np.sort(outside.crowded(high))  # the others are alone
    order = some[np.lexsort((low[some], high[some]))]  # stable: rows ascend among equals
    starts = outside.starts_of(high[order], low[order])
    first[order] = np.repeat(order[starts[:-1]], np.diff(starts))
    return first


def _entries(corpus: Corpus) -> Iterator[Hashes]:
    """(high, low, place) of the first of every content in each new shard, and of earlier contents that may be among these."""
    new = range(corpus.old, len(corpus.names))
    sieve = None
    if corpus.old:
        count = int(corpus.firsts[-1] - corpus.firsts[corpus.old])
        sieve = outside.Sieve((corpus.column("signatures", shard, "high") for shard in new), count)
    for shard in range(len(corpus.names)):
        high = corpus.column("signatures", shard, "high")
        if shard < corpus.old:
            rows = np.flatnonzero(corpus.column("contents", shard, "content") == corpus.numbers(shard))
            rows = rows[sieve.may_hold(high[rows])] if sieve else rows
        else:
            rows = np.flatnonzero(local_firsts(corpus, shard) == np.arange(len(high)))
        yield outside.rows_of(high[rows], corpus.column("signatures", shard, "low")[rows], rows + corpus.firsts[shard])


def _equal(folder: Path, part: int) -> None:
    """Write (place, content) of the documents of one file that are not the first of their content."""
    path = folder / "equal" / shards.name(part)
    if path.exists():
        return
    rows = outside.load(folder / "dealt" / f"{part:05d}", 3)
    rows = rows[outside.crowded(rows[:, 0])]
    high, low, place = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))].T
    starts = outside.starts_of(high, low)
    first = np.repeat(place[starts[:-1]], np.diff(starts))
    again = np.flatnonzero(first != place)
    again = again[np.argsort(place[again])]
    shards.write(pa.table({"place": place[again].astype(np.int64), "content": first[again].astype(np.int64)}), path)


def _write(corpus: Corpus, folder: Path, shard: int) -> None:
    path = corpus.out / "contents" / corpus.names[shard]
    if path.exists():
        return
    content = corpus.numbers(shard)
    for part in sorted((folder / "equal").glob("*.arrow")):
        place = column(part, "place")
        low, high = np.searchsorted(place, corpus.firsts[shard : shard + 2])
        content[place[low:high] - corpus.firsts[shard]] = column(part, "content")[low:high]
    shards.write(pa.table({"content": content[local_firsts(corpus, shard)]}), path)
