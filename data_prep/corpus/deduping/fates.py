"""Who stays: the best document of every cluster, and what becomes of each of the others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus.clusters import Forest
from data_prep.corpus.deduping import edges, life, outside
from data_prep.corpus.deduping.config import DedupConfig
from data_prep.corpus.deduping.corpus import BLOCK, DEAD, EXACT, KEPT, NEAR, REPEAT, SUPERSEDED, Corpus, column
from data_prep.corpus.words import Ints
from infra.compute import Compute

ORDERS = {"longest": ("length", "descending"), "karma": ("karma", "descending"), "id": ("id", "ascending")}
CANDIDATES = pa.schema(
    [
        ("root", pa.int64()),  # the cluster: its smallest content
        ("repeat", pa.bool_()),
        ("documents", pa.int64()),  # of the cluster, in the shard
        ("place", pa.int64()),
        ("content", pa.int64()),
        ("length", pa.int64()),
        ("karma", pa.int64()),
        ("id", pa.string()),
        ("text_key", pa.uint64()),
    ]
)
WINNERS = pa.schema([("root", pa.int64()), ("place", pa.int64()), ("content", pa.int64()), ("id", pa.string())])


def choose(corpus: Corpus, compute: Compute) -> None:
    """Write who stays in each cluster of two documents or more: the best of every shard's best."""
    compute.map("dedup candidates", partial(_candidates, corpus), range(len(corpus.names)))
    compute.map("dedup survivors", partial(_winners, corpus), corpus.blocks)
    compute.map("dedup clusters", partial(_belong, corpus), range(len(corpus.names)))


def sort_keys(config: DedupConfig) -> list[tuple[str, str]]:
    """Best document first; no two different documents are equal in it, whatever shards they stand in."""
    return [*(ORDERS[name] for name in (*config.survivor, "id")), ("text_key", "ascending"), ("place", "ascending")]


def asked(corpus: Corpus) -> list[Path]:
    """Files of pairs (content, content of its survivor), as edges.know wants them."""
    return [corpus.scratch / "asked" / name for name in corpus.names]


def decide(corpus: Corpus, known: Path | None, compute: Compute) -> None:
    """Write the fate of every document."""
    compute.map("dedup fates", partial(_decide, corpus, known), range(len(corpus.names)))


def _members(corpus: Corpus, shard: int) -> tuple[Ints, Ints, Ints]:
    """(rows, contents, roots) of the living documents that may have company."""
    content = corpus.column("contents", shard, "content")
    marks = life.mapped(corpus.scratch / "marks", corpus.documents)
    rows = np.flatnonzero((life.state(corpus, shard) != DEAD) & (marks[content] > 0))
    return rows, content[rows], Forest(corpus.scratch / "forest", corpus.documents).roots(content[rows])


def _candidates(corpus: Corpus, shard: int) -> None:
    """Write the best document of this shard for each cluster, by root."""
    path = corpus.scratch / "candidates" / corpus.names[shard]
    if path.exists():
        return
    rows, content, root = _members(corpus, shard)
    signed = shards.read(corpus.out / "signatures" / corpus.names[shard]).select(["length", "id", "text_key"]).take(pa.array(rows))
    facts = {
        "root": root,
        "repeat": life.state(corpus, shard)[rows] == REPEAT,
        "documents": np.zeros(len(rows), np.int64),
        "place": rows + corpus.firsts[shard],
        "content": content,
        "karma": life.state(corpus, shard, "karma")[rows],
    } | {name: signed[name] for name in ("length", "id", "text_key")}
    table = pa.table([facts[name] for name in CANDIDATES.names], schema=CANDIDATES)
    table = table.take(pc.sort_indices(table, sort_keys=_by_root(corpus)))
    starts = outside.starts_of(table["root"].to_numpy())
    best = table.take(pa.array(starts[:-1])).set_column(2, "documents", pa.array(np.diff(starts)))
    shards.write(best.combine_chunks(), path)


