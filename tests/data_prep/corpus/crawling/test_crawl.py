from __future__ import annotations

import gzip
import itertools
import time
from pathlib import Path

import brotli
import pytest
import zstandard
from fastwarc.warc import ArchiveIterator, WarcRecordType
from warcio.archiveiterator import ArchiveIterator as OtherIterator
from warcio.checker import Checker

from data_prep import shards
from data_prep.corpus import urls
from data_prep.corpus.crawl import CRAWL, CrawlConfig
from data_prep.schemas import OUTCOMES
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.log import attach
from infra.ray_compute import RayCompute
from infra.stage import run

HOME = b"<html><title>Home</title><p>Hello there.</p></html>"


def test_a_page_is_one_row_and_one_warc_response_where_the_row_says(web, reply, crawler) -> None:
    web.routes["a.test", "/"] = reply(HOME, kind="text/html; charset=UTF-8")
    pages = crawler.crawl(crawler.links("http://a.test/"))
    row = crawler.rows(pages)["http://a.test/"]
    assert (row["outcome"], row["status"], row["content_type"], row["charset"], row["bytes"]) == (
        "ok",
        200,
        "text/html",
        "utf-8",
        len(HOME),
    )
    with open(pages.file(row["warc_file"]), "rb") as file:
        file.seek(row["warc_offset"])
        record = next(iter(ArchiveIterator(file, parse_http=True)))
        assert record.record_type == WarcRecordType.response
        assert record.headers["WARC-Target-URI"] == "http://a.test/"
        assert record.reader.read() == HOME


def test_the_warc_file_is_read_alike_by_two_other_readers_and_its_digests_hold(web, reply, crawler, capsys) -> None:
    packed = gzip.compress(HOME * 50)
    web.routes["a.test", "/"] = reply(HOME)
    web.routes["a.test", "/packed"] = reply(packed, headers={"Content-Encoding": "gzip"})
    pages = crawler.crawl(crawler.links("http://a.test/", "http://a.test/packed"))
    path = pages.file("warc/00000.warc.gz")
    with open(path, "rb") as file:
        ours = [(r.headers["WARC-Type"], r.headers.get("WARC-Target-URI"), r.reader.read()) for r in ArchiveIterator(file, parse_http=True)]
    with open(path, "rb") as file:
        theirs = [(r.rec_type, r.rec_headers.get_header("WARC-Target-URI"), r.content_stream().read()) for r in OtherIterator(file)]
    assert ours == theirs
    assert [kind for kind, _, _ in ours] == ["warcinfo"] + ["response", "request", "metadata"] * 2
    assert {url: body for kind, url, body in ours if kind == "response"} == {"http://a.test/": HOME, "http://a.test/packed": HOME * 50}
    checker = Checker(type("Command", (), {"verbose": False, "inputs": [str(path)]})())
    checker.process_all()
    assert checker.exit_value == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("br", brotli.compress), ("zstd", zstandard.ZstdCompressor().compress), ("gzip", gzip.compress), ("x-gzip", gzip.compress)],
)
def test_packed_pages_are_unpacked(web, reply, crawler, coding, pack) -> None:
    web.routes["a.test", "/"] = reply(pack(HOME), headers={"Content-Encoding": coding})
    assert crawler("http://a.test/")["http://a.test/"]["bytes"] == len(HOME)


