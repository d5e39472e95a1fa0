"""Documents in, one of every group of equal or nearly equal ones out.

Exact: the same words in lower case. Near: the Jaccard similarity of the sets of word n-grams reaches a threshold; MinHash
bands propose pairs, the true similarity decides. Groups are connected components: A and C may go together through B.

The stage is a row of maps, each leaving whole files under .work/, so that a killed run does only what is missing:
signatures of a shard -> pairs of a band -> verified pairs of a chunk -> clusters -> similarity to the survivor -> shards written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep import schemas, shards
from data_prep.corpus import clusters, minhash, words
from data_prep.corpus.clusters import Rank
from data_prep.corpus.words import Hashes, Ints
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

PAIRS_PER_CHUNK = 5_000  # compared by one task
SURVIVOR_RULES = ("longest", "karma", "id")


@dataclass(frozen=True)
class DedupConfig:
    """jaccard: threshold of near duplicates, 1 for exact duplicates only. survivor: who stays, first difference decides."""

    jaccard: float = 0.8
    permutations: int = 112
    ngram: int = 5
    survivor: tuple[str, ...] = SURVIVOR_RULES

    def __post_init__(self) -> None:
        """Raises ConfigError on what cannot be done."""
        if not 0 < self.jaccard <= 1:
            raise ConfigError(f"dedup: jaccard {self.jaccard} is no similarity; choose one above 0 and up to 1")
        if self.permutations < 1 or self.ngram < 1:
            raise ConfigError(f"dedup: permutations ({self.permutations}) and ngram ({self.ngram}) must be at least 1")
        if unknown := [name for name in self.survivor if name not in SURVIVOR_RULES]:
            raise ConfigError(f"dedup: survivor has no rule {unknown[0]!r}; choose from {', '.join(SURVIVOR_RULES)}")

    @property
    def near(self) -> bool:
        return self.jaccard < 1

    @property
    def bands(self) -> tuple[int, int]:
        return minhash.bands(self.jaccard, self.permutations)


@dataclass(frozen=True)
class Corpus:
    """All documents in one count: place p is row p - firsts[s] of shard s."""

    config: DedupConfig
    sources: list[Path]
    firsts: Ints

    def by_shard(self, places: Ints) -> list[tuple[int, Ints]]:
        """(shard, rows) for places that ascend."""
        cuts = np.searchsorted(places, self.firsts)
        numbers = range(len(self.sources))
        return [(s, places[cuts[s] : cuts[s + 1]] - self.firsts[s]) for s in numbers if cuts[s] < cuts[s + 1]]


def work(config: DedupConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Drop duplicates within and across shards; see the top of this file for the steps."""
    sources, scratch = inputs["documents"].shards, out / ".work"
    shards.each("dedup signatures", partial(sign, config), sources, scratch / "signatures", compute)
    signed = [scratch / "signatures" / source.name for source in sources]
    corpus = Corpus(config, sources, np.cumsum([0, *(shards.counts(path)["read"] for path in signed)], dtype=np.int64))
    exact = exact_edges(signed)
    near = near_edges(corpus, signed, exact, scratch, compute)
    fates = decide(corpus, exact, near, scratch, compute)
    firsts = dict(zip((source.name for source in sources), corpus.firsts.tolist(), strict=False))
    counts = shards.each_path("dedup", partial(write_kept, firsts, fates), sources, out, compute)
    return shards.balance("dedup", counts)


def sign(config: DedupConfig, documents: pa.Table) -> shards.Made:
    """One row a document: its exact key, whether it has shingles, and the key of each band."""
    number, rows = config.bands
    exact, some, keys = [np.zeros((0, 2), np.uint64)], [np.zeros(0, np.bool_)], [np.zeros((0, number), np.uint64)]
    for batch in words.batches(documents["text"]):
        split = words.split(batch)
        exact.append(minhash.exact_keys(split, [text or "" for text in batch.to_pylist()]))
        if config.near:
            found = minhash.shingles(split, config.ngram)
            some.append(np.diff(found.starts) > 0)
            keys.append(minhash.band_keys(minhash.signatures(found, config.permutations), number, rows))
    columns = {"high": np.concatenate(exact)[:, 0], "low": np.concatenate(exact)[:, 1]}
    if config.near:
        columns |= {"some": np.concatenate(some)}
        columns |= {f"band{band}": np.ascontiguousarray(np.concatenate(keys)[:, band]) for band in range(number)}
    return shards.Made(pa.table(columns), {"read": documents.num_rows})


