"""What several workers of one crawl may do to one host, told by the server's own log."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from data_prep.corpus.crawling import listed
from data_prep.corpus.links import LinkSource

ROOT = Path(__file__).parents[4]
ONE_SHARD = """
import json, sys
from pathlib import Path
from data_prep.corpus.crawl import CrawlConfig, crawl_shard
out, shard, port, config = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
config["allow_networks"] = tuple(config["allow_networks"])
crawl_shard(CrawlConfig(**config), {"*": f"127.0.0.1:{port}"}, out, [], (shard, ""))
"""
DELAY_S = 0.03


def worker(out: Path, shard: Path, web, **changes) -> subprocess.Popen:
    config = {"contact": "a@b.test", "allow_networks": ["127.0.0.0/8"], "backoff_s": 0.01, "page_timeout_s": 5.0} | changes
    command = [sys.executable, "-c", ONE_SHARD, str(out), str(shard), str(web.port), json.dumps(config)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_two_workers_one_of_them_killed_ask_a_shared_host_one_request_at_a_time(web, reply, crawler, tmp_path) -> None:
    """Links of two shards lead to one host, which answers slowly; no more than three requests run anywhere."""

    def page(host: str, path: str):
        if path == "/robots.txt":
            return reply(b"", 404, wait=0.01)
        if host == "shared.test":
            return reply(b"<p>here", wait=0.02)
        return reply(status=302, headers={"Location": f"http://shared.test/{host[0]}{path[1:]}"}, wait=0.01)

    web.fallback = page
    links = crawler.links(*(f"http://{host}{n}.test/{n}" for host in "ab" for n in range(30)), count=2)
    out = tmp_path / "out"
    listed.build(links.shards, out / ".journal/listed")
    how = {"per_host_delay_s": DELAY_S, "concurrency": 8, "global_concurrency": 3}
    first, second = (worker(out, shard, web, **how) for shard in links.shards)
    while len(web.asked("shared.test")) < 15:
        time.sleep(0.005)
        assert first.poll() is None or second.poll() is None
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    first.wait()
    again = worker(out, links.shards[0], web, **how)
    assert [second.wait(), again.wait()] == [0, 0]
    hits = [hit for hit in web.hits if not hit.began <= killed + 0.01 <= hit.ended + 0.05]  # the server went on with what was killed
    times = sorted((hit.began, hit.ended) for hit in hits if hit.host == "shared.test")
    assert len({hit.path for hit in web.hits if hit.host == "shared.test"}) == 61  # 60 pages and robots.txt
    assert min(later[0] - earlier[1] for earlier, later in itertools.pairwise(times)) >= DELAY_S - 0.002
    edges = sorted([(hit.began, 1) for hit in hits] + [(hit.ended, -1) for hit in hits])
    assert max(itertools.accumulate(step for _, step in edges)) <= 3


def test_a_redirect_to_a_page_of_another_shard_is_left_to_that_shard(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(b"<p>" + host.encode(), 404 if path == "/robots.txt" else 200)
    web.routes["a.test", "/"] = reply(status=301, headers={"Location": "http://b.test/x"})
    web.routes["b.test", "/"] = reply(status=301, headers={"Location": "http://a.test/x"})
    web.routes["b.test", "/stub"] = reply(b"<meta http-equiv=refresh content='0;url=http://a.test/x'>")
    links = crawler.links("http://a.test/", "http://a.test/x", "http://b.test/", "http://b.test/x", "http://b.test/stub", count=2)
    pages = crawler.crawl(links)
    assert len(pages.shards) == 2
    rows = crawler.rows(pages)
    assert {url.removeprefix("http://"): row["outcome"] for url, row in rows.items()} == {
        "a.test/": "redirected",
        "a.test/x": "ok",
        "b.test/": "redirected",
        "b.test/x": "ok",
        "b.test/stub": "meta_refresh",
    }
    assert rows["http://a.test/"]["final_url"] == "http://b.test/x"
    assert web.asked("a.test").count("/x") == web.asked("b.test").count("/x") == 1


def test_a_page_of_a_site_that_leads_to_another_shards_page_leaves_it_too(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(b"<a href=/away>", 404 if path == "/robots.txt" else 200)
    web.routes["a.test", "/away"] = reply(status=301, headers={"Location": "http://b.test/"})
    pages = crawler.crawl(crawler.links("http://b.test/", sites=(LinkSource("site", url="http://a.test/", depth=2),), count=2))
    rows = crawler.rows(pages)
    assert rows["http://a.test/away"]["outcome"] == "redirected" and web.asked("b.test") == ["/"]


def test_the_index_knows_what_is_listed_and_nothing_else(crawler, tmp_path) -> None:
    links = crawler.links(*(f"http://h{n}.test/{n}" for n in range(500)), count=7)
    listed.build(links.shards, tmp_path / "index")
    index = listed.Listed(tmp_path / "index")
    assert all(f"http://h{n}.test/{n}" in index for n in range(500)) and not any(f"http://h{n}.test/" in index for n in range(500))
    listed.build([], tmp_path / "nothing")
    assert "http://h1.test/1" not in listed.Listed(tmp_path / "nothing")