def test_everything_that_goes_wrong_is_a_row_with_its_outcome(web, reply, crawler) -> None:
    bomb = gzip.compress(b"\0" * 60_000_000)
    megabyte = b"x" * (1 << 20)

    def endless(file) -> None:
        while True:
            file.write(megabyte)

    def dripping(file) -> None:
        while True:
            file.write(b"<p>")
            file.flush()
            time.sleep(0.05)

    fifty = reply(stream=lambda file: [file.write(megabyte) for _ in range(50)])
    web.routes |= {
        ("a.test", "/missing"): reply(b"gone", 404),
        ("a.test", "/broken"): reply(b"", 500),
        ("a.test", "/slow"): reply(HOME, wait=2.0),
        ("a.test", "/drip"): reply(stream=dripping),
        ("a.test", "/endless"): reply(stream=endless),
        ("a.test", "/fifty-megabytes"): fifty,
        ("a.test", "/announced"): reply(stream=lambda file: None, headers={"Content-Length": "50000000"}),
        ("a.test", "/bomb"): reply(bomb, headers={"Content-Encoding": "gzip"}),
        ("a.test", "/brotli-bomb"): reply(brotli.compress(b"\0" * 60_000_000, quality=1), headers={"Content-Encoding": "br"}),
        ("a.test", "/zstd-bomb"): reply(zstandard.ZstdCompressor().compress(b"\0" * 60_000_000), headers={"Content-Encoding": "zstd"}),
        ("a.test", "/no-gzip"): reply(HOME, headers={"Content-Encoding": "gzip"}),
        ("a.test", "/unknown"): reply(HOME, headers={"Content-Encoding": "compress"}),
        ("a.test", "/picture"): reply(b"\x89PNG", kind="image/png"),
        ("a.test", "/untyped"): reply(HOME, kind=None),
        ("a.test", "/untyped-binary"): reply(b"\0\1\2", kind=None),
        ("a.test", "/empty"): reply(b""),
        ("a.test", "/charset"): reply("안녕".encode("euc-kr"), kind="text/html; charset=utf-8"),
        ("a.test", "/circle"): reply(status=302, headers={"Location": "/circle2"}),
        ("a.test", "/circle2"): reply(status=302, headers={"Location": "/circle"}),
        ("a.test", "/file"): reply(status=302, headers={"Location": "file:///etc/passwd"}),
        ("a.test", "/moved"): reply(status=301, headers={"Location": "/there?utm_source=x"}),
        ("a.test", "/there?utm_source=x"): reply(HOME),
        ("a.test", "/to-listed"): reply(status=301, headers={"Location": "http://A.test:80/untyped#part"}),
        ("a.test", "/nowhere"): reply(status=301),
        ("a.test", "/long-way"): reply(status=302, headers={"Location": "/hop/0"}),
        **{("a.test", f"/hop/{n}"): reply(status=302, headers={"Location": f"/hop/{n + 1}"}) for n in range(20)},
    }
    expected = {
        "/missing": "http_error",
        "/broken": "http_error",
        "/slow": "timeout",
        "/drip": "timeout",
        "/endless": "too_large",
        "/fifty-megabytes": "too_large",
        "/announced": "too_large",
        "/bomb": "bomb",
        "/brotli-bomb": "bomb",
        "/zstd-bomb": "bomb",
        "/no-gzip": "http_error",
        "/unknown": "ok",
        "/picture": "not_text",
        "/untyped": "ok",
        "/untyped-binary": "not_text",
        "/empty": "ok",
        "/charset": "ok",
        "/circle": "redirect_loop",
        "/file": "bad_url",
        "/moved": "ok",
        "/to-listed": "redirected",
        "/nowhere": "http_error",
        "/long-way": "redirect_loop",
    }
    rows = crawler(*(f"http://a.test{path}" for path in expected), page_timeout_s=0.6, max_bytes=4 << 20)
    assert {url.removeprefix("http://a.test"): row["outcome"] for url, row in rows.items()} == expected
    assert set(expected.values()) <= set(OUTCOMES)
    assert rows["http://a.test/moved"]["final_url"] == "http://a.test/there?utm_source=x"
    assert rows["http://a.test/to-listed"]["final_url"] == "http://a.test/untyped"
    assert rows["http://a.test/missing"]["status"] == 404
    assert all(row["reason"] for row in rows.values() if row["outcome"] != "ok")


def test_503_with_retry_after_is_asked_again_after_that_time_and_404_never(web, reply, crawler) -> None:
    web.routes["a.test", "/busy"] = lambda before: reply(HOME) if before else reply(b"", 503, headers={"Retry-After": "1"})
    rows = crawler("http://a.test/busy", "http://a.test/none")
    first, second = (hit.began for hit in web.hits if hit.path == "/busy")
    assert rows["http://a.test/busy"]["outcome"] == "ok" and second - first >= 1.0
    assert web.asked("a.test").count("/none") == 1


def test_a_retry_after_beyond_the_patience_ends_the_page(web, reply, crawler) -> None:
    web.routes["a.test", "/busy"] = reply(b"", 429, headers={"Retry-After": "86400"})
    assert crawler("http://a.test/busy")["http://a.test/busy"]["reason"] == "status 429"
    assert web.asked("a.test") == ["/busy"]


