"""Pairs of contents that were compared: how many bands propose them, and their true Jaccard similarity. No pair is compared twice.

Kept in blocks of the larger place, so that the pairs of new documents are in new files and the earlier ones mostly stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep import shards
from data_prep.corpus import clusters, minhash, words
from data_prep.corpus.deduping import life, outside
from data_prep.corpus.deduping.corpus import BLOCK, Corpus, column, texts
from data_prep.corpus.words import Hashes, Ints
from infra import finished
from infra.compute import Compute
from infra.reuse import link

PAIRS_PER_CHUNK = 10_000  # compared by one task
TEXT_IN_MEMORY = 32_000_000  # characters of the documents that are compared at once
EDGES = pa.schema([("larger", pa.int64()), ("smaller", pa.int64()), ("bands", pa.int32()), ("jaccard", pa.float64())])
Compare = Callable[[Corpus, Ints], NDArray[np.float64]]


def know(corpus: Corpus, name: str, before: Path | None, asked: list[Path], compute: Compute, compare: Compare) -> Path:
    """A folder of blocks: those of `before`, and all pairs of the files asked, with their similarities; bands are added up."""
    folder = corpus.scratch / name
    compute.map(f"dedup {name}", partial(_merge, folder / "merged", before, asked), corpus.blocks)
    chunks = []
    for block in corpus.blocks:
        unknown = shards.counts(folder / "merged" / shards.name(block)).get("unknown", 0)
        chunks += [(block, start) for start in range(0, unknown, PAIRS_PER_CHUNK)]
    compute.map(f"dedup compare {name}", partial(_tell, corpus, folder, compare), chunks)
    compute.map(f"dedup settle {name}", partial(_settle, folder, before), corpus.blocks)
    return folder / "settled"


def similarities(corpus: Corpus, pairs: Ints) -> NDArray[np.float64]:
    """The true similarity of the texts at the places of every row."""
    places = np.unique(pairs)
    if len(pairs) > 1 and int(corpus.lookup("signatures", "length", places).sum()) > TEXT_IN_MEMORY:
        half = len(pairs) // 2
        return np.concatenate((similarities(corpus, pairs[:half]), similarities(corpus, pairs[half:])))
    sets: dict[int, Hashes] = {}
    for where, found in texts(corpus, places):
        done = 0
        for batch in words.batches(pa.chunked_array([found])):
            shingled = minhash.shingles(words.split(batch), corpus.config.ngram)
            sets |= {int(where[done + d]): shingled.of(d) for d in range(shingled.documents)}
            done += shingled.documents
    return np.array([minhash.jaccard(sets[one], sets[other]) for one, other in pairs.tolist()], np.float64)


def connected(corpus: Corpus, edges: Path | None) -> None:
    """Write the forest of contents that belong together, and the marks: of every place that is the content of a possible cluster."""
    if finished.is_recorded(corpus.scratch / "marks"):
        return
    life.mapped(corpus.scratch / "forest", 0, "w+")
    forest = clusters.Forest(corpus.scratch / "forest", corpus.documents, "w+")
    marks = life.mapped(corpus.scratch / "marks.part", corpus.documents, "w+")
    for path in [edges / shards.name(block) for block in corpus.blocks] if edges else []:
        for batch in batches(path):
            counts = (batch["bands"].to_numpy() > 0) & (batch["jaccard"].to_numpy() >= corpus.config.jaccard)
            pairs = np.stack((batch["larger"].to_numpy()[counts], batch["smaller"].to_numpy()[counts]), axis=1)
            forest.join(pairs)
            marks[pairs.ravel()] = 1
    for shard in range(len(corpus.names)):
        content = corpus.column("contents", shard, "content")
        marks[content[content != corpus.numbers(shard)]] = 1
    forest.close()
    if isinstance(marks, np.memmap):
        marks.flush()
    (corpus.scratch / "marks.part").rename(corpus.scratch / "marks")
    finished.record(corpus.scratch / "marks", [corpus.scratch / "forest"])


def told(folder: Path, larger: Ints, smaller: Ints) -> NDArray[np.float64]:
    """The similarities of pairs that are known, in any order."""
    found = np.full(len(larger), np.nan)
    for block in np.unique(larger // BLOCK).tolist():
        mine = np.flatnonzero(larger // BLOCK == block)
        known = _keys(block, *(column(folder / shards.name(block), name) for name in ("larger", "smaller")))
        at = np.searchsorted(known, _keys(block, larger[mine], smaller[mine]))
        found[mine] = column(folder / shards.name(block), "jaccard")[at]
    return found


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    """A file piece by piece, joined to about a million rows."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        step = 16
        for start in range(0, reader.num_record_batches, step):
            parts = [reader.get_batch(n) for n in range(start, min(start + step, reader.num_record_batches))]
            yield pa.Table.from_batches(parts).combine_chunks().to_batches()[0] if sum(p.num_rows for p in parts) else parts[0]


