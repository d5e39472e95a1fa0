"""Which contents share a band: how many bands speak for a pair, counted as differences to the earlier artifact.

What a crowd under one key proposes hangs on who is in it. So a bucket that gained or lost a member is looked at twice, as it was
and as it is: what it proposed is taken back, what it proposes now is added. After any row of days the counts are those of one run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import shards
from data_prep.corpus import clusters
from data_prep.corpus.deduping import life, outside
from data_prep.corpus.deduping.corpus import Corpus
from data_prep.corpus.deduping.life import Bytes
from data_prep.corpus.words import Hashes, Ints
from infra import finished
from infra.compute import Compute

NOBODY = np.zeros((0, 3), np.uint64)
PROPOSED = pa.schema([("larger", pa.int64()), ("smaller", pa.int64()), ("bands", pa.int32())])


def propose(corpus: Corpus, compute: Compute) -> None:
    """Write the differences of every band, in one file for each part of its keys, by (larger, smaller) place."""
    number, few = corpus.config.bands[0], corpus.config.partition // (4 * corpus.documents + 1)
    step = min(max(1, few), number)  # bands of few documents go together
    compute.map("dedup pairs", partial(pair_up, corpus), [range(start, min(start + step, number)) for start in range(0, number, step)])


def folder_of(corpus: Corpus) -> Path:
    """Where the files of propose are; a try with partitions of another size has its own."""
    return corpus.scratch / f"pairs-{corpus.config.partition}"


def pair_up(corpus: Corpus, bands: range) -> None:
    """All of some bands; what is dealt to files goes again when they are done."""
    folder = folder_of(corpus) / f"{bands.start:05d}"
    dealt = folder.with_name(f"{folder.name}.dealt")
    if finished.is_recorded(folder):
        return
    flags, number = life.flags(corpus), outside.files_for(corpus.documents, corpus.config.partition)
    if number == 1:
        found = [differences(np.concatenate([NOBODY, *_members(corpus, flags, band)]), flags) for band in bands]
        columns = (np.concatenate([table[name].to_numpy() for table in found]) for name in PROPOSED.names)
        shards.write(summed(*columns), folder / shards.name(0))
    for band in bands if number > 1 else ():
        for part, file in enumerate(outside.deal(dealt, _members(corpus, flags, band), number)):
            shards.write(differences(outside.load(file, 3), flags), folder / shards.name((band - bands.start) * number + part))
        shutil.rmtree(dealt)
    finished.record(folder)


def differences(rows: Hashes, flags: Bytes) -> pa.Table:
    """PROPOSED of some buckets, whole ones; rows are (key, place, low half of the exact key)."""
    rows = rows[outside.crowded(rows[:, 0])]
    rows = rows[np.lexsort((rows[:, 1], rows[:, 2], rows[:, 0]))]
    keys, places = rows[:, 0], rows[:, 1].astype(np.int64)
    state = flags[places]
    was, now = (state & life.WAS) > 0, (state & life.IS) > 0
    if was.any():
        starts = outside.starts_of(keys)
        changed = np.repeat(np.logical_or.reduceat(was != now, starts[:-1]), np.diff(starts))
        was, now = was & changed, now & changed
    found, signs = [], []
    for takes_part, sign in ((was, -1), (now, 1)):
        pairs = clusters.pairs_in_groups(places[takes_part], outside.starts_of(keys[takes_part]))
        found.append(pairs)
        signs.append(np.full(len(pairs), sign, np.int32))
    pairs = np.concatenate(found)
    return summed(pairs.max(axis=1), pairs.min(axis=1), np.concatenate(signs))


def summed(larger: Ints, smaller: Ints, bands: Ints) -> pa.Table:
    """PROPOSED with each pair once, in order; a pair with a sum of zero is left out."""
    order = np.lexsort((smaller, larger))
    larger, smaller = larger[order], smaller[order]
    starts = outside.starts_of(larger, smaller)[:-1]
    sums = np.add.reduceat(bands[order], starts) if len(starts) else np.zeros(0, np.int32)
    starts, sums = starts[sums != 0], sums[sums != 0]
    return pa.table({"larger": larger[starts], "smaller": smaller[starts], "bands": sums.astype(np.int32)}, schema=PROPOSED)


def _members(corpus: Corpus, flags: Bytes, band: int) -> Iterator[Hashes]:
    """Every content that has shingles; when the corpus grows, those alone that may be under one key with a content that changed."""
    sieve = None
    if corpus.old:
        state = (_band(corpus, flags, band, shard, changed=True)[0] for shard in range(len(corpus.names)))
        sieve = outside.Sieve(state, _changes(corpus, flags))
    for shard in range(len(corpus.names)):
        keys, rows = _band(corpus, flags, band, shard)
        if sieve is not None:
            stay = sieve.may_hold(keys)
            keys, rows = keys[stay], rows[stay]
        yield outside.rows_of(keys, rows + corpus.firsts[shard], corpus.column("signatures", shard, "low")[rows])


def _band(corpus: Corpus, flags: Bytes, band: int, shard: int, *, changed: bool = False) -> tuple[Hashes, Ints]:
    """The keys and the rows of the contents that were or are alive, or of those that changed."""
    state = np.asarray(flags[corpus.firsts[shard] : corpus.firsts[shard + 1]])
    takes_part = (state == life.WAS) | (state == life.IS) if changed else state > 0
    if not takes_part.any():  # most earlier shards, when one asks what changed
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    rows = np.flatnonzero(takes_part & corpus.column("signatures", shard, "some").astype(np.bool_))
    return corpus.column("signatures", shard, f"band{band}")[rows], rows


def _changes(corpus: Corpus, flags: Bytes) -> int:
    """How many contents came or went."""
    pieces = (np.asarray(flags[a:b]) for a, b in zip(corpus.firsts[:-1], corpus.firsts[1:], strict=True))
    return sum(int(((piece == life.WAS) | (piece == life.IS)).sum()) for piece in pieces)