def exact_edges(signed: list[Path]) -> Ints:
    """An edge from the first document of each group of equal ones to every other of it."""
    high, low = _column(signed, "high"), _column(signed, "low")
    order = np.lexsort((low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    starts = np.concatenate(([True], ~same)) if len(order) else np.zeros(0, np.bool_)
    first = order[np.flatnonzero(starts)][np.cumsum(starts) - 1]  # lexsort is stable: the smallest place leads its group
    again = ~starts
    return np.stack((first[again], order[again]), axis=1).astype(np.int64)


def pair_up(signed: list[Path], skipped: Ints, folder: Path, band: int) -> None:
    """Write the pairs that share a key of this band; of equal documents only the first takes part."""
    path = folder / shards.name(band)
    if path.exists():
        return
    takes_part = _column(signed, "some").astype(np.bool_)
    takes_part[skipped] = False
    members = np.flatnonzero(takes_part)
    found = clusters.pairs_under_keys(_column(signed, f"band{band}")[members], members, _column(signed, "low")[members])
    shards.write(pa.table({"one": found[:, 0], "other": found[:, 1]}), path)


def verify(corpus: Corpus, folder: Path, chunk: Path) -> None:
    """Write the true similarity of every pair of the chunk."""
    if (folder / chunk.name).exists():
        return
    table = shards.read(chunk)
    pairs = np.stack((table["one"].to_numpy(), table["other"].to_numpy()), axis=1)
    sets = _shingle_sets(corpus, np.unique(pairs))
    similarity = [minhash.jaccard(sets[one], sets[other]) for one, other in pairs.tolist()]
    shards.write(table.append_column("jaccard", pa.array(similarity, pa.float64())), folder / chunk.name)


def near_edges(corpus: Corpus, signed: list[Path], exact: Ints, scratch: Path, compute: Compute) -> Ints:
    """The pairs, of documents that are not exactly equal, whose similarity reaches the threshold."""
    if not corpus.config.near:
        return np.zeros((0, 2), np.int64)
    number, _ = corpus.config.bands
    compute.map("dedup pairs", partial(pair_up, signed, exact[:, 1], scratch / "pairs"), range(number))
    found = [shards.read(scratch / "pairs" / shards.name(band)) for band in range(number)]
    pairs = np.unique(np.concatenate([np.stack((t["one"].to_numpy(), t["other"].to_numpy()), axis=1) for t in found]), axis=0)
    return pairs[similarities(corpus, pairs, scratch / "near", compute) >= corpus.config.jaccard]


def decide(corpus: Corpus, exact: Ints, near: Ints, scratch: Path, compute: Compute) -> Path:
    """Write, for every document of a cluster: its place, its survivor, how alike they are, whether they are exactly equal."""
    nodes, roots = clusters.components(np.concatenate((exact, near)))
    ranks = _ranks(corpus, nodes)
    survivor = clusters.survivors(nodes, roots, ranks, corpus.config.survivor)
    leader = _exact_leader(nodes, exact)
    same = leader == leader[np.searchsorted(nodes, survivor)]
    pairs = np.stack((nodes, survivor), axis=1)
    similarity = np.ones(len(nodes))
    similarity[~same] = similarities(corpus, pairs[~same], scratch / "survivors", compute)
    id_of = dict(zip(nodes.tolist(), (rank.id for rank in ranks), strict=True))
    survivor_id = pa.array([id_of[place] for place in survivor.tolist()], pa.string())
    stays = nodes == survivor
    table = {"place": nodes, "survivor": stays, "survivor_id": survivor_id, "jaccard": similarity, "exact": same}
    path = scratch / "fates.arrow"
    shards.write(pa.table(table), path)
    return path


def similarities(corpus: Corpus, pairs: Ints, folder: Path, compute: Compute) -> NDArray[np.float64]:
    """The true similarity of every pair, compared in chunks that are the same in every try."""
    chunks = []
    for number, start in enumerate(range(0, len(pairs), PAIRS_PER_CHUNK)):
        part = pairs[start : start + PAIRS_PER_CHUNK]
        chunks.append(folder / "asked" / shards.name(number))
        if not chunks[-1].exists():
            shards.write(pa.table({"one": part[:, 0], "other": part[:, 1]}), chunks[-1])
    compute.map(f"dedup {folder.name}", partial(verify, corpus, folder / "told"), chunks)
    found = [shards.read(folder / "told" / chunk.name)["jaccard"].to_numpy() for chunk in chunks]
    return np.concatenate([np.zeros(0), *found])


def write_kept(firsts: dict[str, int], fates: Path, shard: Path, _out: Path) -> shards.Made:
    """The shard without its duplicates; these, and the clusters its documents are in, beside it."""
    documents, table = shards.read(shard), shards.read(fates)
    places = table["place"].to_numpy()
    begin = firsts[shard.name]
    low, high = np.searchsorted(places, (begin, begin + documents.num_rows))
    here = table.slice(low, high - low)
    rows, stays = here["place"].to_numpy() - begin, here["survivor"].to_numpy()
    gone = np.zeros(documents.num_rows, np.bool_)
    gone[rows[~stays]] = True
    kept = documents.filter(pa.array(~gone))
    duplicates = documents.filter(pa.array(gone)).append_column("survivor_id", here.filter(pa.array(~stays))["survivor_id"])
    exact = int((here["exact"].to_numpy() & ~stays).sum())
    counts = {"read": documents.num_rows, "kept": kept.num_rows, "removed.exact": exact, "removed.near": int(gone.sum()) - exact}
    sides = {"duplicates": duplicates.cast(schemas.DUPLICATES), "clusters": _cluster_rows(documents, here, rows)}
    return shards.Made(kept, shards.balance("dedup", counts), sides)


def _shingle_sets(corpus: Corpus, places: Ints) -> dict[int, Hashes]:
    sets: dict[int, Hashes] = {}
    for shard, rows in corpus.by_shard(places):
        column = shards.read(corpus.sources[shard])["text"]
        texts = pa.chunked_array([pa.array([column[row].as_py() or "" for row in rows.tolist()], pa.string())])
        done = 0
        for batch in words.batches(texts):
            found = minhash.shingles(words.split(batch), corpus.config.ngram)
            sets |= {int(corpus.firsts[shard] + rows[done + d]): found.of(d) for d in range(found.documents)}
            done += found.documents
    return sets


def _ranks(corpus: Corpus, places: Ints) -> list[Rank]:
    """The facts of the documents at these places, in their order; places ascend."""
    ranks = []
    for shard, rows in corpus.by_shard(places):
        table = shards.read(corpus.sources[shard])
        for row in rows.tolist():
            ranks.append(Rank(len(table["text"][row].as_py() or ""), table["karma"][row].as_py(), table["id"][row].as_py()))
    return ranks


def _exact_leader(nodes: Ints, exact: Ints) -> Ints:
    """For each node the first of the documents equal to it: itself, unless an edge says otherwise."""
    leader = nodes.copy()
    leader[np.searchsorted(nodes, exact[:, 1])] = exact[:, 0]
    return leader


def _cluster_rows(documents: pa.Table, here: pa.Table, rows: Ints) -> pa.Table:
    chosen = documents.select(["id", "url"]).take(pa.array(rows))
    columns = [here["survivor_id"], chosen["id"], chosen["url"], here["survivor"], here["jaccard"]]
    return pa.Table.from_arrays(columns, names=schemas.CLUSTERS.names).cast(schemas.CLUSTERS)


def _column(signed: list[Path], name: str) -> Hashes:
    return np.concatenate([np.zeros(0, np.uint64), *(shards.read(path)[name].to_numpy() for path in signed)])


DEDUP = Stage(name="dedup", version=1, work=work)