def _keys(block: int, larger: Ints, smaller: Ints) -> Hashes:
    """One number a pair of a block, in the order of (larger, smaller): places have 40 bits."""
    return (larger - block * BLOCK).astype(np.uint64) << np.uint64(40) | smaller.astype(np.uint64)


def _merge(folder: Path, before: Path | None, asked: list[Path], block: int) -> None:
    """Write one block with what was known and what is asked; a pair never compared has no number yet."""
    path = folder / shards.name(block)
    if path.exists():
        return
    names = ("larger", "smaller", "bands")
    known = shards.read(before / path.name) if before and (before / path.name).exists() else EDGES.empty_table()
    parts = [[known[name].to_numpy() for name in names]]
    for file in asked:
        larger = column(file, "larger")
        low, high = np.searchsorted(larger, (block * BLOCK, (block + 1) * BLOCK))
        if low < high:
            parts.append([larger[low:high], *(column(file, name)[low:high] for name in names[1:])])
    if len(parts) == 1:
        shards.write(EDGES.empty_table(), path, {"same": 1})
        return
    larger, smaller, bands = (np.concatenate(column) for column in zip(*parts, strict=True))
    jaccard = np.full(len(larger), np.nan)
    jaccard[: known.num_rows] = known["jaccard"].to_numpy()
    order = np.lexsort((smaller, larger))  # stable: what is known comes first among equals
    starts = outside.starts_of(larger[order], smaller[order])[:-1]
    first = order[starts]
    table = {"larger": larger[first], "smaller": smaller[first]}
    table |= {"bands": np.add.reduceat(bands[order], starts).astype(np.int32), "jaccard": jaccard[first]}
    shards.write(pa.table(table, schema=EDGES), path, {"unknown": int(np.isnan(table["jaccard"]).sum())})


def _tell(corpus: Corpus, folder: Path, compare: Compare, chunk: tuple[int, int]) -> None:
    """Write the similarities of some pairs of a block that have none."""
    block, start = chunk
    path = _told(folder, block, start)
    if path.exists():
        return
    table = shards.read(folder / "merged" / shards.name(block))
    rows = np.flatnonzero(np.isnan(table["jaccard"].to_numpy()))[start : start + PAIRS_PER_CHUNK]
    pairs = np.stack((table["larger"].to_numpy()[rows], table["smaller"].to_numpy()[rows]), axis=1)
    shards.write(pa.table({"jaccard": compare(corpus, pairs)}), path)


def _settle(folder: Path, before: Path | None, block: int) -> None:
    """Write the block with all numbers, or link what nothing was asked of."""
    path, merged = folder / "settled" / shards.name(block), folder / "merged" / shards.name(block)
    if path.exists():
        return
    counts = shards.counts(merged)
    if "same" in counts and before and (before / path.name).exists():
        link(before / path.name, path)
        return
    table = shards.read(merged)
    jaccard = table["jaccard"].to_numpy().copy()
    found = [column(_told(folder, block, start), "jaccard") for start in range(0, counts.get("unknown", 0), PAIRS_PER_CHUNK)]
    jaccard[np.isnan(jaccard)] = np.concatenate([np.zeros(0), *found])
    shards.write(table.set_column(3, "jaccard", pa.array(jaccard)).cast(EDGES), path)


def _told(folder: Path, block: int, start: int) -> Path:
    return folder / "told" / f"{block:05d}-{start:012d}.arrow"