def test_a_dead_host_is_given_up_and_holds_up_nobody(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME, 404 if path == "/robots.txt" else 200)
    dead = [f"http://dead.test/{n}" for n in range(50)]
    alive = [f"http://alive.test/{n}" for n in range(20)]
    began = time.monotonic()
    rows = crawler(*dead, *alive, addresses={"dead.test": "127.0.0.1:1", "*": web.where}, retries=2, dead_after=3)
    assert time.monotonic() - began < 5
    assert {rows[url]["outcome"] for url in dead} == {"dead_host"}
    assert {rows[url]["outcome"] for url in alive} == {"ok"}


def test_a_host_that_dies_midway_is_given_up_after_so_many_failures(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(b"", 404) if path == "/robots.txt" else reply(hang_up=True)
    rows = crawler(*(f"http://a.test/{n}" for n in range(30)), retries=1, dead_after=4)
    assert {row["outcome"] for row in rows.values()} == {"dead_host"}
    assert len(web.asked("a.test")) == 4


def test_a_body_that_is_cut_short_is_asked_for_again_and_says_nothing_against_its_host(web, reply, crawler) -> None:
    def ended(file) -> None:
        file.write(b"<p>half")

    def chunks(file) -> None:
        file.write(b"5\r\n<p>ha\r\n9\r\nlf")

    cut = {
        "/length": reply(stream=ended, headers={"Content-Length": "9999"}),
        "/chunks": reply(stream=chunks, headers={"Transfer-Encoding": "chunked"}),
        "/nothing": reply(stream=lambda file: None, headers={"Content-Length": "9"}),
        "/gzip": reply(stream=lambda file: file.write(gzip.compress(HOME * 99)[:-20]), headers={"Content-Encoding": "gzip"}),
        "/brotli": reply(stream=lambda file: file.write(brotli.compress(HOME * 99)[:-9]), headers={"Content-Encoding": "br"}),
    }
    web.routes |= {("a.test", path): one for path, one in cut.items()}
    web.routes["a.test", "/second"] = lambda before: reply(HOME) if before else cut["/length"]
    rows = crawler(*(f"http://a.test{path}" for path in (*cut, "/second")), retries=1, dead_after=2)
    assert {url.removeprefix("http://a.test"): row["outcome"] for url, row in rows.items()} == dict.fromkeys(cut, "truncated") | {
        "/second": "ok"
    }
    assert all(web.asked("a.test").count(path) == 2 for path in (*cut, "/second"))


def test_a_robots_file_that_is_cut_short_is_no_permission(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME)
    web.routes["a.test", "/robots.txt"] = reply(stream=lambda file: file.write(b"User-a"), headers={"Content-Length": "99"})
    assert crawler("http://a.test/")["http://a.test/"]["outcome"] == "robots" and not web.asked("a.test")


def test_a_host_that_speaks_no_tls_is_not_dead_for_those_who_ask_without(web, reply, crawler) -> None:
    """Twenty pages that send their readers to https, where nobody answers; the twenty after them are fetched all the same."""
    web.fallback = lambda host, path: reply(HOME, 404 if path == "/robots.txt" else 200)
    web.routes |= {("a.test", f"/{n}"): reply(status=301, headers={"Location": f"https://a.test/{n}/"}) for n in range(10, 30)}
    rows = crawler(*(f"http://a.test/{n}" for n in range(10, 50)), dead_after=2, retries=0)
    assert {url[-2:]: row["outcome"] for url, row in rows.items()} == {str(n): "ok" if n >= 30 else "dead_host" for n in range(10, 50)}


def test_a_name_without_address_is_a_dead_host(crawler) -> None:
    row = crawler("http://no-such-host.invalid/", addresses={})["http://no-such-host.invalid/"]
    assert row["outcome"] == "dead_host" and "no address" in row["reason"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "0.0.0.0"])
def test_nothing_leads_into_the_private_network(web, outside, reply, crawler, host) -> None:
    target = f"http://{host}:{web.port}/secret"
    outside.routes["a.test", "/"] = reply(status=302, headers={"Location": target})
    outside.routes["b.test", "/robots.txt"] = reply(status=302, headers={"Location": target})
    rows = crawler("http://a.test/", "http://b.test/", f"{target}/1", addresses={"*.test": outside.where}, allow_networks=("127.0.0.2/32",))
    assert [row["outcome"] for row in rows.values() if row["host"] != "b.test"] == ["private_address"] * 2
    assert rows["http://b.test/"]["outcome"] == "robots"
    assert rows["http://a.test/"]["final_url"] == urls.canonical(target)
    assert not web.hits


