"""What browsers forgive: heads, cookies, Refresh, encodings of links, and what a page asks of crawlers."""

from __future__ import annotations

import gzip
import random
import zlib
from urllib.parse import unquote_to_bytes

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus import urls
from data_prep.corpus.crawling import cookies, heads, wire
from data_prep.corpus.crawling.follow import links_on
from data_prep.corpus.links import LinkSource
from tests import fuzzed

TEXT = b"<p>The lamp of the lighthouse turns three times a minute, and the keeper counts the turns at night.</p>" * 6


def test_a_page_that_redirects_to_itself_for_a_cookie_is_read(web, reply, crawler) -> None:
    def wall(path: str, to: str):
        def answer(_: int):
            cookie = web.hits[-1].headers.get("cookie", "")
            if "seen=1" in cookie:
                return reply(TEXT)
            return reply(status=302, headers={"Location": to, "Set-Cookie": "seen=1; Path=/; HttpOnly"})

        web.routes["a.test", path] = answer

    wall("/self", "/self")
    wall("/check", "/check?cookie=1")
    web.routes["a.test", "/check?cookie=1"] = reply(status=302, headers={"Location": "/check"})
    web.routes["a.test", "/never"] = reply(status=302, headers={"Location": "/never", "Set-Cookie": "other=1"})
    web.routes["a.test", "/away"] = reply(status=302, headers={"Location": "http://b.test/", "Set-Cookie": "mine=1; Domain=test"})
    web.routes["b.test", "/"] = reply(TEXT)
    rows = crawler(*(f"http://a.test/{name}" for name in ("self", "check", "never", "away", "plain")))
    outcomes = {url.rpartition("/")[2]: row["outcome"] for url, row in rows.items()}
    assert outcomes == {"self": "ok", "check": "ok", "never": "redirect_loop", "away": "ok", "plain": "http_error"}
    with_cookie = [(hit.host, hit.path) for hit in web.hits if "cookie" in hit.headers]
    assert ("b.test", "/") not in with_cookie and ("a.test", "/plain") not in with_cookie  # neither another host nor another chain


def test_a_site_behind_a_cookie_is_followed(web, reply, crawler) -> None:
    """The start page sends its reader to a page that sets the cookie and back."""

    def start(_: int):
        seen = "c=1" in web.hits[-1].headers.get("cookie", "")
        return reply(TEXT + b'<a href="/in">in</a>') if seen else reply(status=302, headers={"Location": "/set", "Set-Cookie": "c=1"})

    web.routes = {("a.test", "/"): start, ("a.test", "/in"): reply(TEXT)}
    web.routes["a.test", "/set"] = reply(status=302, headers={"Location": "/"})
    pages = crawler.crawl(crawler.links(sites=(LinkSource("site", url="http://a.test/", depth=2),)))
    assert {url: row["outcome"] for url, row in crawler.rows(pages).items()} == {"http://a.test/": "ok", "http://a.test/in": "ok"}


def test_the_refresh_header_leads_on_as_the_markup_does(web, reply, crawler) -> None:
    web.routes = {
        ("a.test", "/old"): reply(b"<p>moved</p>", headers={"Refresh": "0; url=/new"}),
        ("a.test", "/quoted"): reply(b"", headers={"Refresh": "3;URL='http://a.test/new'"}),
        ("a.test", "/text"): reply(TEXT, headers={"Refresh": "0; url=/new"}),
        ("a.test", "/late"): reply(b"<p>moved</p>", headers={"Refresh": "60; url=/new"}),
        ("a.test", "/new"): reply(TEXT),
    }
    rows = crawler(*(f"http://a.test/{name}" for name in ("old", "quoted", "text", "late")))
    assert {url[14:]: row["final_url"][14:] for url, row in rows.items()} == {"old": "new", "quoted": "new", "text": "text", "late": "late"}


def test_a_refresh_in_markup_is_read_in_the_page_s_encoding(web, reply, crawler) -> None:
    stub = '<meta charset="euc-kr"><meta http-equiv="refresh" content="0; url=/등대?빛=3"><p>이동</p>'.encode("euc-kr")
    web.routes = {("a.test", "/old"): reply(stub), ("a.test", "/%EB%93%B1%EB%8C%80?%BA%FB=3"): reply(TEXT)}
    assert crawler("http://a.test/old")["http://a.test/old"]["outcome"] == "ok"


@pytest.mark.parametrize("octets", [b"/\xed\x95\xad?q=\xed\x95\xad", b"/\xc7\xd7?q=\xc7\xd7", b"/%C7?q=\xff"])
def test_an_address_in_a_header_keeps_its_octets(octets: bytes) -> None:
    text = cookies.header_text(octets.decode("utf-8", "surrogateescape"))
    found = urls.joined("http://a.test/", text)
    assert found and unquote_to_bytes(found.removeprefix("http://a.test")) == unquote_to_bytes(octets)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("framed", [True, False])
