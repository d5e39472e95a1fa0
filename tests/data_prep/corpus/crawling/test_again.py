"""The same pages crawled again: what has not changed is not sent again, and is known for ever after."""

from __future__ import annotations

import hashlib
from email.utils import formatdate

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator as OtherIterator
from warcio.checker import Checker

from data_prep import shards
from data_prep.corpus.crawling import validators
from data_prep.corpus.crawling.listed import hashed
from data_prep.corpus.crawling.validators import VALIDATORS, Memory, gather, of_shard
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.links import LinkSource
from infra.compute import LocalCompute
from infra.stage import run

URLS = [f"http://a.test/{name}" for name in ("tag", "weak", "date", "both", "none", "bad-tag", "gone", "moved")]
DAY = 86_400


def text(name: str, version: int) -> bytes:
    return f"<html><title>{name}</title><p>{f'This is version {version} of the page {name}, and it says so. ' * 9}</p></html>".encode()


def publish(web, reply, version: int, changed: set[str] = frozenset()) -> None:
    """A site whose pages have marks; `changed` are those that are new in this version, the others are as in version 0."""

    def page(name: str):
        body = text(name, version if name in changed else 0)
        tag = f'"{hashlib.sha1(body).hexdigest()}"'
        date = formatdate(1_700_000_000 + (version if name in changed else 0) * DAY, usegmt=True)
        marks = {
            "tag": {"ETag": tag},
            "weak": {"ETag": f"W/{tag}"},
            "date": {"Last-Modified": date},
            "both": {"ETag": tag, "Last-Modified": date},
            "bad-tag": {"ETag": "no quotes"},
            "gone": {"ETag": tag},
            "there": {"ETag": tag},
        }
        return reply(body, headers=marks.get(name, {}))

    web.routes = {("a.test", f"/{name}"): page(name) for name in ("tag", "weak", "date", "both", "none", "bad-tag", "gone", "there")}
    web.routes["a.test", "/moved"] = reply(status=301, headers={"Location": "/there"})


def ends(crawler, pages) -> dict[str, str]:
    return {url.rpartition("/")[2]: row["outcome"] for url, row in crawler.rows(pages).items()}


@pytest.fixture
def days(web, reply, crawler):
    """Three crawls of the same links, each knowing the one before: all new; two pages changed; one lost, one unasked the day before."""
    publish(web, reply, 0)
    first = crawler.crawl(crawler.links(*URLS), logical_date="1")
    publish(web, reply, 1, {"both", "date"})
    second = crawler.crawl(crawler.links(*URLS[:-2]), earlier=first, logical_date="2")
    publish(web, reply, 1, {"both", "date"})
    del web.routes["a.test", "/tag"]
    web.hits.clear()
    third = crawler.crawl(crawler.links(*URLS), earlier=second, logical_date="3")
    return first, second, third


def test_only_what_changed_is_fetched_again(web, crawler, days) -> None:
    first, second, third = days
    assert set(ends(crawler, first).values()) == {"ok"}
    assert ends(crawler, second) == {
        "tag": "not_modified",
        "weak": "not_modified",
        "date": "ok",
        "both": "ok",
        "none": "ok",
        "bad-tag": "ok",
    }
    assert second.counts["removed.not_modified"] == 2 and second.counts["kept"] == 4
    assert ends(crawler, third) == {
        "tag": "http_error",  # it is no longer there
        "weak": "not_modified",
        "date": "not_modified",  # as fetched on the second day
        "both": "not_modified",
        "none": "ok",
        "bad-tag": "ok",
        "gone": "not_modified",  # as fetched on the first day: the second crawl did not ask for it, and yet remembers
        "moved": "not_modified",  # the page that it leads to
    }
    asked = {hit.path: hit.headers for hit in web.hits}
    assert {path for path, sent in asked.items() if "if-none-match" in sent} == {"/tag", "/weak", "/both", "/gone", "/there"}
    assert {path for path, sent in asked.items() if "if-modified-since" in sent} == {"/both", "/date"}