def test_a_name_that_leads_to_a_private_address_is_refused_and_one_for_which_it_is_allowed_is_not(web, reply, crawler) -> None:
    web.routes["localhost", "/"] = reply(HOME)
    url = f"http://localhost:{web.port}/"
    assert crawler(url, addresses={}, allow_networks=())[url]["outcome"] == "private_address"
    assert crawler(url, addresses={}, allow_networks=("127.0.0.0/8",))[url]["outcome"] == "ok"


def test_the_server_sees_the_delay_between_all_requests_of_a_host(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME, 404 if path == "/robots.txt" else 200)
    pages = [f"http://{host}.test/{n}" for host in "ab" for n in range(5)]
    crawler(*pages, per_host_delay_s=0.1)
    for host in ("a.test", "b.test"):
        times = [hit.began for hit in web.hits if hit.host == host]
        assert len(times) == 6 and min(b - a for a, b in itertools.pairwise(times)) >= 0.1
    # while one host waits the other is asked: together they take no longer than one alone
    assert max(h.began for h in web.hits) - min(h.began for h in web.hits) < 1.0


def test_crawl_delay_is_obeyed_and_too_long_a_one_leaves_the_host_alone(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME)
    web.routes["slow.test", "/robots.txt"] = reply(b"User-agent: *\nCrawl-delay: 0.2\n", kind="text/plain")
    web.routes["never.test", "/robots.txt"] = reply(b"User-agent: *\nCrawl-delay: 9999\n", kind="text/plain")
    rows = crawler("http://slow.test/1", "http://slow.test/2", "http://slow.test/3", "http://never.test/1")
    times = [hit.began for hit in web.hits if hit.host == "slow.test"]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.2
    assert rows["http://never.test/1"]["outcome"] == "robots" and not web.asked("never.test")


@pytest.mark.parametrize(
    ("status", "body", "allowed"),
    [
        (200, b"User-agent: *\nDisallow: /private", {"/open"}),
        (200, b"\xef\xbb\xbfUser-agent: textmill\nDisallow: /private\n\nUser-agent: *\nDisallow: /", {"/open"}),
        (200, b"User-agent: *\nDisallow: /\nAllow: /private", {"/private/page"}),
        (200, b"#" * 600_000 + b"\nUser-agent: *\nDisallow: /", {"/open", "/private/page"}),
        (200, b"\n" * 450_000 + b"User-agent: *\nDisallow: /open", {"/private/page"}),
        (200, b"\xff\xfe\0\0 nonsense", {"/open", "/private/page"}),
        (404, b"", {"/open", "/private/page"}),
        (403, b"", {"/open", "/private/page"}),
        (500, b"", set()),
        (503, b"", set()),
    ],
    ids=["disallow", "bom and own group", "longest match", "beyond 500 KiB", "within 500 KiB", "nonsense", "404", "403", "500", "503"],
)
def test_robots_is_obeyed(web, reply, crawler, status, body, allowed) -> None:
    web.fallback = lambda host, path: reply(HOME)
    web.routes["a.test", "/robots.txt"] = reply(body, status, kind="text/plain")
    rows = crawler("http://a.test/open", "http://a.test/private/page")
    assert set(web.asked("a.test")) == allowed
    assert {url.removeprefix("http://a.test") for url, row in rows.items() if row["outcome"] == "ok"} == allowed
    assert {row["outcome"] for row in rows.values()} <= {"ok", "robots"}


def test_robots_is_followed_through_redirects_and_asked_for_once(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME)
    web.routes["a.test", "/robots.txt"] = reply(status=301, headers={"Location": "http://b.test/rules"})
    web.routes["b.test", "/rules"] = reply(b"User-agent: *\nDisallow: /private", kind="text/plain")
    rows = crawler(*(f"http://a.test/{n}" for n in range(5)), "http://a.test/private")
    assert rows["http://a.test/private"]["outcome"] == "robots"
    assert sum(hit.path == "/robots.txt" for hit in web.hits) == 1


def test_a_redirect_asks_the_new_hosts_robots(web, reply, crawler) -> None:
    web.routes["a.test", "/"] = reply(status=302, headers={"Location": "http://b.test/private"})
    web.routes["b.test", "/robots.txt"] = reply(b"User-agent: *\nDisallow: /private", kind="text/plain")
    row = crawler("http://a.test/")["http://a.test/"]
    assert (row["outcome"], row["final_url"]) == ("robots", "http://b.test/private") and not web.asked("b.test")


