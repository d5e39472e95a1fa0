"""One shard of links crawled: each host its own queue, all hosts side by side, every URL ending as one row."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.corpus import opt_outs, urls
from data_prep.corpus.crawling import validators, warcfile
from data_prep.corpus.crawling.address import AddressBook
from data_prep.corpus.crawling.clock import Clock
from data_prep.corpus.crawling.config import CrawlConfig
from data_prep.corpus.crawling.fetch import Answer, Fetcher, Refused, new_session, origin_of
from data_prep.corpus.crawling.follow import links_on
from data_prep.corpus.crawling.journal import Journal, Settled
from data_prep.corpus.crawling.listed import Listed
from data_prep.corpus.crawling.turns import Tickets, Turns
from data_prep.corpus.crawling.validators import Known, Memory
from data_prep.corpus.trackers import KNOWN
from infra.artifact import Counts
from infra.log import event

TELL_EVERY_S = 2.0
SMALL = 1 << 18  # bytes of a page that is packed where it arrived: handing it to a thread would cost as much
SLACK_S = 60.0  # beyond the longest wait that the config allows; a host's turn further away is a clock that jumped


@dataclass(frozen=True)
class Link:
    """A row of LINKS, or a page that was found by following."""

    url: str
    host: str
    karma: int | None
    source: str
    followed: bool = False


@dataclass(frozen=True)
class Site:
    """A start page whose links are followed on its host: depth clicks far, max_pages in all."""

    url: str
    host: str
    depth: int
    max_pages: int


@dataclass(frozen=True)
class Task:
    """A shard to crawl; name is "00000". listed: the index of all shards' links; earlier: files of an earlier crawl's validators."""

    name: str
    links: list[Link]
    sites: list[Site]
    listed: Path
    earlier: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Crawled:
    """rows: of PAGES, those of the links in their order, then those that were found, by URL. pages: for validators.gather()."""

    rows: list[dict[str, Any]]
    pages: pa.Table


def crawl(config: CrawlConfig, addresses: Mapping[str, str], out: Path, task: Task) -> Crawled:
    """Every URL of the task settled. Continues after a kill."""
    return asyncio.run(_crawl(config, addresses, out, task))


def count(rows: Iterable[Mapping[str, Any]], links: int) -> Counts:
    """A ledger in which every row is kept or removed by its outcome."""
    counted: Counter[str] = Counter(read=0, kept=0, followed=-links, bytes=0)
    for row in rows:
        counted["read"] += 1
        counted["followed"] += 1
        counted["bytes"] += row["bytes"]
        counted["kept" if row["outcome"] == "ok" else f"removed.{row['outcome']}"] += 1
        if row["outcome"] == "opt_out":
            counted.update(f"opt_out.{name}" for name in opt_outs.named(row["reason"]))
    return dict(counted)


async def _crawl(config: CrawlConfig, addresses: Mapping[str, str], out: Path, task: Task) -> Crawled:
    journal = Journal(out / ".journal" / f"{task.name}.jsonl", out / "warc" / f"{task.name}.warc.gz", _preamble(config))
    longest = max(config.max_wait_s * 2, config.max_crawl_delay_s, config.per_host_delay_s) + SLACK_S
    async with AsyncExitStack() as stack:
        stack.callback(journal.close)
        clock = Clock(out / ".journal" / "clock", longest)
        stack.callback(clock.close)
        book = AddressBook(config.allow_networks, addresses, config.connect_timeout_s)
        stack.push_async_callback(book.close)
        tickets = Tickets(out / ".journal" / "tickets", config.global_concurrency) if config.global_concurrency else None
        if tickets:
            stack.callback(tickets.close)
        session = await stack.enter_async_context(new_session(config, book))
        fetcher = Fetcher(config, session, book, Turns(clock, config.concurrency, tickets))
        try:
            await _Shard(config, fetcher, journal, task).run()
        except BaseExceptionGroup as group:
            raise _first(group) from group
    journal.finish()
    listed = [link.url for link in task.links]
    found = sorted(journal.settled.keys() - set(listed))
    rows = [journal.settled[url].row for url in (*listed, *found)]
    digests = {url: entry.digest for url, entry in journal.settled.items()}
    links = {url: entry.links for url, entry in journal.settled.items() if entry.read_links}
    return Crawled(rows, validators.of_shard(rows, digests, links))


class _Shard:
    def __init__(self, config: CrawlConfig, fetcher: Fetcher, journal: Journal, task: Task) -> None:
        self.config, self.fetcher, self.journal, self.task = config, fetcher, journal, task
        self.listed = {link.url: link for link in task.links}
        self.trackers = KNOWN.and_own(config.tracking_parameters)
        self.everywhere, self.memory = Listed(task.listed), Memory(task.earlier)
        self.total = len(task.links) + sum(entry.followed for entry in journal.settled.values())
        for entry in journal.settled.values():  # what was known of each host when the last try ended
            origin = origin_of(entry.row["url"])
            fetcher.failures[origin] = entry.failures
            if entry.dead:
                fetcher.dead[origin] = entry.dead

    async def run(self) -> None:
        hosts: dict[str, list[Link]] = {}
        for link in self.task.links:
            hosts.setdefault(link.host, []).append(link)
        async with asyncio.TaskGroup() as helpers:
            ticker = helpers.create_task(self._tell())
            writer = helpers.create_task(self.journal.write())
            async with asyncio.TaskGroup() as queues:
                for host, links in hosts.items():
                    queues.create_task(self._host(links, [site for site in self.task.sites if site.host == host]))
            ticker.cancel()
            await self.journal.queue.put(None)
            await writer
        self._progress()

    async def _host(self, links: list[Link], sites: list[Site]) -> None:
        """A host's queue: one request at a time, in the links' order, then along its sites."""
        starts = {site.url for site in sites}
        for link in links:
            if link.url not in starts:
                await self._settle(link, self._is_other_link(link), keep_links=bool(sites))
        for site in sites:
            await self._walk(site)

    async def _walk(self, site: Site) -> None:
        """Breadth first, each level in order of URL, so that what max_pages leaves out does not depend on timing."""
        depth = {site.url: 0}
        level = [site.url]
        while level:
            found: dict[str, int] = {}
            for url in level:
                for target, clicks in await self._visit(site, url, depth[url]):
                    if target not in depth and clicks <= site.depth:
                        found[target] = min(clicks, found.get(target, clicks))
            level = sorted(found)[: max(0, site.max_pages - len(depth))]
            depth.update((url, found[url]) for url in level)

    async def _visit(self, site: Site, url: str, clicks: int) -> list[tuple[str, int]]:
        """Fetch a page of a site; where it leads and how many clicks from the start that is."""
        link = self.listed.get(url) or Link(url, site.host, None, f"site:{site.url}", followed=True)
        if link.followed and url not in self.journal.settled:
            self.total += 1

        def stop_at(target: str) -> bool:
            return _of_site(site, target) != url if urls.authority(target) == site.host else target in self.everywhere

        entry = await self._settle(link, stop_at, keep_links=True)
        if entry.row["outcome"] in ("redirected", "meta_refresh"):
            target = entry.row["final_url"]
            return [(_of_site(site, target), clicks)] if urls.authority(target) == site.host else []
        return [(_of_site(site, target), clicks + 1) for target in entry.links]

    def _is_other_link(self, link: Link) -> Callable[[str], bool]:
        return lambda target: target != link.url and target in self.everywhere

    async def _settle(self, link: Link, stop_at: Callable[[str], bool], *, keep_links: bool) -> Settled:
        """The URL's entry: remembered, or made now and on the disk when this returns."""
        if known := self.journal.settled.get(link.url):
            return known
        entry, records = await self._fetch(link, stop_at, keep_links=keep_links)
        entry.failures, entry.dead = self.fetcher.failures[origin_of(link.url)], self.fetcher.dead.get(origin_of(link.url), "")
        await self.journal.add(entry, records, wait=not entry.dead)  # the thousand links of a dead host share a few flushes
        return entry

    async def _fetch(self, link: Link, stop_at: Callable[[str], bool], *, keep_links: bool) -> tuple[Settled, bytes]:
        if (origin := origin_of(link.url)) in self.fetcher.dead:
            return Settled(_row(link, "dead_host", self.fetcher.dead[origin]), followed=link.followed), b""

        def recall(url: str) -> Known | None:
            known = self.memory.recall(url)
            return known if known and (known.links is not None or not keep_links) else None

        try:
            answer = await self.fetcher.page(link.url, stop_at, recall)
        except Refused as error:
            return Settled(_row(link, error.outcome, error.reason, error.status, error.final_url), followed=link.followed), b""
        if answer.known is not None:
            return self._unchanged(link, answer, answer.known, keep_links=keep_links)
        if not 200 <= answer.status < 300:
            row = _row(link, "http_error", f"status {answer.status}", answer.status, answer.hops[-1])
            return Settled(row, followed=link.followed), b""
        if len(answer.exchange.body) < SMALL:
            return self._page(link, answer, keep_links)
        return await asyncio.to_thread(self._page, link, answer, keep_links)

    def _page(self, link: Link, answer: Answer, keep_links: bool) -> tuple[Settled, bytes]:
        body = answer.exchange.body
        is_html = answer.content_type != "text/plain"
        stated = opt_outs.stated(answer.headers.items(), body, self.config.agent, is_html=is_html)
        obeyed = [name for name in self.config.opt_outs if name in stated]
        home = urls.authority(answer.hops[-1]) == link.host  # where a redirect led away there is nothing to follow
        links = self._links(answer, "nofollow" in obeyed) if keep_links and home else []
        if refusals := [f"{name}: {stated[name]}" for name in obeyed if name != "nofollow"]:
            row = _row(link, "opt_out", ", ".join(refusals), answer.status, answer.hops[-1])
            return Settled(row, links, link.followed), b""
        row = self._stored(link, answer, "ok", "") | {"bytes": len(body)}
        records = warcfile.page(answer.exchange, _notes(link, answer))
        return Settled(row, links, link.followed, digest=answer.exchange.digest, read_links=keep_links), records

    def _links(self, answer: Answer, nofollow: bool) -> list[str]:
        if nofollow:
            return []
        obeys = "nofollow" in self.config.opt_outs
        return links_on(answer.hops[-1], answer.exchange.body, answer.charset, trackers=self.trackers, obey_nofollow=obeys)

    def _unchanged(self, link: Link, answer: Answer, known: Known, *, keep_links: bool) -> tuple[Settled, bytes]:
        row = self._stored(link, answer, "not_modified", f"as fetched {known.fetched_at}")
        row |= {name: row[name] or getattr(known, name) for name in ("etag", "last_modified")}
        records = warcfile.revisit(answer.exchange, _notes(link, answer), known.fetched_at, known.digest)
        home = urls.authority(answer.hops[-1]) == link.host
        return Settled(row, known.links or [] if keep_links and home else [], link.followed), records

    def _stored(self, link: Link, answer: Answer, outcome: str, reason: str) -> dict[str, Any]:
        """The row of an answer that is kept in the WARC file."""
        return _row(link, outcome, reason, answer.status, answer.hops[-1]) | {
            "fetched_at": answer.exchange.date,
            "content_type": answer.content_type,
            "charset": answer.charset,
            "warc_file": f"warc/{self.task.name}.warc.gz",
            "etag": validators.etag(answer.headers.get("ETag", "")),
            "last_modified": validators.last_modified(answer.headers.get("Last-Modified", "")),
        }

    async def _tell(self) -> None:
        while True:
            self._progress()
            await asyncio.sleep(TELL_EVERY_S)

    def _progress(self) -> None:
        event("progress", stage="crawl", done=len(self.journal.settled), total=self.total, unit="pages", shard=self.task.name)


