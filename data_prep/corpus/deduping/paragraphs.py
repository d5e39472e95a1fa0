"""Paragraphs that stand in more than one place: which of them are cut. Only among the documents that stay.

A paragraph is a line. Equal is what has the same words in lower case. It stays in the best document that holds it (the order that
decides among duplicates), there where it comes first; so the answer hangs on the documents alone, and a corpus that grew by days is
cut as one that came at once. Signatures and duplicates are always those of the whole texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus import words
from data_prep.corpus.deduping import fates, outside
from data_prep.corpus.deduping.corpus import KEPT, Corpus, column
from data_prep.corpus.words import Hashes, Ints
from infra.compute import Compute

PER_DOCUMENT = 8  # long paragraphs, as a guess of how many files are wanted


def find(corpus: Corpus, compute: Compute) -> None:
    """Write, in one file for each part of the keys, every paragraph that goes: its document, its line, the document that keeps it."""
    files = outside.files_for(corpus.documents, corpus.config.partition // PER_DOCUMENT or 1)
    folder = _folder(corpus)
    outside.deal_once(folder / "dealt", partial(_entries, corpus), files)
    compute.map("dedup paragraphs", partial(_cut, corpus), range(files))


def _folder(corpus: Corpus) -> Path:
    return corpus.scratch / f"cuts-{corpus.config.partition}"


def of_shard(corpus: Corpus, shard: int) -> pa.Table:
    """(row, line, holder) of the shard, in order."""
    parts = [pa.table({name: np.zeros(0, np.int64) for name in ("place", "line", "holder")})]
    for path in sorted(_folder(corpus).glob("*.arrow")):
        low, high = np.searchsorted(column(path, "place"), corpus.firsts[shard : shard + 2])
        parts.append(shards.read(path).replace_schema_metadata(None).slice(low, high - low))
    table = pa.concat_tables(parts).sort_by([("place", "ascending"), ("line", "ascending")]).combine_chunks()
    return pa.table({"row": table["place"].to_numpy() - corpus.firsts[shard], "line": table["line"], "holder": table["holder"]})


def without(texts: list[str], cuts: list[list[int]]) -> list[str]:
    """The texts without these lines, and without the empty lines that would now follow one another."""
    found = []
    for text, gone in zip(texts, cuts, strict=True):
        lines = text.split("\n")
        kept: list[str] = []
        cut = False
        for number, line in enumerate(lines):
            if number in gone:
                cut = True
            elif line.strip() or not cut or (kept and kept[-1].strip()):
                kept.append(line)
                cut = cut and not line.strip()
        found.append("\n".join(kept).strip("\n"))
    return found


def counts(texts: list[str]) -> Ints:
    """Words of each text."""
    parts = [np.zeros(0, np.int64)]
    parts += [words.split(batch).counts for batch in words.batches(pa.chunked_array([pa.array(texts, pa.string())]))]
    return np.concatenate(parts)


def _entries(corpus: Corpus) -> Iterator[Hashes]:
    for shard, name in enumerate(corpus.names):
        stays = column(corpus.scratch / "fates" / name, "status") == KEPT
        row, line, high, low = (corpus.column("paragraph_keys", shard, what) for what in ("row", "line", "high", "low"))
        mine = stays[row]
        yield outside.rows_of(high[mine], low[mine], row[mine] + corpus.firsts[shard], line[mine])


def _cut(corpus: Corpus, part: int) -> None:
    path = _folder(corpus) / shards.name(part)
    if path.exists():
        return
    rows = outside.load(_folder(corpus) / "dealt" / f"{part:05d}", 4)
    rows = rows[outside.crowded(rows[:, 0])]
    places, which = np.unique(rows[:, 2].astype(np.int64), return_inverse=True)
    rank = _ranks(corpus, places)[which]
    order = np.lexsort((rows[:, 3], rank, rows[:, 1], rows[:, 0]))
    high, low, place, line = rows[order].T
    starts = outside.starts_of(high, low)
    holder = np.repeat(place[starts[:-1]], np.diff(starts))
    goes = np.ones(len(rows), np.bool_)
    goes[starts[:-1]] = False
    again = np.flatnonzero(goes)
    again = again[np.lexsort((line[again], place[again]))]
    table = {"place": place[again], "line": line[again], "holder": holder[again]}
    shards.write(pa.table({name: values.astype(np.int64) for name, values in table.items()}), path)


def _ranks(corpus: Corpus, places: Ints) -> Ints:
    """The order of some documents among each other, best first."""
    facts = {name: pa.array(corpus.lookup("signatures", name, places)) for name in ("length", "text_key")} if len(places) else {}
    if not facts:
        return np.zeros(0, np.int64)
    facts["id"] = pa.array(corpus.lookup("signatures", "id", places), pa.string())
    facts["karma"] = pa.array(corpus.lookup(".work/life", "karma", places))
    order = pc.sort_indices(pa.table({"place": places, **facts}), sort_keys=fates.sort_keys(corpus.config)).to_numpy()
    rank = np.empty(len(places), np.int64)
    rank[order] = np.arange(len(places))
    return rank
