"""Links become pages: fetched politely, kept as WARC records, each URL ending as one row with its outcome."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from data_prep import shards
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.networks import endpoint
from data_prep.schemas import PAGES
from infra.artifact import Counts
from infra.compute import Compute
from infra.stage import Inputs, Stage

__all__ = ["CRAWL", "CrawlConfig"]

Item = tuple[str, str]  # a shard of links, and its sites ("" when there are none)


def work(config: CrawlConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """One shard of links is one task; addresses say where hosts are reached and leave no trace in the output."""
    addresses = dict(compute.addresses)
    for where in addresses.values():
        endpoint(where)
    links = inputs["links"].shards
    sites = {path.name: str(path) for path in inputs["links"].side("sites")}
    todo = [(str(path), sites.get(path.name, "")) for path in links if not (out / path.name).exists()]
    compute.map("crawl", partial(crawl_shard, config, addresses, out), todo)
    return shards.balance("crawl", shards.total(shards.counts(out / path.name) for path in links))


def crawl_shard(config: CrawlConfig, addresses: dict[str, str], out: Path, item: Item) -> None:
    """Crawl one shard and write its table last."""
    from data_prep.corpus.crawling.shard import Link, Site, Task, count, crawl  # aiohttp: the command starts without it

    path = Path(item[0])
    links = [Link(**row) for row in shards.read(path).to_pylist()]
    sites = [Site(**row) for row in shards.read(Path(item[1])).to_pylist()] if item[1] else []
    rows = crawl(config, addresses, out, Task(path.stem, links, sites))
    counted = shards.balance(f"crawl {path.name}", count(rows, len(links)))
    shards.write(pa.Table.from_pylist(rows, schema=PAGES), out / path.name, counted)


CRAWL: Stage[CrawlConfig] = Stage(name="crawl", version=1, work=work)