def test_an_unchanged_page_is_a_revisit_record_that_names_the_response_it_refers_to(crawler, days, capsys) -> None:
    first, _, third = days

    def records(pages) -> list:
        with open(pages.file("warc/00000.warc.gz"), "rb") as file:
            return [(r.rec_headers, r.http_headers, r.content_stream().read()) for r in OtherIterator(file)]

    answers = {head["WARC-Record-ID"]: head for head, _, _ in records(first) if head["WARC-Type"] == "response"}
    found = {head["WARC-Target-URI"]: (head, http) for head, http, _ in records(third) if head["WARC-Type"] == "revisit"}
    assert {url.rpartition("/")[2] for url in found} == {"weak", "date", "both", "gone", "there"}
    for name in ("weak", "gone", "there"):
        head, http = found[f"http://a.test/{name}"]
        assert head["WARC-Profile"] == "http://netpreserve.org/warc/1.1/revisit/server-not-modified"
        before = answers[head["WARC-Refers-To"]]
        assert before["WARC-Target-URI"] == head["WARC-Refers-To-Target-URI"] == head["WARC-Target-URI"]
        assert before["WARC-Date"] == head["WARC-Refers-To-Date"] < head["WARC-Date"]
        assert before["WARC-Payload-Digest"] == head["WARC-Payload-Digest"]
        assert http.get_statuscode() == "304"
    rows = crawler.rows(third)
    with open(third.file("warc/00000.warc.gz"), "rb") as file:
        for row in rows.values():
            if row["outcome"] == "not_modified":
                file.seek(row["warc_offset"])
                record = next(iter(ArchiveIterator(file)))
                assert record.headers["WARC-Type"] == "revisit" and record.headers["WARC-Target-URI"] == row["final_url"]
    checker = Checker(type("Command", (), {"verbose": False, "inputs": [str(third.file("warc/00000.warc.gz"))]})())
    checker.process_all()
    assert checker.exit_value == 0, capsys.readouterr().out


def test_unchanged_pages_make_no_documents(crawler, days) -> None:
    _, second, _ = days
    made = run(EXTRACT, ExtractConfig(), {"pages": second}, crawler.store, LocalCompute())
    assert made.counts["read"] == 6 and made.counts["kept"] == 4 and made.counts["removed.not_ok"] == 2


def test_the_table_says_where_every_page_stands(crawler, days) -> None:
    first, second, third = days
    table = {row["url"].rpartition("/")[2]: row for shard in third.side("validators") for row in shards.read(shard).to_pylist()}
    assert {name: row["crawl"] for name, row in table.items()} == {
        **dict.fromkeys(("tag", "weak", "gone", "there"), first.fingerprint),
        **dict.fromkeys(("date", "both"), second.fingerprint),
        **dict.fromkeys(("none", "bad-tag"), ""),
    }
    by = {"": third, first.fingerprint: first, second.fingerprint: second}
    for row in table.values():
        with open(by[row["crawl"]].file(row["warc_file"]), "rb") as file:
            file.seek(row["warc_offset"])
            record = next(iter(ArchiveIterator(file, parse_http=True)))
            assert record.headers["WARC-Target-URI"] == row["url"] and record.headers["WARC-Payload-Digest"] == row["digest"]


def test_a_site_whose_first_page_has_not_changed_is_followed_all_the_same(web, reply, crawler) -> None:
    def page(links: str, tag: str = ""):
        return reply(f"<p>{links}".encode(), headers={"ETag": f'"{tag}"'} if tag else {})

    web.routes = {("a.test", "/"): page("<a href=/1>1</a> <a href=/2>2</a>", "x"), ("a.test", "/1"): page("<a href=/3>3</a>", "y")}
    web.routes |= {("a.test", f"/{n}"): page("", "z") for n in (2, 3, 4)}
    site = (LinkSource("site", url="http://a.test/", depth=9),)
    first = crawler.crawl(crawler.links(sites=site), logical_date="1")
    web.routes["a.test", "/1"] = page("<a href=/3>3</a> <a href=/4>4</a>", "new")
    second = crawler.crawl(crawler.links(sites=site), earlier=first, logical_date="2")
    assert ends(crawler, second) == {"": "not_modified", "1": "ok", "2": "not_modified", "3": "not_modified", "4": "ok"}
    third = crawler.crawl(crawler.links(sites=site), earlier=second, logical_date="3")
    assert set(ends(crawler, third)) == {"", "1", "2", "3", "4"} and set(ends(crawler, third).values()) == {"not_modified"}