def test_a_compressed_body_that_ends_early_is_truncated(coding: str, framed: bool, web, reply, crawler) -> None:
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstandard.ZstdCompressor().compress}[coding]
    body = pack(TEXT + random.Random(1).randbytes(400).hex().encode())
    half = body[: len(body) // 2]
    parts = {"body": half} if framed else {"stream": lambda file: file.write(half)}
    web.routes["a.test", "/"] = reply(headers={"Content-Encoding": coding}, **parts)
    row = crawler("http://a.test/", retries=0)["http://a.test/"]
    assert (row["outcome"], coding in row["reason"]) == ("truncated", True)


def test_a_long_head_is_read_up_to_a_limit_that_the_error_names(web, reply, crawler) -> None:
    web.routes = {("a.test", f"/{size}"): reply(TEXT, headers={"Content-Security-Policy": "x" * size}) for size in (10_000, 60_000, 70_000)}
    rows = crawler(*(f"http://a.test/{size}" for size in (10_000, 60_000, 70_000)), retries=0)
    assert [rows[f"http://a.test/{size}"]["outcome"] for size in (10_000, 60_000, 70_000)] == ["ok", "ok", "http_error"]
    assert "crawl.max_header_bytes" in rows["http://a.test/70000"]["reason"]
    assert crawler("http://a.test/70000", max_header_bytes=100_000)["http://a.test/70000"]["outcome"] == "ok"


def test_pages_may_stay_out_and_are_counted(web, reply, crawler) -> None:
    def head(content: str) -> bytes:
        return f'<head><meta name="robots" content="{content}"></head>'.encode()

    web.routes = {
        ("a.test", "/"): reply(
            head("noindex, follow") + TEXT + b'<a href="/a">a</a> <a rel="ugc nofollow" href="/b">b</a> <a href="/c">c</a>'
        ),
        ("a.test", "/a"): reply(head("nofollow") + TEXT + b'<a href="/d">d</a>'),
        ("a.test", "/b"): reply(TEXT),
        ("a.test", "/c"): reply(TEXT, headers={"X-Robots-Tag": "noai", "tdm-reservation": "1"}),
        ("a.test", "/d"): reply(TEXT),
    }
    links = crawler.links(sites=(LinkSource("site", url="http://a.test/", depth=3),))
    pages = crawler.crawl(links)
    assert {url[13:]: row["outcome"] for url, row in crawler.rows(pages).items()} == {"/": "opt_out", "/a": "ok", "/c": "opt_out"}
    counts = pages.counts
    assert (counts["removed.opt_out"], counts["opt_out.noindex"], counts["opt_out.noai"], counts["opt_out.tdm"]) == (2, 1, 1, 1)
    assert crawler.rows(pages)["http://a.test/c"]["reason"] == "noai: X-Robots-Tag, tdm: tdm-reservation header"
    everything = crawler.rows(crawler.crawl(links, opt_outs=()))
    assert {url[13:]: row["outcome"] for url, row in everything.items()} == dict.fromkeys(("/", "/a", "/b", "/c", "/d"), "ok")


@pytest.mark.parametrize("label", ["", "euc-kr"])
@pytest.mark.parametrize("encoding", ["euc-kr", "windows-1251", "shift_jis", "gb18030", "big5", "utf-8"])
def test_links_are_read_in_the_encoding_of_the_page(encoding: str, label: str) -> None:
    word = {"euc-kr": "등대", "windows-1251": "маяк", "shift_jis": "灯台", "gb18030": "灯塔", "big5": "燈塔", "utf-8": "빛é"}[encoding]
    page = f'<meta charset="{encoding}"><a href="\\{word}\\x?q={word}#{word}">{word}</a>'.encode(encoding)
    (link,) = links_on("http://a.test/b/", page, label if encoding == "euc-kr" else "")
    path, _, query = link.removeprefix("http://a.test/").partition("?q=")
    assert unquote_to_bytes(path).decode() == f"{word}/x" and unquote_to_bytes(query) == word.encode(encoding)


def test_a_recipe_s_own_trackers_are_left_out_of_followed_links(web, reply, crawler) -> None:
    web.routes = {("a.test", "/"): reply(TEXT + b'<a href="/a?from=menu&id=1">a</a>'), ("a.test", "/a?id=1"): reply(TEXT)}
    links = crawler.links(sites=(LinkSource("site", url="http://a.test/", depth=2),))
    assert "http://a.test/a?id=1" in crawler.rows(crawler.crawl(links, tracking_parameters=("from",)))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 40))
def test_a_tidied_head_is_clean_and_tidy_again(seed: int) -> None:
    wire_bytes = fuzzed.answer(seed, 10).wire
    end = heads.END.search(wire_bytes)
    assert end
    once = wire.tidied(wire_bytes[: end.end()])
    assert wire.tidied(once) == once and once.endswith(b"\r\n\r\n")
    assert heads.parse(once).status == 200 == heads.parse(wire_bytes[: end.start()]).status


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"\r\nHTTP/1.0 404\n", b"HTTP/1.1 200 OK\r\nContent-Length: "])
)
def test_no_bytes_break_the_tidying(data: bytes, start: bytes) -> None:
    tidied = wire.tidied(start + data + b"\r\n\r\n")
    assert tidied == start + data + b"\r\n\r\n" or wire.tidied(tidied) == tidied
    wire.Chunks().feed(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 30), st.binary(max_size=300), st.integers(1, 50), st.sampled_from([b"\r\n", b"\n"]))
def test_chunks_are_rewritten_whatever_the_pieces_they_come_in(seed: int, content: bytes, piece: int, end: bytes) -> None:
    from data_prep.corpus.warc_http import dechunked

    wire_bytes, chunks = fuzzed.chunked(random.Random(seed), content, end=end), wire.Chunks()
    out = b"".join(chunks.feed(wire_bytes[start : start + piece]) for start in range(0, len(wire_bytes), piece))
    assert (dechunked(out) == (content, True) and b";" not in out.replace(content, b"")) or b";" in content
    assert chunks.state == "over"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("text/html; charset=UTF-8", ("text/html", "utf-8")),
        ("text/html,text/plain;charset=x", ("text/plain", "x")),
        ("text/html;charset=a, text/html", ("text/html", "a")),
        ("text/html;charset=a, */*", ("text/html", "a")),
        ("html", ("", "")),
        ("", ("", "")),
        ('Text/HTML; a="b, c"; Charset="EUC-KR"', ("text/html", "euc-kr")),
    ],
)
def test_the_last_valid_content_type_counts(values: str, kind: tuple[str, str]) -> None:
    assert heads.media_type(values) == kind
