"""A real site, flink.apache.org as it was built, from its first page to deduplicated documents by one command."""

from __future__ import annotations

import posixpath
import tarfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import lxml.html
import pytest

from tests.end_to_end.mini import Place, Row, counts, shards, table
from tests.faults.web import Web, page, serving

HOST = "flink.apache.org"
RECIPE = """\
name: flink
corpus:
  sources:
    - {kind: site, url: "http://flink.apache.org/", depth: 60, max_pages: 2000}
  links: {shards: 1}
  crawl: {contact: me@example.org, per_host_delay_s: 0.0, backoff_s: 0.05, allow_networks: [127.0.0.0/8]}
  filter: {languages: [en, zh], min_words: 30}
resources:
  connect_to: {flink.apache.org: "ADDRESS"}
"""
STUB = b'http-equiv="refresh"'
KINDS = {".html": "text/html; charset=utf-8", ".xml": "application/xml", ".css": "text/css"}


def unpacked(data: Path, folder: Path) -> Path:
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def file_of(tree: Path, path: str) -> Path | None:
    """The file that a plain web server sends for a path."""
    found = tree / unquote(path.partition("?")[0]).lstrip("/")
    found = found / "index.html" if found.is_dir() else found
    return found if found.is_file() else None


def serve(web: Web, tree: Path) -> None:
    def answer(host: str, path: str):
        if host != HOST:
            return None
        bare = path.partition("?")[0]
        if (tree / unquote(bare).lstrip("/")).is_dir() and not bare.endswith("/"):
            return page(b"", status=301, Location=f"{bare}/")
        file = file_of(tree, path)
        return page(file.read_bytes(), kind=KINDS.get(file.suffix, "application/octet-stream")) if file else None

    web.elsewhere = answer


def reachable(tree: Path) -> set[Path]:
    """Files that a reader can click to from the first page, found with lxml in the files themselves; nothing is fetched."""
    found: set[Path] = set()
    todo = [("/", tree / "index.html")]
    while todo:
        path, file = todo.pop()
        if file in found or file.suffix != ".html":
            continue
        found.add(file)
        root = lxml.html.fromstring(file.read_bytes(), parser=lxml.html.HTMLParser(encoding="utf-8"))
        for href in root.xpath("//a/@href"):
            to = urlsplit(href.strip())
            if to.netloc not in ("", HOST) or to.scheme not in ("", "http", "https") or not to.path:
                continue
            where = posixpath.normpath(posixpath.join(path if path.endswith("/") else posixpath.dirname(path), to.path))
            if target := file_of(tree, where):
                todo.append((f"{where.rstrip('/')}/" if (tree / unquote(where).lstrip("/")).is_dir() else where, target))
    return found


@pytest.fixture(scope="module")
def crawled(data: Path, tmp_path_factory: pytest.TempPathFactory):
    place = Place(tmp_path_factory.mktemp("flink"))
    tree = unpacked(data, place.folder / "site")
    with serving() as web:
        serve(web, tree)
        (place.folder / "flink.yaml").write_text(RECIPE.replace("ADDRESS", web.where))
        place.run("run", "flink.yaml", "--plain", "--until", "dedup")
        asked = [path for host, path in web.asked if host == HOST]
    return place, tree, asked


@pytest.fixture
def made(crawled) -> dict[str, Path]:
    return {row["label"]: crawled[0].made(row) for row in crawled[0].rows()}


def rows(artifact: Path, side: str = "") -> dict[str, Row]:
    return {row["url"]: row for row in table(shards(artifact, side))}


def test_the_crawl_fetches_just_the_files_that_can_be_reached(crawled, made: dict[str, Path]) -> None:
    _, tree, asked = crawled
    found = rows(made["crawl"])
    fetched = {file_of(tree, urlsplit(url).path) for url, row in found.items() if row["outcome"] in ("ok", "meta_refresh")}
    assert fetched == reachable(tree) and len(fetched) == 391  # as the data's own description says
    assert (counts(made["crawl"])["kept"], counts(made["crawl"])["removed.meta_refresh"]) == (313, 78)
    assert len(asked) == len(set(asked)), "no path was asked for twice"
    assert {row["outcome"] for row in found.values()} == {"ok", "meta_refresh", "http_error", "redirected"}
    lost = [url for url, row in found.items() if row["outcome"] == "http_error"]
    assert lost and all(found[url]["status"] == 404 and not file_of(tree, urlsplit(url).path) for url in lost)


def test_every_page_has_text_and_the_stubs_that_only_send_the_reader_on_are_none(crawled, made: dict[str, Path]) -> None:
    tree = crawled[1]
    stubs = {file for file in reachable(tree) if b'http-equiv="refresh"' in file.read_bytes().lower().replace(b"http-equiv=refresh", STUB)}
    aside, kept = rows(made["extract"], "set_aside"), rows(made["extract"])
    sent_on = {url for url, row in rows(made["crawl"]).items() if row["outcome"] == "meta_refresh"}
    assert {file_of(tree, urlsplit(url).path) for url in sent_on} == stubs
    assert {file_of(tree, urlsplit(url).path) for url in kept} == reachable(tree) - stubs
    assert (len(kept), len(aside)) == (313, 0)


def twin(url: str) -> str:
    return url.replace("/zh/", "/") if "/zh/" in url else url.replace(f"{HOST}/", f"{HOST}/zh/")


def test_documents_in_both_languages_come_through_the_filter_and_twins_do_not(made: dict[str, Path]) -> None:
    """A page of /zh/ that nobody has translated yet is a twin of the English one; no detector is asked for that.

    Where both are equal to the letter, their ids say which of them stays.
    """
    good, kept = rows(made["filter"]), rows(made["dedup"])
    chinese = {url for url, row in good.items() if row["language"] == "zh"}
    assert len(chinese) >= 10 and all("/zh/" in url for url in chinese)
    assert len(good) > 0.85 * 313 and {row["language"] for row in good.values()} == {"en", "zh"}
    gone = set(good) - set(kept)
    assert len(gone) >= 4 and all(twin(url) in kept for url in gone)
    assert {url for url, row in rows(made["dedup"], "clusters").items() if not row["survivor"]} == gone
