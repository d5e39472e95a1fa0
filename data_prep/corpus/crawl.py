"""Links become pages: fetched politely, kept as WARC records, each URL ending as one row with its outcome."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from data_prep import shards
from data_prep.corpus.crawling import listed, validators
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.networks import endpoint
from data_prep.schemas import PAGES
from infra import finished
from infra.artifact import Counts
from infra.compute import Compute
from infra.stage import Inputs, Stage

__all__ = ["CRAWL", "CrawlConfig"]

LISTED, PARTS = ".journal/listed", ".validators"  # scratch: dotted names are not committed
Item = tuple[str, str]  # a shard of links, and its sites ("" when there are none)


def work(config: CrawlConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """One shard of links is one task; addresses say where hosts are reached and leave no trace in the output.

    inputs: links, and perhaps earlier, a crawl whose pages (and those of all crawls before it) are asked for only if they changed.
    """
    addresses = dict(compute.addresses)
    for where in addresses.values():
        endpoint(where)
    links, earlier = inputs["links"].shards, inputs.get("earlier")
    sites = {path.name: str(path) for path in inputs["links"].side("sites")}
    known = [str(path) for path in earlier.side(validators.SIDE)] if earlier else []
    todo = [(str(path), sites.get(path.name, "")) for path in links if not (out / path.name).exists()]
    if todo and not finished.is_recorded(out / LISTED):
        listed.build(links, out / LISTED)
    compute.map("crawl", partial(crawl_shard, config, addresses, out, known), todo)
    validators.gather([out / PARTS / path.name for path in links], known, earlier.fingerprint if earlier else "", out, compute)
    return shards.balance("crawl", shards.total(shards.counts(out / path.name) for path in links))


def crawl_shard(config: CrawlConfig, addresses: dict[str, str], out: Path, known: list[str], item: Item) -> None:
    """Crawl one shard and write its table last."""
    from data_prep.corpus.crawling.shard import Link, Site, Task, count, crawl  # aiohttp: the command starts without it

    path = Path(item[0])
    links = [Link(**row) for row in shards.read(path).to_pylist()]
    sites = [Site(**row) for row in shards.read(Path(item[1])).to_pylist()] if item[1] else []
    made = crawl(config, addresses, out, Task(path.stem, links, sites, out / LISTED, known))
    counted = shards.balance(f"crawl {path.name}", count(made.rows, len(links)))
    needs = [out / PARTS / path.name, out / "warc" / f"{path.stem}.warc.gz"]
    shards.write(made.pages, needs[0])
    shards.write(pa.Table.from_pylist(made.rows, schema=PAGES), out / path.name, counted, needs=needs)


CRAWL: Stage[CrawlConfig] = Stage(name="crawl", version=3, work=work, own=(".journal", "warc"))
