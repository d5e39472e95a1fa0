"""One pile of links merged: each URL once, ranked by karma, without what an earlier list has, and at most so many of a domain.

What is remembered for the next list lies in four tallies next to the links. `known`: the URLs listed so far. `domains`: how many of
each registered domain (only where max_per_domain is given). `sums`: under the karma rule "sum", the karma of every URL so far, listed
or not, so that 2 on one day and 2 on the next make 4. `posts`: the submissions whose karma is in `sums`, and `files` the names and
digests of their files, for neither may count twice. A source is known by its place in the recipe: new ones go behind the old ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus import hosts, piles, tallies, urls
from data_prep.corpus.link_config import FILES, LinksConfig
from data_prep.schemas import LINKS as COLUMNS
from infra.artifact import Artifact
from infra.errors import ConfigError

TALLIES = ("known", "domains", "sums", "posts")
COUNTED = frozenset({"domains", "sums"})  # tallies with a number for each hash
LISTED = "listed"  # the scratch folder of merged piles
EXEMPT = "exempt"


@dataclass(frozen=True)
class Past:
    """What an earlier list left: the shards of its tallies, and the (source, name, digest) of the files whose karma is in `sums`."""

    known: tuple[Path, ...] = ()
    domains: tuple[Path, ...] = ()
    sums: tuple[Path, ...] = ()
    posts: tuple[Path, ...] = ()
    files: frozenset[tuple[int, str, str]] = frozenset()

    @classmethod
    def of(cls, earlier: Artifact | None) -> Past:
        """Nothing when there is no earlier list."""
        if earlier is None:
            return cls()
        rows = [row for path in earlier.side("files") for row in shards.read(path).to_pylist()]
        files = frozenset((row["origin"], row["name"], row["digest"]) for row in rows)
        known, domains, sums, posts = (tuple(earlier.side(name)) for name in TALLIES)
        return cls(known, domains, sums, posts, files)

    def paths(self, name: str) -> tuple[Path, ...]:
        """The shards of a tally."""
        found: tuple[Path, ...] = getattr(self, name)
        return found


@dataclass(frozen=True)
class Part:
    """The piles that one file, or the sites' start pages, became. counted: an earlier list has its karma in `sums` already."""

    path: Path
    counted: bool = False


def merge_pile(config: LinksConfig, past: Past, parts: Sequence[Part], out: Path, pile: int) -> None:
    """The links of a pile, and what it adds to each tally, into the folder out."""
    counted: Counter[str] = Counter()
    found, sums = _gathered(parts, pile), list[Path]()
    for place, source in enumerate(config.sources):
        if source.sums:
            shard = f"{pile:05d}.{place:05d}.arrow"
            sums += [out / "sums" / shard, out / "posts" / shard]
            found = _summed(found, place, source.min_karma, past, counted, out, shard)
    best = _unlisted(_once(found), config, past, counted)
    if config.max_per_domain is not None:
        best = _capped(best, config, past, counted, out / "domains" / shards.name(pile))
    tallies.write(tallies.hashes(best["url"].to_pylist()), out / "known" / shards.name(pile))
    counted["kept"] = best.num_rows
    added = [out / "known" / shards.name(pile), out / "domains" / shards.name(pile), *sums]
    needs = [path for path in added if path.exists()]
    shards.write(best.select(COLUMNS.names), out / LISTED / shards.name(pile), dict(counted), needs=needs)


def write_tallies(config: LinksConfig, past: Past, fresh: Path, out: Path, read: Sequence[tuple[int, str, str]]) -> None:
    """What is known from now on: what was known before and what the piles in `fresh` add. read: place, name and digest of each file."""
    summing = {place for place, source in enumerate(config.sources) if source.sums}
    for name in TALLIES:
        paths = [*past.paths(name), *sorted((fresh / name).glob("*.arrow"))]
        if name == "known" or paths:
            tallies.merge(paths, out / name, counted=name in COUNTED)
    if files := sorted(past.files | {file for file in read if file[0] in summing}):
        columns = list(zip(*files, strict=True))
        shards.write(pa.table(columns, schema=FILES), out / "files" / shards.name(0))


def _gathered(parts: Sequence[Part], pile: int) -> pa.Table:
    """All rows of a pile in the order of the files, with a mark on those whose karma was counted before."""
    tables = []
    for part in parts:
        table = piles.read(part.path, pile)
        tables.append(table.append_column("counted", pa.array(np.full(table.num_rows, part.counted))))
    whole = pa.concat_tables(tables)
    return whole.append_column("row", pa.array(np.arange(whole.num_rows)))


