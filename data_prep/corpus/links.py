"""Link dumps, lists and start pages in, each URL worth asking for once, dealt to shards by host.

The karma rule is WebText's (Radford et al. 2019, section 2.1: links that received at least 3 karma): with
`karma_rule="post"` a URL qualifies when ONE submission of it got enough, with "sum" when all of a source's submissions
together did. The number kept beside a URL is the best post's, or the sum.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep import shards
from data_prep.corpus import dumps, urls
from data_prep.schemas import LINKS as COLUMNS
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

KINDS = ("submissions", "urls", "site")
RULES = ("post", "sum")
HOST_PATTERN = re.compile(r"[a-z0-9*][a-z0-9.*_-]*")
FOUND = COLUMNS.append(pa.field("origin", pa.int32()))  # origin: the source's place in the config
SET_ASIDE = pa.schema([("line", pa.string()), ("source", pa.string()), ("reason", pa.string())])
SITES = pa.schema([("url", pa.string()), ("host", pa.string()), ("depth", pa.int32()), ("max_pages", pa.int64())])


@dataclass(frozen=True)
class LinkSource:
    """Where links come from. files: for submissions and urls; url, depth, max_pages: for a site that is followed within its host."""

    kind: str
    files: tuple[SourceFile, ...] = ()
    min_karma: int = 3
    karma_rule: str = "post"
    allow_over_18: bool = False
    url: str = ""
    depth: int = 3
    max_pages: int = 1_000

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"links: no source kind {self.kind!r}; there are {', '.join(KINDS)}")
        if self.karma_rule not in RULES:
            raise ConfigError(f"links: no karma_rule {self.karma_rule!r}; there are {', '.join(RULES)}")
        if self.kind != "site" and not self.files:
            raise ConfigError(f"links: a source of kind {self.kind} needs files")
        if self.kind == "site":
            if urls.canonical(self.url) is None:
                raise ConfigError(f"links: a site needs the URL of its start page, not {self.url!r}; write it as http://host/path")
            if self.depth < 0 or self.max_pages < 1:
                raise ConfigError(f"links: site {self.url}: depth {self.depth} must not be negative, max_pages {self.max_pages} at least 1")


@dataclass(frozen=True)
class LinksConfig:
    """exclude_hosts: "host" or "*.suffix", never asked for (OpenWebText left out image and video hosts so)."""

    sources: tuple[LinkSource, ...]
    shards: int = 16
    exclude_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("links: no sources; name at least one of kind " + ", ".join(KINDS))
        if self.shards < 1:
            raise ConfigError(f"links: shards must be at least 1, not {self.shards}")
        for host in self.exclude_hosts:
            if not HOST_PATTERN.fullmatch(host):
                raise ConfigError(f"links: exclude_hosts: {host!r} is no host; write `example.com` or `*.example.com`")


Item = tuple[int, int, str]  # the part's number, its source's place, the file


def work(config: LinksConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Parse each file on its own, then merge, rank and deal."""
    items = [(number, place, file.path) for number, (place, file) in enumerate(_files(config))]
    _check(config, items)
    parts = out / ".parts"
    compute.map("links", partial(read_file, config, parts), [i for i in items if not (parts / shards.name(i[0])).exists()])
    made = [parts / shards.name(number) for number, _, _ in items]
    seeds = _seeds(config)
    found = pa.concat_tables([seeds, *(shards.read(path) for path in made)])
    counted = Counter(shards.total([{"read": seeds.num_rows}, *(shards.counts(path) for path in made)]))
    best = merge(found, config, counted)
    aside = pa.concat_tables([SET_ASIDE.empty_table(), *(shards.read(parts / "set_aside" / path.name) for path in made)])
    shards.write(aside, out / "set_aside" / shards.name(0))
    deal(best, _sites(config), config.shards, out)
    return shards.balance("links", shards.total([counted | {"hosts": pc.count_distinct(best["host"]).as_py()}]))


def read_file(config: LinksConfig, parts: Path, item: Item) -> None:
    """One file to the rows worth merging, with every other line counted."""
    number, place, name = item
    source, path = config.sources[place], Path(name)
    counted: Counter[str] = Counter()
    rows: list[tuple[str, int | None, str]] = []
    aside: list[tuple[str, str, str]] = []
    for line, post in _posts(source, path):
        counted["read"] += 1
        where = f"{path.name}:{line.number}"
        if line.reason:
            counted[f"set_aside.{line.reason}"] += 1
            aside.append((line.shown, where, line.reason))
            continue
        url, rule = judge(line, post, source, config.exclude_hosts)
        if rule:
            counted[f"removed.{rule}"] += 1
        else:
            rows.append((url, post.karma if post else None, where))
    shards.write(_table(aside, SET_ASIDE), parts / "set_aside" / shards.name(number))
    table = _table([(url, urls.authority(url), karma, where, place) for url, karma, where in rows], FOUND)
    shards.write(table, parts / shards.name(number), dict(counted))


