"""One file of links to the rows worth merging, in a stream, with every other line counted.

Rows lie in piles by registered domain, so that all there is of a URL, a host or a domain meets in one pile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from data_prep.corpus import dumps, feeds, hosts, piles, urls
from data_prep.corpus.link_config import FOUND, SET_ASIDE, Item, LinksConfig, LinkSource
from data_prep.corpus.trackers import KNOWN

HELD = 1 << 14  # rows held as Python objects; some 8 MB
Judge = Callable[[dumps.Line, dumps.Post | feeds.Entry | None], tuple[str, str, str]]


def read_file(config: LinksConfig, parts: Path, count: int, item: Item) -> None:
    """Parse and judge one file into a file of `count` piles; what cannot be read goes beside it, with its reason."""
    number, place, name = item
    source, path = config.sources[place], Path(name)
    judged = judge(source, config)
    counted: Counter[str] = Counter()
    with (
        piles.Writer(parts / part(number), FOUND, needs=[parts / "set_aside" / part(number)]) as found,  # closed last
        piles.Writer(parts / "set_aside" / part(number), SET_ASIDE) as beside,
    ):
        aside, kept = _Rows(beside, 1), _Rows(found, count)
        short = path.name
        for line, post in posts(source, path):
            counted["read"] += 1
            if line.reason:
                counted[f"set_aside.{line.reason}"] += 1
                aside.add((line.shown, f"{short}:{line.number}", line.reason), "")
                continue
            url, host, rule = judged(line, post)
            if rule:
                counted[f"removed.{rule}"] += 1
            else:
                karma, own = (post.karma, post.id or None) if isinstance(post, dumps.Post) else (None, None)
                kept.add((url, host, karma, f"{short}:{line.number}", place, own), host)
        aside.flush()
        kept.flush()
        found.counts = dict(counted)


def part(number: int) -> str:
    """The name of a file's piles."""
    return f"{number:05d}.piles"


class _Rows:
    """Rows on their way to a file of piles, held as Python objects for a short while only."""

    def __init__(self, writer: piles.Writer, count: int) -> None:
        self.writer, self.count = writer, count
        self.rows: list[tuple[object, ...]] = []
        self.piles: list[int] = []

    def add(self, row: tuple[object, ...], host: str) -> None:
        self.rows.append(row)
        self.piles.append(pile_of(host, self.count) if self.count > 1 else 0)
        if len(self.rows) >= HELD:
            self.flush()

    def flush(self) -> None:
        self.writer.add(table(self.rows, self.writer.schema), np.array(self.piles, np.int32))
        self.rows, self.piles = [], []


@lru_cache(maxsize=1 << 16)
def pile_of(authority: str, count: int) -> int:
    """By the domain, so that a domain is in one pile."""
    return xxhash.xxh3_64_intdigest(hosts.domain(urls.host_of(authority)).encode()) % count


def table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema)


def posts(source: LinkSource, path: Path) -> Iterator[tuple[dumps.Line, dumps.Post | feeds.Entry | None]]:
    """Every line or record of a file, with the post or entry that it holds."""
    if source.kind == "submissions":
        yield from dumps.submissions(path)
    elif source.kind == "urls":
        yield from ((line, None) for line in dumps.lines(path) if not line.text.lstrip().startswith(b"#"))
    else:
        yield from feeds.entries(path, source.kind)


def judge(source: LinkSource, config: LinksConfig) -> Judge:
    """A function of a line and its post: the canonical URL, its authority and "", or the rule that keeps it out."""
    endings = tuple(f".{ending.lower().removeprefix('.')}" for ending in config.exclude_extensions)
    trackers = KNOWN.and_own(config.tracking_parameters)
    refused = lru_cache(maxsize=1 << 16)(partial(_refused, *config.host_lists()))

    def judged(line: dumps.Line, post: dumps.Post | feeds.Entry | None) -> tuple[str, str, str]:
        if isinstance(post, dumps.Post) and (rule := unwanted(post, source)):
            return "", "", rule
        if isinstance(post, feeds.Entry) and post.date and post.date < source.since[: len(post.date)]:
            return "", "", "older"
        text = post.url if post is not None else line.text.decode("utf-8", "replace").strip()
        scheme = urls.scheme(text)
        url = urls.canonical(text, trackers=trackers) if scheme in urls.PORTS else None
        if url is None:
            return "", "", "not_http" if scheme and scheme not in urls.PORTS else "bad_url"
        path = urls.path_of(url)
        if urls.MEDIA.search(path):
            return "", "", "media"
        if endings and path.lower().endswith(endings):
            return "", "", "extension"
        host = urls.authority(url)
        return url, host, refused(host)

    return judged


def _refused(allowed: hosts.Hosts | None, excluded: hosts.Hosts, authority: str) -> str:
    host = urls.host_of(authority)
    if host in excluded:
        return "host"
    return "not_allowed" if allowed is not None and host not in allowed else ""


def unwanted(post: dumps.Post, source: LinkSource) -> str:
    """The rule a submission breaks, whatever its URL; "" when none."""
    if post.is_self:
        return "self_post"
    if post.over_18 and not source.allow_over_18:
        return "over_18"
    if post.gone:
        return "deleted"
    return "low_karma" if source.karma_rule == "post" and post.karma < source.min_karma else ""
