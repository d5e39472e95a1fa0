"""A real site, flink.apache.org as it was built, crawled from its first page by following links."""

from __future__ import annotations

import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from urllib import robotparser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import lxml.html
import pytest

from data_prep.corpus.links import LinkSource

HOST = "flink.apache.org"
START = f"http://{HOST}/"
SITE = LinkSource("site", url=START, depth=50, max_pages=2_000)
MEDIA = (".png", ".svg", ".jpg", ".jpeg", ".gif", ".pdf", ".js", ".css", ".zip", ".tgz", ".gz", ".jar", ".mp4", ".pptx", ".psd", ".eps")
ROBOTS = b"User-agent: *\nDisallow: /zh/\nDisallow: /posts/page/1\nAllow: /zh/what-is-flink/\nCrawl-delay: 0.005\n"
ABSOLUTE = re.compile(r"[A-Za-z][\w+.-]*:|[/#?]")
STUB = b'http-equiv="refresh"'
SLOW = 37  # every 37th page answers late


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag in ("a", "area"):
            self.found += [value.strip() for name, value in attrs if name == "href" and value]


@pytest.fixture(scope="module")
def tree(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flink")
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def serve(tree: Path, path: str) -> tuple[int, str, bytes]:
    """What a plain file server says: status, content type or where to, body."""
    name = unquote(path.partition("?")[0]).lstrip("/")
    file = tree / name
    if file.is_dir() and name and not name.endswith("/"):
        return 301, f"/{name}/", b""
    file = file / "index.html" if file.is_dir() else file
    if not file.is_file():
        return 404, "text/html", b"<a href='/index.html'>nothing here</a>"
    kind = {".html": "text/html", ".xml": "application/xml"}.get(file.suffix, "application/octet-stream")
    return 200, kind, file.read_bytes()


def walk(tree: Path, may) -> tuple[set[str], set[str]]:
    """By brute force: the paths that a crawl from the start asks for, and those among them that are pages."""
    asked, pages, todo = set(), set(), ["/"]
    while todo:
        path = todo.pop()
        if path in asked or not may(path):
            continue
        asked.add(path)
        status, kind, body = serve(tree, path)
        if status == 301:
            todo.append(kind)
        elif status == 200 and kind == "text/html":
            pages.add(path)
            anchors = _Anchors()
            anchors.feed(body.decode("utf-8", "replace"))
            for href in anchors.found:
                rooted = href if ABSOLUTE.match(href) else f"{path.rpartition('/')[0]}/{href}"  # urljoin would lose doubled slashes
                url = urlsplit(urldefrag(urljoin(START + path.lstrip("/"), rooted))[0])
                if url.scheme in ("http", "https") and url.netloc == HOST and not url.path.lower().endswith(MEDIA):
                    todo.append((url.path or "/") + (f"?{url.query}" if url.query else ""))
    return asked, pages


def paths(rows, outcome: str) -> set[str]:
    return {urlsplit(url).path for url, row in rows.items() if row["outcome"] == outcome}


def broken_targets(tree: Path, pages: set[str]) -> dict[str, str]:
    """Paths on the site that its pages name in links, styles and scripts, and that lead nowhere; by another parser. With the tag."""
    found = {}
    for page in pages:
        root = lxml.html.fromstring(serve(tree, page)[2], parser=lxml.html.HTMLParser(encoding="utf-8"))
        for element, attribute, target, _ in root.iterlinks():
            if (element.tag, attribute) in {("a", "href"), ("link", "href"), ("script", "src")}:
                rooted = target.strip() if ABSOLUTE.match(target.strip()) else f"{page.rpartition('/')[0]}/{target.strip()}"
                url = urlsplit(urldefrag(urljoin(START + page.lstrip("/"), rooted))[0])
                if url.scheme in ("http", "https") and url.netloc == HOST:
                    found[url.path] = element.tag if found.get(url.path) != "a" else "a"
    return {path: tag for path, tag in found.items() if serve(tree, path)[0] == 404}


def host_it(web, reply, tree: Path) -> None:
    def page(host: str, path: str):
        status, kind, body = serve(tree, path)
        if status == 301:
            return reply(status=301, headers={"Location": kind})
        return reply(body, status, kind=kind, wait=0.1 if sum(path.encode()) % SLOW == 0 else 0.0)

    web.fallback = page


def test_following_links_finds_what_a_brute_force_walk_finds(web, reply, crawler, tree) -> None:
    host_it(web, reply, tree)
    asked, pages = walk(tree, lambda path: True)
    rows = crawler.rows(crawler.crawl(crawler.links(sites=(SITE,)), addresses={HOST: web.where}))
    assert sorted(web.asked(HOST)) == sorted(asked)  # each once
    stubs = {path for path in pages if STUB in serve(tree, path)[2]}
    assert paths(rows, "ok") == pages - stubs and paths(rows, "meta_refresh") == stubs
    assert len({path.removesuffix("index.html") for path in pages}) == 391 and len(stubs) == 78
    assert paths(rows, "http_error") == {path for path in asked if serve(tree, path)[0] == 404}
    assert paths(rows, "redirected") == {path for path in asked if serve(tree, path)[0] == 301}
    broken = broken_targets(tree, pages)
    assert len(broken) == 64 and len(paths(rows, "http_error")) == 31  # the others are files, styles, scripts: nobody asks for them
    assert paths(rows, "http_error") == {path for path, tag in broken.items() if tag == "a" and not path.lower().endswith(MEDIA)}
    assert {row["outcome"] for row in rows.values()} == {"ok", "meta_refresh", "http_error", "redirected"}
    assert all(row["final_url"].startswith(f"https://{HOST}/") for row in rows.values() if row["outcome"] == "meta_refresh")


def test_each_of_the_263_stubs_leads_to_its_page_or_is_left_to_that_pages_own_turn(web, reply, crawler, tree) -> None:
    """All stubs listed, their targets not: each target is fetched in the stub's name, unless it is a stub's or listed itself."""
    files = {f"/{file.relative_to(tree)}": file.read_bytes() for file in tree.rglob("*.html")}
    stubs = {path: re.search(rb"url=([^\"]+)", body)[1].decode() for path, body in files.items() if STUB in body}
    plain = {path: body.replace(b"https://", b"http://") for path, body in files.items()}  # the loopback web speaks no TLS

    def page(host: str, path: str):
        status, kind, body = serve(tree, path)
        return reply(plain.get(path, body.replace(b"https://", b"http://")), status, kind=kind)

    web.fallback = page
    listed = [f"http://{HOST}{path}" for path in stubs]
    some = sorted({target.replace("https://", "http://") for target in stubs.values() if HOST in target})[:50]
    rows = crawler.rows(crawler.crawl(crawler.links(*listed, *some, count=2), addresses={"*": web.where}))
    outcomes = {path: rows[f"http://{HOST}{path}"] for path in stubs}
    assert len(outcomes) == 263
    for path, row in outcomes.items():
        target = stubs[path].replace("https://", "http://")
        assert row["final_url"] == target
        assert row["outcome"] == ("meta_refresh" if target in some else "http_error" if "nightlies" in target else "ok"), path
    assert not paths(rows, "redirected") and web.asked(HOST).count("/community.html") == 1


def test_robots_delay_redirects_and_slow_pages_of_a_followed_site(web, reply, crawler, tree) -> None:
    host_it(web, reply, tree)
    web.routes[HOST, "/robots.txt"] = reply(ROBOTS, kind="text/plain")
    rules = robotparser.RobotFileParser()
    rules.parse(ROBOTS.decode().replace("Disallow: /zh/\n", "").splitlines())

    def may(path: str) -> bool:  # the standard library takes the first match, RFC 9309 the longest
        if path.startswith("/zh/"):
            return path.startswith("/zh/what-is-flink/")
        return rules.can_fetch("textmill", path)

    asked, pages = walk(tree, may)
    links = crawler.links(sites=(SITE,))
    artifact = crawler.crawl(links, addresses={HOST: web.where})
    rows = crawler.rows(artifact)
    assert sorted(web.asked(HOST)) == sorted(asked)
    assert paths(rows, "ok") | paths(rows, "meta_refresh") == pages
    assert artifact.counts["removed.robots"] > 10
    assert artifact.counts["followed"] == artifact.counts["read"] - 1
    gaps = [b.began - a.ended for a, b in zip(web.hits, web.hits[1:], strict=False)]
    assert min(gaps) >= 0.005
    assert [row["url"] for row in list(rows.values())[1:]] == sorted(row["url"] for row in list(rows.values())[1:])


def test_depth_and_number_of_pages_are_kept(web, reply, crawler, tree) -> None:
    host_it(web, reply, tree)
    near = LinkSource("site", url=START, depth=1, max_pages=25)
    rows = crawler.rows(crawler.crawl(crawler.links(sites=(near,)), addresses={HOST: web.where}))
    assert len(rows) == len(web.asked(HOST)) == 25
    here = LinkSource("site", url=START, depth=0)
    assert list(crawler.rows(crawler.crawl(crawler.links(sites=(here,)), addresses={HOST: web.where}))) == [START]
