"""All documents there ever were in one count, and where the facts and the text of each stand.

A shard keeps its number for ever: first the shards of an earlier artifact, then the new ones. Place p is row p - firsts[s] of shard
s as it first came in, whatever became of its documents since. Three sides of the artifact tell it all again:

signatures  a row a document, in the order in which they came, never made twice
contents    the place of the first document ever that is exactly equal: its content's number
fates       what became of the document (STATUS) and what the next run has to know of it
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep import schemas, shards
from data_prep.corpus.deduping.config import DedupConfig
from data_prep.corpus.words import Ints
from infra.artifact import Artifact, plain
from infra.errors import ConfigError
from infra.reuse import link
from infra.stage import Inputs

KEPT, EXACT, NEAR, SUPERSEDED, PARAGRAPHS = range(5)  # status
LIVE, REPEAT, DEAD = range(3)  # state: it may stay; it stands for an equal one of the same id; a newer one of its id came
BLOCK = 1 << 22  # places: files of what is known of clusters, each small enough to be held in memory
NO_KARMA = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Corpus:
    """names: of all shards. new: the input shards of the last ones. earlier: the folder of the artifact that holds the first ones."""

    config: DedupConfig
    out: Path
    names: tuple[str, ...]
    new: tuple[Path, ...]
    earlier: Path | None
    firsts: Ints

    @property
    def scratch(self) -> Path:
        return self.out / ".work"

    @property
    def old(self) -> int:
        """How many shards are an earlier artifact's."""
        return len(self.names) - len(self.new)

    @property
    def documents(self) -> int:
        return int(self.firsts[-1])

    @property
    def blocks(self) -> range:
        return range(-(-self.documents // BLOCK))

    def numbers(self, shard: int) -> Ints:
        """The places of a shard."""
        return np.arange(self.firsts[shard], self.firsts[shard + 1])

    def column(self, side: str, shard: int, name: str) -> NDArray[Any]:
        """A whole column of one shard's side in the artifact that is being made."""
        return column(self.out / side / self.names[shard], name)

    def by_shard(self, places: Ints) -> list[tuple[int, Ints]]:
        """(shard, rows) for places that ascend."""
        cuts = np.searchsorted(places, self.firsts)
        numbers = range(len(self.names))
        return [(s, places[cuts[s] : cuts[s + 1]] - self.firsts[s]) for s in numbers if cuts[s] < cuts[s + 1]]

    def lookup(self, side: str, name: str, places: Ints) -> NDArray[Any]:
        """The values of a column at some places, in any order."""
        order = np.argsort(places, kind="stable")
        found = [self.column(side, shard, name)[rows] for shard, rows in self.by_shard(places[order])]
        if not found:
            return np.zeros(0, np.int64)
        values = np.concatenate(found)
        result = np.empty_like(values)
        result[order] = values
        return result


def opened(config: DedupConfig, inputs: Inputs, out: Path, version: int) -> Corpus:
    """The corpus before its new shards are signed. Raises ConfigError when the earlier artifact is of another config or version."""
    earlier = inputs.get("earlier")
    names = [path.name for path in earlier.shards] if earlier else []
    if earlier:
        _check(config, earlier, version)
        for side in ("signatures", "contents", "paragraph_keys"):
            for path in earlier.side(side):
                if not (out / side / path.name).exists():
                    link(path, out / side / path.name)
    new = tuple(inputs["documents"].shards)
    names += [shards.name(number) for number in range(len(names), len(names) + len(new))]
    return Corpus(config, out, tuple(names), new, earlier.path if earlier else None, np.zeros(len(names) + 1, np.int64))


def counted(corpus: Corpus) -> Corpus:
    """The corpus when all shards are signed, so that every document has its place."""
    rows = [shards.counts(corpus.out / "signatures" / name)["read"] for name in corpus.names]
    return replace(corpus, firsts=np.cumsum([0, *rows], dtype=np.int64))


def _check(config: DedupConfig, earlier: Artifact, version: int) -> None:
    told, asked = earlier.config, plain(config)
    for name in sorted(told.keys() | asked.keys()):
        if told.get(name) != asked.get(name):
            raise ConfigError(
                f"dedup: the earlier corpus {earlier.fingerprint} was made with {name} {told.get(name)}, now it is {asked.get(name)}; "
                "a corpus grows under one setting: go back to the earlier one, or deduplicate all documents in one run"
            )
    if earlier.manifest["version"] != version or len(earlier.side("fates")) != len(earlier.shards):
        raise ConfigError(
            f"dedup: the earlier corpus {earlier.fingerprint} was made by another version of textmill, whose signatures do not fit; "
            "deduplicate all documents in one run"
        )


def column(path: Path, name: str) -> NDArray[Any]:
    """A whole column of a file; an absent number reads as NO_KARMA."""
    values = shards.read(path)[name]
    return (values.fill_null(NO_KARMA) if values.null_count else values).to_numpy()


def original(corpus: Corpus, shard: int) -> pa.Table:
    """Every document of a shard as it came in, in that order."""
    if shard >= corpus.old:
        table = shards.read(corpus.new[shard - corpus.old])
        return table.select(schemas.DOCUMENTS.names).replace_schema_metadata(None)
    tables, where = _stored(corpus, shard)
    return pa.concat_tables([t.select(schemas.DOCUMENTS.names).replace_schema_metadata(None) for t in tables]).take(pa.array(where))


def texts(corpus: Corpus, places: Ints) -> Iterator[tuple[Ints, pa.Array]]:
    """(places, their texts) shard by shard, for places that ascend; nothing but these texts is brought into memory."""
    for shard, rows in corpus.by_shard(places):
        if shard >= corpus.old:
            columns, where = [shards.read(corpus.new[shard - corpus.old])["text"]], rows
        else:
            tables, at = _stored(corpus, shard)
            columns, where = [table["text"] for table in tables], at[rows]
        yield rows + corpus.firsts[shard], _picked([chunk for one in columns for chunk in one.chunks], where)


def _stored(corpus: Corpus, shard: int) -> tuple[list[pa.Table], Ints]:
    """The tables of an earlier artifact among which a shard's documents lie, and each document's row in all of them in a row."""
    assert corpus.earlier is not None
    name = corpus.names[shard]
    tables = [shards.read(corpus.earlier / side / name) for side in ("", "duplicates", "uncut") if (corpus.earlier / side / name).exists()]
    status, cut = (column(corpus.earlier / "fates" / name, what) for what in ("status", "cut"))
    main, gone = status == KEPT, (status != KEPT) & (status != PARAGRAPHS)
    row = np.where(main, np.cumsum(main), main.sum() + np.cumsum(gone))
    return tables, np.where(cut, main.sum() + gone.sum() + np.cumsum(cut), row) - 1


def _picked(chunks: list[pa.Array], rows: Ints) -> pa.Array:
    """Rows in any order of a column in pieces. Arrow's own take would copy the column together first."""
    ends = np.cumsum([len(chunk) for chunk in chunks])
    owner = np.searchsorted(ends, rows, side="right")
    found, order = [], []
    for number in np.unique(owner).tolist():
        mine = np.flatnonzero(owner == number)
        found.append(chunks[number].take(pa.array(rows[mine] - (ends[number] - len(chunks[number])))))
        order.append(mine)
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(order)] = np.arange(len(rows))
    return pa.concat_arrays(found).take(pa.array(back))