def judge(line: dumps.Line, post: dumps.Post | None, source: LinkSource, excluded: tuple[str, ...]) -> tuple[str, str]:
    """The canonical URL and "", or "" and the rule that keeps it out."""
    if post is not None and (rule := unwanted(post, source)):
        return "", rule
    text = post.url if post is not None else line.text.decode("utf-8", "replace").strip()
    if urls.scheme(text) not in urls.PORTS:
        return "", "not_http" if urls.scheme(text) else "bad_url"
    url = urls.canonical(text)
    if url is None:
        return "", "bad_url"
    if urls.is_media(url):
        return "", "media"
    return ("", "host") if is_listed(urls.authority(url), excluded) else (url, "")


def unwanted(post: dumps.Post, source: LinkSource) -> str:
    """The rule a submission breaks, whatever its URL; "" when none."""
    if post.is_self:
        return "self_post"
    if post.over_18 and not source.allow_over_18:
        return "over_18"
    if post.gone:
        return "deleted"
    return "low_karma" if source.karma_rule == "post" and post.karma < source.min_karma else ""


def is_listed(host: str, patterns: tuple[str, ...]) -> bool:
    """True when one of the patterns, "host" or "*.suffix", names the host."""
    return any(host == p or (p.startswith("*.") and (host.endswith(p[1:]) or host == p[2:])) for p in patterns)


def merge(found: pa.Table, config: LinksConfig, counted: Counter[str]) -> pa.Table:
    """Each URL once, with its highest karma and where that stood, ordered by host and URL."""
    for place, source in enumerate(config.sources):
        if source.kind == "submissions" and source.karma_rule == "sum":
            found = _summed(found, place, source.min_karma, counted)
    ranked = found.append_column("row", pa.array(np.arange(found.num_rows)))
    ranked = ranked.sort_by([("host", "ascending"), ("url", "ascending"), ("karma", "descending"), ("row", "ascending")])
    same = np.zeros(ranked.num_rows, dtype=bool)
    if ranked.num_rows > 1:
        same[1:] = pc.equal(ranked["url"][1:], ranked["url"][:-1]).to_numpy()
    best = ranked.filter(pa.array(~same)).select(COLUMNS.names)
    counted["kept"] = best.num_rows
    counted["removed.duplicate"] += int(same.sum())
    return best


def deal(links: pa.Table, sites: pa.Table, count: int, out: Path) -> None:
    """Whole hosts to shards, the largest first, each to the shard with least: as even as hosts allow, and the same every time."""
    weight = Counter(links["host"].to_pylist())
    for site in sites.to_pylist():
        weight[site["host"]] += site["max_pages"]
    loads = [(0, number) for number in range(count)]
    place: dict[str, int] = {}
    for host, size in sorted(weight.items(), key=lambda item: (-item[1], item[0])):
        load, number = heapq.heappop(loads)
        place[host] = number
        heapq.heappush(loads, (load + size, number))
    for number in range(count):
        for table, folder in ((sites, out / "sites"), (links, out)):
            mine = table.filter(pa.array([place[host] == number for host in table["host"].to_pylist()], pa.bool_()))
            shards.write(mine, folder / shards.name(number), {"kept": mine.num_rows})


def _summed(found: pa.Table, place: int, enough: int, counted: Counter[str]) -> pa.Table:
    ours = pc.equal(found["origin"], place)
    mine, others = found.filter(ours), found.filter(pc.invert(ours))
    if not mine.num_rows:
        return found
    codes = np.asarray(pc.dictionary_encode(mine["url"].combine_chunks()).indices)
    sums = np.zeros(codes.max() + 1, dtype=np.int64)
    np.add.at(sums, codes, mine["karma"].to_numpy())
    mine = mine.set_column(2, "karma", pa.array(sums[codes])).filter(pa.array(sums[codes] >= enough))
    counted["removed.low_karma"] += len(codes) - mine.num_rows
    return pa.concat_tables([others, mine])


def _posts(source: LinkSource, path: Path) -> Iterator[tuple[dumps.Line, dumps.Post | None]]:
    if source.kind == "submissions":
        yield from dumps.submissions(path)
        return
    for line in dumps.lines(path):
        if not line.text.lstrip().startswith(b"#"):
            yield line, None


def _files(config: LinksConfig) -> list[tuple[int, SourceFile]]:
    return [(place, file) for place, source in enumerate(config.sources) for file in source.files if source.kind != "site"]


def _check(config: LinksConfig, items: list[Item]) -> None:
    """Everything that can be known to be wrong before any work."""
    for _, place, name in items:
        if not Path(name).is_file():
            raise ConfigError(f"links: no file {name}; check the path in the recipe")
        if config.sources[place].kind == "submissions":
            dumps.check_header(Path(name))


def _sites(config: LinksConfig) -> pa.Table:
    starts = [(str(urls.canonical(s.url)), s.depth, s.max_pages) for s in config.sources if s.kind == "site"]
    return _table([(url, urls.authority(url), depth, pages) for url, depth, pages in starts], SITES)


def _seeds(config: LinksConfig) -> pa.Table:
    starts = [(place, str(urls.canonical(s.url))) for place, s in enumerate(config.sources) if s.kind == "site"]
    return _table([(url, urls.authority(url), None, f"site:{url}", place) for place, url in starts], FOUND)


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema)


LINKS: Stage[LinksConfig] = Stage(name="links", version=1, work=work)
