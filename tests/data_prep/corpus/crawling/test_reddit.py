"""Reddit's top posts of 2013 through the karma rule to crawled pages, stored ones answering under their own names."""

from __future__ import annotations

import csv
import gzip
import html
import io
import tarfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastwarc.warc import ArchiveIterator, WarcRecordType

from data_prep.corpus import urls
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from infra.artifact import SourceFile
from infra.compute import LocalCompute
from infra.stage import run


@pytest.fixture(scope="module")
def stored(data) -> dict[str, bytes]:
    """The stored pages by URL; http, because the loopback web speaks no TLS."""
    with tarfile.open(data / "web/snippet-pages/pages.tar.gz") as archive:
        snippets = {Path(member.name).name: archive.extractfile(member).read() for member in archive if member.isfile()}
    pages = {}
    for row in csv.DictReader((data / "web/pages.tsv").read_text().splitlines(), delimiter="\t"):
        body = gzip.decompress((data / "web" / row["file"]).read_bytes()) if row["set"] == "articles" else snippets[Path(row["file"]).name]
        if (url := urls.canonical(row["url"].replace("https://", "http://", 1), keep_tracking=True)) is not None:
            pages[url] = body
    return pages


def sample(data: Path, folder: Path) -> tuple[Path, set[str], int]:
    """Every 40th post of all subreddits as one dump; the URLs a reader of CSV would choose by hand, and the posts read."""
    rows, wanted = [], set()
    for path in sorted((data / "urls/reddit-top-2013").glob("*.csv.gz")):
        rows += list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))[::40]
    for row in rows:
        if row["is_self"] == "False" and row["over_18"] == "False" and int(row["score"]) >= 3:
            wanted.add(html.unescape(row["url"]))  # Reddit's API escapes
    path = folder / "posts.csv.gz"
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path, wanted, len(rows)


def test_posts_become_pages_and_the_stored_ones_come_back_byte_for_byte(web, reply, crawler, data, stored, tmp_path) -> None:
    def page(host: str, path: str):
        if path == "/robots.txt":
            return reply(b"", 404)
        return reply(stored.get(f"http://{host}{path}", f"<p>{host}{path}".encode()))

    web.fallback = page
    posts, wanted, read = sample(data, tmp_path)
    (listed := tmp_path / "stored.txt").write_text("\n".join(stored))
    sources = (LinkSource("submissions", (SourceFile.of(posts),)), LinkSource("urls", (SourceFile.of(listed),)))
    links = run(LINKS, LinksConfig(sources, shards=2), {}, crawler.store, LocalCompute())
    assert links.counts["read"] == read + len(stored)
    expected = {urls.canonical(url) for url in wanted} | {urls.canonical(url) for url in stored}
    expected = {url for url in expected if url and not urls.is_media(url) and url.startswith("http://")}
    pages = crawler.crawl(links, concurrency=16, opt_outs=())
    rows = {url: row for url, row in crawler.rows(pages).items() if url.startswith("http://")}
    assert set(rows) == expected
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    asked = [f"http://{hit.host}{hit.path}" for hit in web.hits if hit.path != "/robots.txt"]
    assert sorted(asked) == sorted(url for url in rows if urlsplit(url).netloc)
    bodies = {}
    for name in ("warc/00000.warc.gz", "warc/00001.warc.gz"):
        with open(pages.file(name), "rb") as file:
            found = ArchiveIterator(file, parse_http=True, record_types=WarcRecordType.response)
            bodies |= {record.headers["WARC-Target-URI"]: record.reader.read() for record in found}
    assert all(bodies[url] == body for url, body in stored.items() if url in bodies)
    assert sum(url in bodies for url in stored) > 200
