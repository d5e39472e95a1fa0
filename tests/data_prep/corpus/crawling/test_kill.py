"""A crawl that is killed, at any moment, goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_prep.corpus.links import LinkSource
from infra.store import Store

PAGES = 60  # of the followed site: page n links to 2n+1 and 2n+2
LISTED = [f"http://{host}.test/{n}" for host in ("b", "c") for n in range(25)]
ROOT = Path(__file__).parents[4]
CRAWL_ONCE = """
import json, sys
from pathlib import Path
from data_prep.corpus.crawl import CRAWL, CrawlConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
root, links, port, quick = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
quick["allow_networks"] = tuple(quick["allow_networks"])
store = Store(root)
run(CRAWL, CrawlConfig(**quick), {"links": store.get("links", links)}, store, LocalCompute(addresses={"*.test": f"127.0.0.1:{port}"}))
"""


def host_it(web, reply) -> None:
    def page(host: str, path: str):
        if path == "/robots.txt":
            return reply(b"User-agent: *\nDisallow: /7", kind="text/plain")
        number = int(path.strip("/") or 0)
        if number % 11 == 5:
            return reply(b"gone", 404)
        if host != "a.test":
            return reply(f"<p>{host} {number}".encode() * 300, wait=0.01)
        children = [n for n in (2 * number + 1, 2 * number + 2) if n < PAGES]
        return reply("".join(f"<a href=/{n}>{n}</a>" for n in children).encode(), wait=0.01)

    web.fallback = page


def settled(scratch: Path) -> set[str]:
    """The URLs that the journal holds as finished: its whole lines."""
    found = set()
    for journal in scratch.glob("*/.*/.journal/*.jsonl"):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            found.add(json.loads(line.rpartition(b"\t")[0])["row"]["url"])  # a tab and the line's hash follow
    return found


def asked_since(web, number: int) -> set[str]:
    return {f"http://{hit.host}{hit.path}" for hit in web.hits[number:]}


def without_times(rows) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in ("fetched_at", "warc_offset")} for row in rows.values()]


def test_a_killed_crawl_fetches_no_finished_page_again_and_ends_as_an_undisturbed_one(web, reply, crawler, tmp_path) -> None:
    host_it(web, reply)
    links = crawler.links(*LISTED, sites=(LinkSource("site", url="http://a.test/0", depth=9),))
    undisturbed = crawler.rows(crawler.crawl(links, per_host_delay_s=0.005, dead_after=9))
    total = len(web.hits)
    config = {
        "contact": "crawl@example.org",
        "per_host_delay_s": 0.005,
        "backoff_s": 0.01,
        "allow_networks": ["127.0.0.0/8"],
        "connect_timeout_s": 2.0,
    }
    (other := tmp_path / "killed").mkdir()
    (other / "links").symlink_to(links.path.parent)
    command = [sys.executable, "-c", CRAWL_ONCE, str(other), links.fingerprint, str(web.port), json.dumps(config)]
    web.hits.clear()
    finished: set[str] = set()
    for share in (0.15, 0.4, 0.75):
        before = len(web.hits)
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while len(settled(other)) < share * total and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not finished & asked_since(web, before)
        finished = settled(other)
        assert share * total <= len(finished) < total
        if share == 0.4:  # what a kill in the middle of a write leaves behind
            with (
                next(other.glob("crawl/.*/.journal/*.jsonl")).open("ab") as journal,
                next(other.glob("crawl/.*/warc/*.part")).open("ab") as warc,
            ):
                journal.write(b'{"row": {"url": "http://b.te')
                warc.write(b"\x1f\x8b\x08half a record")
    before = len(web.hits)
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert not finished & asked_since(web, before)
    pages = next(artifact for artifact in Store(other).all() if artifact.stage == "crawl")
    rows = crawler.rows(pages)
    assert without_times(rows) == without_times(undisturbed)
    with open(pages.file("warc/00000.warc.gz"), "rb") as file:
        offsets = {}
        for record in ArchiveIterator(file, parse_http=True, record_types=WarcRecordType.response):
            offsets[record.headers["WARC-Target-URI"]] = record.stream_pos
    assert offsets == {url: row["warc_offset"] for url, row in rows.items() if row["outcome"] == "ok"}
