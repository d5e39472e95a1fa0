"""Link dumps, lists, sitemaps, feeds and start pages in, each URL worth asking for once, dealt to shards by host.

The karma rule is WebText's (Radford et al. 2019, section 2.1: links that received at least 3 karma): with
`karma_rule="post"` a URL qualifies when ONE submission of it got enough, with "sum" when all of a source's submissions
together did. The number kept beside a URL is the best post's, or the sum; it is null for every other kind of source.

With an `earlier` list, what that one or any before it listed is left out: consecutive lists together are one list of everything.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus import dumps, hosts, piles, urls
from data_prep.corpus.link_config import FOUND, SET_ASIDE, SITES, Item, LinksConfig, LinkSource
from data_prep.corpus.link_files import part, pile_of, read_file, table
from data_prep.corpus.link_merge import LISTED, Part, Past, merge_pile, write_tallies
from data_prep.packed import PACKINGS
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

__all__ = ["LINKS", "LinkSource", "LinksConfig"]

PILE_BYTES = 256 << 20  # of files as they would be unpacked; the rows of one pile are merged in memory
PACKED = 8  # how much larger dumps are when unpacked
MOST_PILES = 512


def work(config: LinksConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Parse each file on its own into piles, then merge, rank and cap pile by pile, then deal."""
    listed = _files(config)
    items = [(number, place, file.path) for number, (place, file) in enumerate(listed)]
    _check(config, items)
    count, parts, past = pile_count([Path(name) for *_, name in items]), out / ".parts", Past.of(inputs.get("earlier"))
    compute.map("links", partial(read_file, config, parts, count), [i for i in items if not (parts / part(i[0])).exists()])
    seeds = _seeds(config, parts / "seeds.piles", count)
    made = [Part(parts / part(number), (place, file.name, file.digest) in past.files) for number, (place, file) in enumerate(listed)]
    todo = [number for number in range(count) if not (parts / LISTED / shards.name(number)).exists()]
    compute.map("links merge", partial(merge_pile, config, past, [Part(parts / "seeds.piles"), *made], parts), todo)
    best = [parts / LISTED / shards.name(number) for number in range(count)]
    counted = [{"read": seeds}, *(piles.counts(each.path) for each in made), *(shards.counts(path) for path in best)]
    aside = [piles.read(parts / "set_aside" / each.path.name, 0) for each in made]
    shards.write(pa.concat_tables([SET_ASIDE.empty_table(), *aside]), out / "set_aside" / shards.name(0))
    write_tallies(config, past, parts, out, [(place, file.name, file.digest) for place, file in listed])
    names = deal([shards.read(path) for path in best], _sites(config), config.shards, out)
    return shards.balance("links", shards.total([*counted, _told(config), {"hosts": names}]))


def pile_count(files: Sequence[Path]) -> int:
    """How many piles keep the merging of these files in memory. It changes nothing of what comes out."""
    size = sum(path.stat().st_size * (PACKED if path.suffix in PACKINGS else 1) for path in files)
    return min(MOST_PILES, 1 + size // PILE_BYTES)


def deal(best: Sequence[pa.Table], sites: pa.Table, count: int, out: Path) -> int:
    """Whole hosts to shards, the largest first, each to the shard with least: as even as hosts allow, and the same every time.

    No host stands in two of the tables. The number of hosts is returned.
    """
    encoded = [pc.dictionary_encode(links["host"].combine_chunks()) for links in best]
    weight: Counter[str] = Counter()
    for each in encoded:
        weight.update(
            dict(zip(each.dictionary.to_pylist(), np.bincount(each.indices, minlength=len(each.dictionary)).tolist(), strict=True))
        )
    names = len(weight)
    for site in sites.to_pylist():
        weight[site["host"]] += site["max_pages"]
    loads = [(0, number) for number in range(count)]
    place: dict[str, int] = {}
    for host, size in sorted(weight.items(), key=lambda item: (-item[1], item[0])):
        load, number = heapq.heappop(loads)
        place[host] = number
        heapq.heappush(loads, (load + size, number))
    places = [np.array([place[host] for host in each.dictionary.to_pylist()], np.int64)[np.asarray(each.indices)] for each in encoded]
    starts = np.array([place[host] for host in sites["host"].to_pylist()], np.int64)
    for number in range(count):
        shards.write(sites.filter(pa.array(starts == number)), out / "sites" / shards.name(number), {})
        mine = pa.concat_tables([links.filter(pa.array(where == number)) for links, where in zip(best, places, strict=True)])
        mine = mine.sort_by([("host", "ascending"), ("url", "ascending")]) if len(best) > 1 else mine
        shards.write(mine, out / shards.name(number), {"kept": mine.num_rows})
    return names


def _files(config: LinksConfig) -> list[tuple[int, SourceFile]]:
    return [(place, file) for place, source in enumerate(config.sources) for file in source.files if source.kind != "site"]


def _check(config: LinksConfig, items: list[Item]) -> None:
    """Everything that can be known to be wrong before any work."""
    lists = [file for file in (config.allow_hosts_file, config.exclude_hosts_file) if file]
    for name in (*(name for *_, name in items), *(file.path for file in lists)):
        if not Path(name).is_file():
            raise ConfigError(f"links: no file {name}; check the path in the recipe")
    for _, place, name in items:
        if config.sources[place].kind == "submissions":
            dumps.check_header(Path(name))
    for file in lists:
        hosts.read_list(file)


def _told(config: LinksConfig) -> Counts:
    """Lines of the lists of hosts that name none: beside the ledger, for a list is no source."""
    lists = [file for file in (config.allow_hosts_file, config.exclude_hosts_file) if file]
    return {"host_list_lines_unread": sum(hosts.read_list(file)[1] for file in lists)} if lists else {}


def _sites(config: LinksConfig) -> pa.Table:
    starts = [(str(urls.canonical(s.url)), s.depth, s.max_pages) for s in config.sources if s.kind == "site"]
    return table([(url, urls.authority(url), depth, pages) for url, depth, pages in starts], SITES)


def _seeds(config: LinksConfig, path: Path, count: int) -> int:
    """The start pages as a file of piles; how many."""
    starts = [(place, str(urls.canonical(s.url))) for place, s in enumerate(config.sources) if s.kind == "site"]
    rows = table([(url, urls.authority(url), None, f"site:{url}", place, None) for place, url in starts], FOUND)
    with piles.Writer(path, FOUND) as writer:
        writer.add(rows, np.array([pile_of(host, count) for host in rows["host"].to_pylist()], np.int32))
    return len(starts)


LINKS: Stage[LinksConfig] = Stage(name="links", version=3, work=work)