def _row(link: Link, outcome: str, reason: str, status: int | None = None, final_url: str = "") -> dict[str, Any]:
    return {
        "url": link.url,
        "final_url": final_url or link.url,
        "host": link.host,
        "outcome": outcome,
        "status": status,
        "reason": reason,
        "fetched_at": _now(),
        "content_type": "",
        "charset": "",
        "bytes": 0,
        "warc_file": "",
        "warc_offset": 0,
        "karma": link.karma,
        "source": link.source,
        "etag": "",
        "last_modified": "",
    }


def _notes(link: Link, answer: Answer) -> list[warcfile.Header]:
    """The metadata record: why this page was asked for, and by which way it was reached."""
    karma = [("karma", str(link.karma))] if link.karma is not None else []
    return [("seed", link.url), ("source", link.source), *karma, *(("via", hop) for hop in answer.hops[:-1])]


def _of_site(site: Site, url: str) -> str:
    """A site's http and https pages are the same pages: the start page's scheme names them."""
    return site.url.partition(":")[0] + ":" + url.partition(":")[2]


def _preamble(config: CrawlConfig) -> bytes:
    about = [("software", config.agent), ("format", "WARC File Format 1.1"), ("conformsTo", "ISO 28500:2017"), ("robots", "obeyed")]
    return warcfile.info(_now(), [*about, ("http-header-user-agent", config.user_agent)])


def _first(error: BaseException) -> BaseException:
    """What went wrong, out of the wrapping of task groups."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
