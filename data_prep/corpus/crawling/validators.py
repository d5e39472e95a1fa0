"""What a later crawl must know of the pages that were ever fetched: by which marks to ask whether they changed, and where they stand.

A side table of every crawl, `validators/`, sorted by the URL's hash and cut into ranges of it: each crawl's is the one before
with its own pages laid over, so it is whole by itself. Look-ups are binary searches in mapped files: memory does not grow with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep import shards
from data_prep.corpus.crawling.listed import hashed
from infra.compute import Compute

VALIDATORS = pa.schema(
    [
        ("hash", pa.uint64()),  # of the URL
        ("url", pa.string()),  # that gave the answer: the last one, where redirects led to it
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("fetched_at", pa.string()),
        ("digest", pa.string()),  # of the body, as in its WARC record
        ("crawl", pa.string()),  # the fingerprint of the crawl that holds the body; "" for the one that the table belongs to
        ("warc_file", pa.string()),
        ("warc_offset", pa.int64()),
        ("links", pa.list_(pa.string())),  # where the page leads, if it was read to follow its links; else null
    ]
)
SIDE = "validators"
ROWS = 1 << 20  # of a file, more or less
ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110, section 8.8.3
LONGEST = 1_024  # characters of a mark that is worth keeping


@dataclass(frozen=True)
class Known:
    """A page as an earlier crawl had it."""

    url: str
    etag: str
    last_modified: str
    fetched_at: str
    digest: str
    links: list[str] | None = None

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that ask for the page only if it changed (RFC 9110, section 13.1); empty when it gave no mark to ask by."""
        asked = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in asked.items() if value}


def etag(value: str) -> str:
    """An ETag as it may be sent back, or ""."""
    value = value.strip()
    return value if len(value) <= LONGEST and ETAG.fullmatch(value) else ""


def last_modified(value: str) -> str:
    """A date as it may be sent back, or ""."""
    value = value.strip()
    if not value or len(value) > LONGEST or not (value.isascii() and value.isprintable()):
        return ""
    try:
        parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return ""
    return value


class Memory:
    """The pages of an earlier crawl and all before it, by URL."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.tables = [shards.read(Path(path)) for path in paths]
        self.hashes = [[np.asarray(chunk) for chunk in table["hash"].chunks] for table in self.tables]

    def recall(self, url: str) -> Known | None:
        """The page, if it was ever fetched."""
        if not self.tables:
            return None
        wanted = hashed(url)
        table = wanted * len(self.tables) >> 64
        first = 0
        for chunk in self.hashes[table]:
            if len(chunk) and chunk[0] <= wanted <= chunk[-1]:
                begin, end = (int(np.searchsorted(chunk, np.uint64(wanted), side)) for side in ("left", "right"))
                for row in self.tables[table].slice(first + begin, end - begin).to_pylist():
                    if row["url"] == url:
                        return Known(**{name: row[name] for name in Known.__dataclass_fields__})
            first += len(chunk)
        return None


def of_shard(rows: Iterable[dict[str, Any]], digests: dict[str, str], links: dict[str, list[str]]) -> pa.Table:
    """The pages of one shard, from its rows of PAGES; digests and links are by the URL that was listed."""
    found = [
        {
            "hash": hashed(row["final_url"]),
            "crawl": "",
            "url": row["final_url"],
            "digest": digests.get(row["url"], ""),
            "links": links.get(row["url"]),
            **{name: row[name] for name in ("etag", "last_modified", "fetched_at", "warc_file", "warc_offset")},
        }
        for row in rows
        if row["outcome"] == "ok"
    ]
    order = [(name, "ascending") for name in ("hash", "url", "warc_offset")]
    return pa.Table.from_pylist(found, schema=VALIDATORS).sort_by(order)


def gather(parts: Sequence[Path], earlier: Sequence[str], crawl: str, out: Path, compute: Compute) -> None:
    """Lay the pages of this crawl's shards over those of the earlier one (crawl: its fingerprint), one range of hashes after another."""
    total = sum(_rows(path) for path in (*parts, *map(Path, earlier)))
    number = 1 << max(0, (total // ROWS).bit_length())
    todo = [n for n in range(number) if not (out / SIDE / shards.name(n)).exists()]
    compute.map("validators", partial(_merge, [str(path) for path in parts], list(earlier), crawl, out, number), todo)


def _merge(parts: list[str], earlier: list[str], crawl: str, out: Path, number: int, n: int) -> None:
    low, high = (n << 64) // number, ((n + 1) << 64) // number
    old = [_marked(table, crawl) for table in (_range(Path(path), low, high) for path in earlier)]
    new = [_range(Path(path), low, high) for path in parts]
    generation = np.repeat([0, 1], [sum(t.num_rows for t in old), sum(t.num_rows for t in new)])
    both = pa.concat_tables([VALIDATORS.empty_table(), *old, *new]).append_column("generation", pa.array(generation, pa.int8()))
    order = [(name, "ascending") for name in ("hash", "url", "generation", "fetched_at", "warc_file", "warc_offset")]
    both = both.sort_by(order)
    last = np.ones(both.num_rows, dtype=bool)
    if both.num_rows > 1:
        hashes, urls = np.asarray(both["hash"]), both["url"].to_pylist()
        last[:-1] = (hashes[1:] != hashes[:-1]) | np.fromiter((a != b for a, b in pairwise(urls)), bool)
    shards.write(both.filter(pa.array(last)).select(VALIDATORS.names), out / SIDE / shards.name(n))


def _range(path: Path, low: int, high: int) -> pa.Table:
    table = shards.read(path)
    hashes = np.asarray(table["hash"])
    begin = int(np.searchsorted(hashes, np.uint64(low)))
    end = len(hashes) if high >= 1 << 64 else int(np.searchsorted(hashes, np.uint64(high)))
    return table.slice(begin, end - begin).cast(VALIDATORS)


def _marked(table: pa.Table, crawl: str) -> pa.Table:
    names = [name or crawl for name in table["crawl"].to_pylist()]
    return table.set_column(table.schema.get_field_index("crawl"), "crawl", pa.array(names, pa.string()))


def _rows(path: Path) -> int:
    return int(shards.read(path).num_rows)
