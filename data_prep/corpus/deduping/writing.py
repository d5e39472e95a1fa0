"""The shards of the artifact: what nothing happened to is a hard link of the earlier file, the rest is written."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep import schemas, shards
from data_prep.corpus.deduping import paragraphs
from data_prep.corpus.deduping.corpus import EXACT, KEPT, NEAR, PARAGRAPHS, SUPERSEDED, Corpus, original
from data_prep.corpus.words import Flags, Ints
from infra.artifact import Counts
from infra.compute import Compute
from infra.reuse import link

REMOVED = {EXACT: "exact", NEAR: "near", SUPERSEDED: "superseded", PARAGRAPHS: "paragraphs"}
ALWAYS = (EXACT, NEAR)  # counted when there are none, too
CUTS = pa.schema(
    [
        ("row", pa.int64()),
        ("line", pa.int64()),
        ("holder", pa.int64()),
        ("document", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("kept_in", pa.string()),
    ]
)


def write(corpus: Corpus, compute: Compute) -> Counts:
    """Write every shard with its sides; the total of their counts."""
    compute.map("dedup", partial(_write, corpus), range(len(corpus.names)))
    counts = shards.total(shards.counts(corpus.out / name) for name in corpus.names)
    counts = {"read": 0, "kept": 0, "removed.exact": 0, "removed.near": 0} | counts
    if corpus.old:
        counts |= {"new": int(corpus.firsts[-1] - corpus.firsts[corpus.old])}
        counts.setdefault("removed.superseded", 0)
    return shards.balance("dedup", dict(sorted(counts.items())))


def _write(corpus: Corpus, shard: int) -> None:
    """One shard, its main table last: where that is, all is."""
    name = corpus.names[shard]
    if (corpus.out / name).exists():
        return
    fates = shards.read(corpus.scratch / "fates" / name).replace_schema_metadata(None)
    earlier = corpus.earlier if shard < corpus.old else None
    if not corpus.config.paragraphs:
        cuts = pa.table({column: np.zeros(0, np.int64) for column in ("row", "line", "holder")})
    else:
        cuts = paragraphs.of_shard(corpus, shard)
    if earlier and _same(earlier, name, fates, cuts):
        before = shards.read(earlier / "fates" / name)
        fates = fates.set_column(0, "status", before["status"]).set_column(fates.num_columns - 1, "cut", before["cut"])
        taken = [side for side in ("duplicates", "clusters", "paragraphs", "uncut") if (earlier / side / name).exists()]
        shards.write(fates, corpus.out / "fates" / name)
        for side in taken:
            link(earlier / side / name, corpus.out / side / name)
        link(earlier / name, corpus.out / name, needs=[corpus.out / side / name for side in ("fates", *taken)])
        return
    _write_anew(corpus, shard, fates, cuts, earlier)


def _same(earlier: Path, name: str, fates: pa.Table, cuts: pa.Table) -> bool:
    """Whether no document of the shard stands otherwise than before, towards its cluster or in its lines."""
    before = shards.read(earlier / "fates" / name)
    then, now = before["status"].to_numpy(), fates["status"].to_numpy()
    then = np.where(then == PARAGRAPHS, KEPT, then)  # that follows from the cuts
    if not (then == now).all() or not before["survivor"].equals(fates["survivor"]):
        return False
    if not np.array_equal(before["jaccard"].to_numpy(), fates["jaccard"].to_numpy(), equal_nan=True):
        return False
    if not (earlier / "paragraphs" / name).exists():
        return cuts.num_rows == 0
    made = shards.read(earlier / "paragraphs" / name)
    return all(made[column].equals(cuts[column]) for column in ("row", "line", "holder"))


def _write_anew(corpus: Corpus, shard: int, fates: pa.Table, cuts: pa.Table, earlier: Path | None) -> None:
    name, documents = corpus.names[shard], original(corpus, shard)
    status = fates["status"].to_numpy().copy()
    cut = np.zeros(len(status), np.bool_)
    kept = documents
    if cuts.num_rows:
        kept = _with_cuts(corpus, documents, cuts, status)
        cut[cuts["row"].to_numpy()] = True
    fates = fates.set_column(0, "status", pa.array(status)).set_column(fates.num_columns - 1, "cut", pa.array(cut))
    ids = _survivor_ids(corpus, shard, documents)
    sides = {"fates": fates, "clusters": _clusters(corpus, shard, documents, fates, ids)}
    gone = (status == EXACT) | (status == NEAR) | (status == SUPERSEDED)
    sides["duplicates"] = _rows(documents.append_column("survivor_id", ids), gone, schemas.DUPLICATES)
    if corpus.config.paragraphs:
        sides["paragraphs"] = _shown(corpus, documents, cuts)
        sides["uncut"] = _rows(documents, cut, schemas.DOCUMENTS)
    for side, table in sides.items():
        shards.write(table, corpus.out / side / name)
    path, main = corpus.out / name, _rows(kept, status == KEPT, schemas.DOCUMENTS)
    counts = _counts(status, cut, cuts.num_rows)
    needs = [corpus.out / side / name for side in sides]
    if earlier and counts == shards.counts(earlier / name) and main.equals(shards.read(earlier / name).replace_schema_metadata(None)):
        link(earlier / name, path, needs=needs)
    else:
        shards.write(main, path, shards.balance("dedup", counts), needs=needs)


def _with_cuts(corpus: Corpus, documents: pa.Table, cuts: pa.Table, status: NDArray[np.int8]) -> pa.Table:
    """The documents without what is cut; the status of those of which too little is left becomes PARAGRAPHS."""
    rows, starts = np.unique(cuts["row"].to_numpy(), return_index=True)
    gone = [part.tolist() for part in np.split(cuts["line"].to_numpy(), starts[1:])]
    old = documents["text"].take(pa.array(rows)).to_pylist()
    left = paragraphs.without([text or "" for text in old], gone)
    status[rows[paragraphs.counts(left) < corpus.config.paragraph_min_words]] = PARAGRAPHS
    changed = np.zeros(documents.num_rows, np.bool_)
    changed[rows] = True
    text = pc.replace_with_mask(documents["text"].combine_chunks(), pa.array(changed), pa.array(left, pa.string()))
    return documents.set_column(documents.column_names.index("text"), "text", text)


def _rows(table: pa.Table, wanted: Flags, schema: pa.Schema) -> pa.Table:
    """Some rows, in pieces that hang on nothing but their number."""
    return table.filter(pa.array(wanted)).select(schema.names).cast(schema).combine_chunks()


def _counts(status: NDArray[np.int8], cut: Flags, lines: int) -> Counts:
    counts = {"read": len(status), "kept": int((status == KEPT).sum())}
    for value, rule in REMOVED.items():
        if (number := int((status == value).sum())) or value in ALWAYS:
            counts[f"removed.{rule}"] = number
    return counts | ({"cut.documents": int(cut.sum()), "cut.paragraphs": lines} if lines else {})


def _survivor_ids(corpus: Corpus, shard: int, documents: pa.Table) -> pa.Array:
    """By document the id of what stays in its place; its own where that is it, or a newer version of it."""
    ids = documents["id"].to_numpy(zero_copy_only=False).copy() if documents.num_rows else np.zeros(0, object)
    belong = shards.read(corpus.scratch / "belong" / corpus.names[shard])
    ids[belong["row"].to_numpy()] = belong["survivor_id"].to_numpy(zero_copy_only=False)
    return pa.array(ids, pa.string())


def _clusters(corpus: Corpus, shard: int, documents: pa.Table, fates: pa.Table, ids: pa.Array) -> pa.Table:
    survivor = fates["survivor"].to_numpy()
    rows = np.flatnonzero(survivor >= 0)
    taken, chosen = pa.array(rows), documents.select(["id", "url"])
    stays = survivor[rows] == rows + corpus.firsts[shard]
    picked: list[Any] = [column.take(taken) for column in (ids, chosen["id"], chosen["url"])]
    columns = [*picked, pa.array(stays), fates["jaccard"].take(taken)]
    return pa.Table.from_arrays(columns, names=schemas.CLUSTERS.names).cast(schemas.CLUSTERS).combine_chunks()


def _shown(corpus: Corpus, documents: pa.Table, cuts: pa.Table) -> pa.Table:
    """Every paragraph that was cut, and the document that keeps it."""
    rows, lines = cuts["row"].to_numpy(), cuts["line"].to_numpy()
    holder: Ints = cuts["holder"].to_numpy()
    kept_in = corpus.lookup("signatures", "id", holder) if len(holder) else np.zeros(0, object)
    taken = documents.select(["id", "url", "text"]).take(pa.array(rows))
    texts = [text.split("\n")[line] for text, line in zip(taken["text"].to_pylist(), lines.tolist(), strict=True)]
    columns = [
        cuts["row"],
        cuts["line"],
        cuts["holder"],
        taken["id"],
        taken["url"],
        pa.array(texts, pa.string()),
        pa.array(kept_in, pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=CUTS).combine_chunks()
