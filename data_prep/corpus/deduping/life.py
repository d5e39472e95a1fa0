"""Which documents and contents still live when newer versions come: the newest version of an id supersedes all older ones.

A new document whose id and text are those of an earlier one changes nothing: the earlier one stays and takes over its karma if that
is higher. Any other document with an id that came again is superseded, and takes no part from then on. A content lives as long as
one document with it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep import shards
from data_prep.corpus.deduping import outside
from data_prep.corpus.deduping.corpus import DEAD, LIVE, REPEAT, Corpus, column
from data_prep.corpus.words import Flags, Hashes, Ints
from infra import finished
from infra.compute import Compute

Bytes = NDArray[np.uint8]

WAS, IS = 1, 2  # flags of a content, at its place: alive in the earlier artifact, alive now
MET = pa.schema([("place", pa.int64()), ("kind", pa.int8()), ("karma", pa.int64())])
SUPERSEDED, REPEATED, RAISED = range(3)  # kind: of an earlier document, of a new one, of an earlier one that a new one repeats


def settle(corpus: Corpus, compute: Compute) -> None:
    """Write the state and the karma of every document, and the flags of every content."""
    files = outside.files_for(corpus.documents, corpus.config.partition) if corpus.old else 0
    folder = corpus.scratch / f"met-{files}"
    if files:
        outside.deal_once(folder / "dealt", partial(_entries, corpus), files)
        compute.map("dedup ids", partial(_meet, corpus, folder), range(files))
    compute.map("dedup life", partial(_write, corpus, [folder / shards.name(part) for part in range(files)]), range(len(corpus.names)))
    if not finished.is_recorded(corpus.scratch / "flags"):
        _write_flags(corpus)


def state(corpus: Corpus, shard: int, name: str = "state") -> Ints:
    """A column of what settle wrote of a shard: state, or karma."""
    found: Ints = column(corpus.scratch / "life" / corpus.names[shard], name)
    return found


def flags(corpus: Corpus) -> Bytes:
    """WAS and IS of the content at each place, memory-mapped."""
    return mapped(corpus.scratch / "flags", corpus.documents)


def mapped(path: Path, size: int, mode: Literal["r", "w+"] = "r") -> Bytes:
    """A file of one byte a place as an array, which may be empty; "w+" starts it anew."""
    if mode == "w+":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch()
    return np.memmap(path, np.uint8, mode, shape=(size,)) if size else np.zeros(0, np.uint8)


def _entries(corpus: Corpus) -> Iterator[Hashes]:
    """(id, text, place, whether it is new) of every new document, and of earlier ones that live and may have such an id."""
    new = range(corpus.old, len(corpus.names))
    count = int(corpus.firsts[-1] - corpus.firsts[corpus.old])
    sieve = outside.Sieve((corpus.column("signatures", shard, "id_key") for shard in new), count)
    for shard in range(len(corpus.names)):
        keys, again = corpus.column("signatures", shard, "id_key"), shard >= corpus.old
        takes_part = np.ones(len(keys), np.bool_) if again else (_before(corpus, shard, "state") != DEAD) & sieve.may_hold(keys)
        rows = np.flatnonzero(takes_part)
        text = corpus.column("signatures", shard, "text_key")[rows]
        yield outside.rows_of(keys[rows], text, rows + corpus.firsts[shard], np.full(len(rows), again))


def _meet(corpus: Corpus, folder: Path, part: int) -> None:
    """Write what the documents of one file do to each other: those of one id in one group, those of one text in one part of it."""
    path = folder / shards.name(part)
    if path.exists():
        return
    rows = outside.load(folder / "dealt" / f"{part:05d}", 4)
    rows = rows[outside.crowded(rows[:, 0])]
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    ids, texts, place, is_new = rows[:, 0], rows[:, 1], rows[:, 2].astype(np.int64), rows[:, 3].astype(np.bool_)
    same_id, same_text = outside.starts_of(ids), outside.starts_of(ids, texts)
    id_is_new, text_is_new, text_is_old = _any(same_id, is_new), _any(same_text, is_new), _any(same_text, ~is_new)
    repeated = is_new & text_is_old
    superseded = ~is_new & id_is_new & ~text_is_new
    karma = np.full(len(place), 0, np.int64)
    karma[is_new] = corpus.lookup("signatures", "karma", place[is_new])
    first = np.repeat(same_text[:-1], np.diff(same_text))  # places ascend, so it is an earlier document wherever there is one
    raised = np.unique(first[repeated])
    highest = np.full(len(place), np.iinfo(np.int64).min)
    np.maximum.at(highest, first[repeated], karma[repeated])
    kinds = ((SUPERSEDED, np.flatnonzero(superseded), karma), (REPEATED, np.flatnonzero(repeated), karma), (RAISED, raised, highest))
    met = {
        "place": np.concatenate([place[at] for _, at, _ in kinds]),
        "kind": np.concatenate([np.full(len(at), kind, np.int8) for kind, at, _ in kinds]),
        "karma": np.concatenate([values[at] for _, at, values in kinds]),
    }
    order = np.argsort(met["place"], kind="stable")
    shards.write(pa.table({name: values[order] for name, values in met.items()}, schema=MET), path)


def _any(starts: Ints, flag: Flags) -> Flags:
    """For each row whether one of its run has the flag."""
    if len(starts) == 1:
        return np.zeros(0, np.bool_)
    found: Flags = np.repeat(np.logical_or.reduceat(flag, starts[:-1]), np.diff(starts))
    return found


def _write(corpus: Corpus, met: list[Path], shard: int) -> None:
    """Write the state and the karma of each document of a shard."""
    path = corpus.scratch / "life" / corpus.names[shard]
    if path.exists():
        return
    if shard < corpus.old:
        found, karma = _before(corpus, shard, "state").copy(), _before(corpus, shard, "karma").copy()
    else:
        karma = corpus.column("signatures", shard, "karma").copy()
        found = np.full(len(karma), LIVE, np.int8)
    for part in met:
        place = column(part, "place")
        low, high = np.searchsorted(place, corpus.firsts[shard : shard + 2])
        rows, kind = place[low:high] - corpus.firsts[shard], column(part, "kind")[low:high]
        found[rows[kind == SUPERSEDED]] = DEAD
        found[rows[kind == REPEATED]] = REPEAT
        np.maximum.at(karma, rows[kind == RAISED], column(part, "karma")[low:high][kind == RAISED])
    shards.write(pa.table({"state": found, "karma": karma}), path)


def _write_flags(corpus: Corpus) -> None:
    draft = corpus.scratch / "flags.part"
    made = mapped(draft, corpus.documents, "w+")
    for shard in range(corpus.old):
        made[corpus.firsts[shard] : corpus.firsts[shard + 1]] = _before(corpus, shard, "alive") * np.uint8(WAS | IS)
    made[_died(corpus)] &= np.uint8(WAS)
    for shard in range(corpus.old, len(corpus.names)):
        content, numbers = corpus.column("contents", shard, "content"), corpus.numbers(shard)
        made[corpus.firsts[shard] : corpus.firsts[shard + 1]] |= (content == numbers) * np.uint8(IS)
        made[content[content != numbers]] |= np.uint8(IS)
    if isinstance(made, np.memmap):
        made.flush()
    draft.rename(corpus.scratch / "flags")
    finished.record(corpus.scratch / "flags")


def _died(corpus: Corpus) -> Ints:
    """Contents of superseded documents that no other earlier document keeps alive."""
    lost, kept = [np.zeros(0, np.int64)], []
    for shard in range(corpus.old):
        gone = (state(corpus, shard) == DEAD) & (_before(corpus, shard, "state") != DEAD)
        lost.append(corpus.column("contents", shard, "content")[gone])
    asked = np.unique(np.concatenate(lost))
    if not len(asked):
        return asked
    for shard in range(corpus.old):
        content = corpus.column("contents", shard, "content")[state(corpus, shard) != DEAD]
        kept.append(np.intersect1d(content, asked))
    return np.setdiff1d(asked, np.concatenate(kept))


def _before(corpus: Corpus, shard: int, name: str) -> Ints:
    assert corpus.earlier is not None
    found: Ints = column(corpus.earlier / "fates" / corpus.names[shard], name)
    return found