def _summed(found: pa.Table, place: int, enough: int, past: Past, counted: Counter[str], out: Path, name: str) -> pa.Table:
    """With the karma of a source's posts of a URL, those of earlier lists too, summed, and without the URLs that have too little.

    A submission counts once, however often dumps list it: with its highest karma, and not again after an earlier list.
    """
    ours = pc.equal(found["origin"], place)
    mine, others = found.filter(ours), found.filter(pc.invert(ours))
    if not mine.num_rows:
        return found
    mine = _each_post_once(mine, counted)
    posts = tallies.hashes((post or "" for post in mine["post"].to_pylist()), seed=place + 1)
    has_id = mine["post"].is_valid().to_numpy()
    before = mine["counted"].to_numpy() | (tallies.Tally(past.posts).find(posts) & has_id)
    tallies.write(posts[has_id], out / "posts" / name)
    encoded = pc.dictionary_encode(mine["url"].combine_chunks())
    codes, hashed = np.asarray(encoded.indices), tallies.hashes(encoded.dictionary.to_pylist(), seed=place + 1)
    fresh = np.zeros(len(hashed), np.int64)
    np.add.at(fresh, codes, np.where(before, 0, mine["karma"].to_numpy()))
    tallies.write(hashed, out / "sums" / name, fresh)
    sums = fresh + tallies.Tally(past.sums).sums(hashed)
    mine = mine.set_column(mine.schema.get_field_index("karma"), "karma", pa.array(sums[codes])).filter(pa.array(sums[codes] >= enough))
    counted["removed.low_karma"] += len(codes) - mine.num_rows
    return pa.concat_tables([others, mine])


def _each_post_once(mine: pa.Table, counted: Counter[str]) -> pa.Table:
    """Of rows with the same submission id the one with the most karma, the first of equal ones; rows without an id stay."""
    codes = np.asarray(pc.fill_null(pc.dictionary_encode(mine["post"].combine_chunks()).indices, -1)).astype(np.int64)
    codes = np.where(codes < 0, -1 - np.arange(len(codes)), codes)
    order = np.lexsort((mine["row"].to_numpy(), -mine["karma"].to_numpy(), codes))
    first = np.ones(len(order), bool)
    first[1:] = codes[order][1:] != codes[order][:-1]
    if first.all():
        return mine
    counted["removed.duplicate"] += int((~first).sum())
    return mine.take(pa.array(np.sort(order[first])))


def _once(found: pa.Table) -> pa.Table:
    """Each URL once, with its highest karma and where that stood first, ordered by host and URL; `rows`: how many there were."""
    ranked = found.sort_by([("host", "ascending"), ("url", "ascending"), ("karma", "descending"), ("row", "ascending")])
    same = np.zeros(ranked.num_rows, bool)
    if ranked.num_rows > 1:
        same[1:] = pc.equal(ranked["url"][1:], ranked["url"][:-1]).to_numpy()
    firsts = np.flatnonzero(~same)
    rows = np.diff(firsts, append=len(same))
    return ranked.filter(pa.array(~same)).append_column("rows", pa.array(rows, pa.int64()))


def _unlisted(best: pa.Table, config: LinksConfig, past: Past, counted: Counter[str]) -> pa.Table:
    """Without what an earlier list has, every row of it counted as known; other rows beyond a URL's first are duplicates.

    Columns are added: `exempt` marks start pages, `known` what is listed again all the same.
    """
    listed = best["url"].to_pylist()
    starts = config.starts()
    exempt = np.fromiter((url in starts for url in listed), bool, len(listed)) if starts else np.zeros(len(listed), bool)
    known = tallies.Tally(past.known).find(tallies.hashes(listed)) if past.known else np.zeros(len(listed), bool)
    gone = np.zeros(len(listed), bool) if config.recrawl else known & ~exempt
    rows = best["rows"].to_numpy()
    counted["removed.duplicate"] += int(rows[~gone].sum() - (~gone).sum())
    if gone.any():
        counted["removed.known"] += int(rows[gone].sum())
    return best.append_column(EXEMPT, pa.array(exempt)).append_column("known", pa.array(known)).filter(pa.array(~gone))


def _capped(best: pa.Table, config: LinksConfig, past: Past, counted: Counter[str], tally: Path) -> pa.Table:
    """At most max_per_domain of each domain. Start pages take their place first and are never left out."""
    if config.suffix_list != hosts.suffixes():
        raise ConfigError(
            f"links: the public suffix list of this process ({hosts.suffixes()}) is not the run's ({config.suffix_list}); "
            "install the same publicsuffixlist everywhere"
        )
    assert config.max_per_domain is not None
    encoded = pc.dictionary_encode(best["host"].combine_chunks())
    domains = tallies.hashes(hosts.domain(urls.host_of(host)) for host in encoded.dictionary.to_pylist())[np.asarray(encoded.indices)]
    keys = best.select(["url", "karma"]).append_column("domain", pa.array(domains)).append_column("rest", pc.invert(best[EXEMPT]))
    order = np.asarray(
        pc.sort_indices(keys, [("domain", "ascending"), ("rest", "ascending"), ("karma", "descending"), ("url", "ascending")])
    )
    unique, first, inverse = np.unique(domains[order], return_index=True, return_inverse=True)
    before = np.zeros(len(unique), np.int64) if config.recrawl else tallies.Tally(past.domains).sums(unique)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - first[inverse] + before[inverse]
    kept = (rank < config.max_per_domain) | best[EXEMPT].to_numpy()
    if not kept.all():
        counted["removed.domain_cap"] += int((~kept).sum())
    new = kept & ~best["known"].to_numpy()
    tallies.write(domains[new], tally, np.ones(int(new.sum()), np.int64))
    return best.filter(pa.array(kept))