def test_the_crawler_says_who_it_is(web, reply, crawler) -> None:
    web.routes["a.test", "/"] = reply(HOME)
    crawler("http://a.test/")
    assert {hit.agent for hit in web.hits} == {"textmill (+crawl@example.org)"}


def test_rows_keep_the_order_of_the_links_and_the_ledger_adds_up(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(
        HOME, 404 if path == "/robots.txt" or path.endswith("3") else 200, wait=int(path[-1]) % 3 / 50 if path[-1].isdigit() else 0
    )
    links = crawler.links(*(f"http://{host}.test/{n}" for host in "abc" for n in range(7)), count=2)
    told = []
    detach = attach(told.append)
    pages = crawler.crawl(links)
    detach()
    for before, after in zip(links.shards, pages.shards, strict=True):
        assert shards.read(after)["url"].to_pylist() == shards.read(before)["url"].to_pylist()
    assert {key: pages.counts[key] for key in ("read", "kept", "removed.http_error", "followed")} == {
        "read": 21,
        "kept": 18,
        "removed.http_error": 3,
        "followed": 0,
    }
    done = [event for event in told if event["kind"] == "progress" and event["unit"] == "pages"]
    assert done[-1]["done"] == done[-1]["total"]
    assert not [name for name in (entry["name"] for entry in pages.files) if name.startswith(".") or name.endswith(".part")]


def test_crawl_reaches_hosts_by_suffix_and_the_mapped_address_is_checked_too(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME)
    rows = crawler("http://x.y.test/", addresses={"*.test": web.where})
    assert rows["http://x.y.test/"]["outcome"] == "ok"
    rows = crawler("http://x.y.test/", addresses={"*.test": web.where}, allow_networks=())
    assert rows["http://x.y.test/"]["outcome"] == "private_address"


@pytest.mark.parametrize(
    "wrong",
    [
        {"contact": ""},
        {"contact": "no\nbreaks"},
        {"agent": "two words"},
        {"per_host_delay_s": -1.0},
        {"retries": -1},
        {"max_bytes": 0},
        {"page_timeout_s": 0.0},
        {"dead_after": 0},
        {"concurrency": 0},
        {"global_concurrency": -1},
        {"robots_max_age_s": 86_401.0},
        {"robots_max_age_s": -1.0},
        {"allow_networks": ("127.0.0.1/8",)},
        {"per_host_delay_s": float("nan")},
    ],
    ids=str,
)
def test_an_impossible_config_is_refused(wrong) -> None:
    with pytest.raises(ConfigError, match="crawl: "):
        CrawlConfig(**({"contact": "me@example.org"} | wrong))


def test_an_address_that_is_none_is_refused_before_any_request(crawler, web) -> None:
    with pytest.raises(ConfigError, match="ip:port"):
        run(
            CRAWL,
            crawler.config(),
            {"links": crawler.links("http://a.test/")},
            crawler.store,
            LocalCompute(addresses={"a.test": "localhost"}),
        )
    assert not web.hits


def test_an_empty_list_of_links_is_an_empty_crawl(crawler, tmp_path: Path) -> None:
    pages = crawler.crawl(crawler.links("# nothing"))
    assert pages.counts["read"] == 0 and len(pages.shards) == 1


@pytest.mark.ray
def test_ray_brings_the_same_rows_home(web, reply, crawler) -> None:
    web.fallback = lambda host, path: reply(HOME + path.encode(), 404 if path in ("/robots.txt", "/3") else 200)
    links = crawler.links(*(f"http://{host}.test/{n}" for host in "abcd" for n in range(5)), count=3)
    here = crawler.rows(crawler.crawl(links))
    told = []
    detach = attach(told.append)
    with RayCompute(cpus=2, addresses={"*": web.where}) as compute:
        there = crawler.rows(run(CRAWL, crawler.config(backoff_s=0.02), {"links": links}, crawler.store, compute))
    detach()
    timeless = [
        [{k: v for k, v in row.items() if k not in ("fetched_at", "warc_offset")} for row in rows.values()] for rows in (here, there)
    ]
    assert timeless[0] == timeless[1]
    assert any(event["kind"] == "progress" and event.get("unit") == "pages" for event in told)