def _winners(corpus: Corpus, block: int) -> None:
    """Write the survivors of the clusters whose root lies in this block."""
    path = corpus.scratch / "winners" / shards.name(block)
    if path.exists():
        return
    parts = [CANDIDATES.empty_table()]
    for name in corpus.names:
        table = shards.read(corpus.scratch / "candidates" / name).replace_schema_metadata(None)
        low, high = np.searchsorted(table["root"].to_numpy(), (block * BLOCK, (block + 1) * BLOCK))
        parts.append(table.slice(low, high - low))
    table = pa.concat_tables(parts).combine_chunks()
    table = table.take(pc.sort_indices(table, sort_keys=_by_root(corpus)))
    starts = outside.starts_of(table["root"].to_numpy())[:-1]
    documents = table["documents"].to_numpy()
    some = np.add.reduceat(documents, starts) > 1 if len(starts) else np.zeros(0, np.bool_)
    shards.write(table.take(pa.array(starts[some])).select(WINNERS.names).combine_chunks(), path)


def _belong(corpus: Corpus, shard: int) -> None:
    """Write, for each document of the shard in a cluster, who stays for it; and the pairs whose similarity has to be known."""
    path, pairs = corpus.scratch / "belong" / corpus.names[shard], corpus.scratch / "asked" / corpus.names[shard]
    if path.exists():
        return
    rows, content, root = _members(corpus, shard)
    survivor, best = np.full(len(rows), -1), np.full(len(rows), -1)
    names = np.full(len(rows), None, object)
    for block in np.unique(root // BLOCK).tolist():
        table = shards.read(corpus.scratch / "winners" / shards.name(block))
        roots, mine = table["root"].to_numpy(), np.flatnonzero(root // BLOCK == block)
        at = np.searchsorted(roots, root[mine])
        found = at < len(roots)
        found[found] = roots[at[found]] == root[mine[found]]
        mine, at = mine[found], at[found]
        survivor[mine], best[mine] = table["place"].to_numpy()[at], table["content"].to_numpy()[at]
        names[mine] = table["id"].take(pa.array(at)).to_numpy(zero_copy_only=False)
    real = survivor >= 0
    rows, content, survivor, best = rows[real], content[real], survivor[real], best[real]
    unlike = np.unique(np.stack((content, best), axis=1)[content != best], axis=0)
    table = {"larger": unlike.max(axis=1), "smaller": unlike.min(axis=1), "bands": np.zeros(len(unlike), np.int32)}
    table_of_pairs = pa.table(table)
    shards.write(table_of_pairs.sort_by([("larger", "ascending"), ("smaller", "ascending")]).combine_chunks(), pairs)
    belong = {"row": rows, "content": content, "survivor": survivor, "best": best, "survivor_id": pa.array(names[real], pa.string())}
    shards.write(pa.table(belong), path)


def _decide(corpus: Corpus, known: Path | None, shard: int) -> None:
    path = corpus.scratch / "fates" / corpus.names[shard]
    if path.exists():
        return
    state, content = life.state(corpus, shard), corpus.column("contents", shard, "content")
    status = np.where(state == DEAD, SUPERSEDED, KEPT).astype(np.int8)
    survivor, jaccard = np.full(len(state), -1), np.full(len(state), np.nan)
    belong = corpus.scratch / "belong" / corpus.names[shard]
    rows, mine, who, best = (column(belong, name) for name in ("row", "content", "survivor", "best"))
    survivor[rows], jaccard[rows] = who, 1.0
    status[rows] = np.where(mine == best, EXACT, NEAR)
    status[rows[who == rows + corpus.firsts[shard]]] = KEPT
    unlike = mine != best
    if known is not None and unlike.any():
        pairs = np.stack((mine[unlike], best[unlike]), axis=1)
        jaccard[rows[unlike]] = edges.told(known, pairs.max(axis=1), pairs.min(axis=1))
    flags = np.asarray(life.flags(corpus)[corpus.firsts[shard] : corpus.firsts[shard + 1]])
    alive = (flags & life.IS > 0) & (content == corpus.numbers(shard))
    table = {"status": status, "state": state, "karma": life.state(corpus, shard, "karma"), "alive": alive}
    table |= {"survivor": survivor, "jaccard": jaccard, "cut": np.zeros(len(state), np.bool_)}
    shards.write(pa.table(table), path)


def _by_root(corpus: Corpus) -> list[tuple[str, str]]:
    return [("root", "ascending"), ("repeat", "ascending"), *sort_keys(corpus.config)]