def test_a_page_fetched_alone_is_fetched_anew_when_its_links_are_wanted(web, reply, crawler) -> None:
    web.routes = {("a.test", "/"): reply(b"<a href=/1>1</a>", headers={"ETag": '"x"'}), ("a.test", "/1"): reply(b"<p>one")}
    first = crawler.crawl(crawler.links("http://a.test/"))
    second = crawler.crawl(crawler.links(sites=(LinkSource("site", url="http://a.test/", depth=1),)), earlier=first)
    assert ends(crawler, second) == {"": "ok", "1": "ok"}


def test_not_modified_is_an_error_where_nothing_is_known(web, reply, crawler) -> None:
    web.routes["a.test", "/"] = reply(status=304)
    row = crawler("http://a.test/")["http://a.test/"]
    assert (row["outcome"], row["reason"]) == ("http_error", "status 304")


def row_of(number: int, version: int) -> dict:
    return {"url": f"u{number}", "final_url": f"http://a.test/{number}", "outcome": "ok", "etag": f'"{version}"', "last_modified": ""} | {
        "fetched_at": f"{version:03d}",
        "warc_file": "w",
        "warc_offset": number,
    }


@settings(max_examples=40)
@given(st.lists(st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=3), min_size=1, max_size=4), st.integers(1, 9))
def test_laid_over_each_other_the_tables_are_what_a_dictionary_holds(tmp_path_factory, generations, rows) -> None:
    """Several crawls, each of some shards, with files of so few rows that there are many of them."""
    folder, expected, earlier = tmp_path_factory.mktemp("validators"), {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validators, "ROWS", rows)
        for version, parts in enumerate(generations):
            out = folder / str(version)
            for n, numbers in enumerate(parts):
                shards.write(of_shard([row_of(number, version) for number in numbers], {}, {}), out / "parts" / shards.name(n))
                expected |= {f"http://a.test/{number}": f'"{version}"' for number in numbers}
            gather([out / "parts" / shards.name(n) for n in range(len(parts))], earlier, f"crawl{version - 1}", out, LocalCompute())
            earlier = [str(path) for path in sorted((out / "validators").glob("*.arrow"))]
    memory = Memory(earlier)
    for url in (f"http://a.test/{number}" for number in range(40)):
        known = memory.recall(url)
        assert (known.etag if known else None) == expected.get(url)
    whole = [row for path in earlier for row in shards.read(path).to_pylist()]
    assert [row["hash"] for row in whole] == sorted(hashed(url) for url in expected)
    assert {row["crawl"] for row in whole} <= {"", *(f"crawl{n}" for n in range(len(generations) - 1))}
    assert shards.read(earlier[0]).schema.remove_metadata() == VALIDATORS


@given(st.text(max_size=40), st.sampled_from(['"%s"', 'W/"%s"', "%s", 'w/"%s"', '"%s']))
def test_only_marks_that_may_be_sent_back_are_kept(value, form) -> None:
    for kept in (validators.etag(form % value), validators.last_modified(form % value)):
        assert "\r" not in kept and "\n" not in kept and len(kept) <= validators.LONGEST
    assert validators.etag('"' + "x" * 2_000 + '"') == validators.last_modified("x" * 2_000) == ""
    assert validators.etag('W/"ok"') == 'W/"ok"' and validators.last_modified("Tue, 15 Nov 1994 12:45:26 GMT")
