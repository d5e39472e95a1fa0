"""Records as archivers really write them, and a ledger that begins at the bytes."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import zlib
from pathlib import Path

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from data_prep import shards
from data_prep.corpus import opt_outs, warc, warc_http
from data_prep.corpus.archive import Archive
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.warc import WARC, WarcConfig, index_file
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError
from infra.stage import run
from tests import fuzzed
from tests.prove_ingest import check_answers, check_archive

TEXT = "The ferry leaves the harbor at seven and comes back at nine, when the tide is high enough for it. "
PAGE = f"<!doctype html><title>Ferry</title><p>{TEXT * 3}</p><p>{TEXT * 2}Nobody waits.</p>".encode()
SECOND = zlib.compressobj(wbits=-15)
CHUNKED = b"5;a=1\r\n" + PAGE[:5] + b'\r\n3 ; name="x;y"\r\n' + PAGE[5:8] + b"\r\n%X\r\n" % len(PAGE[8:]) + PAGE[8:] + b"\r\n0;last\r\n\r\n"


def block(head: str, body: bytes, end: str = "\r\n") -> bytes:
    return end.join(["HTTP/1.1 200 OK", "Content-Type: text/html", *head.splitlines(), "", ""]).encode() + body


def record(body: bytes, url: str = "http://a.test/", kind: str = "response", more: str = "", end: str = "\r\n") -> bytes:
    http = "application/http; msgtype=response" if kind == "response" else "text/plain"
    lines = ["WARC/1.0", f"WARC-Type: {kind}", f"WARC-Target-URI: {url}", *([more] if more else []), f"Content-Type: {http}"]
    return end.join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body + end.encode() * 2


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        block("Transfer-Encoding: chunked\nContent-Encoding: gzip", PAGE),
        block("Transfer-Encoding: chunked", PAGE),
        block("Content-Encoding: gzip\nContent-Length: 5", PAGE),
        block("Content-Encoding: br", PAGE),
        block("Content-Encoding: deflate", PAGE),
        block("Content-Encoding: zstd", PAGE),
        block("Content-Encoding: none", PAGE),
        block("Content-Encoding: UTF-8", PAGE),
        block("Content-Encoding: br", brotli.compress(PAGE)),
        block("Content-Encoding: deflate", SECOND.compress(PAGE) + SECOND.flush()),
        block("Content-Encoding: deflate, gzip", gzip.compress(zlib.compress(PAGE))),
        block("Content-Encoding: gzip\nTransfer-Encoding: chunked", gzip.compress(PAGE)),
        block("Content-Encoding: gzip", gzip.compress(PAGE) + b"\r\n<!-- cached -->"),
        block("Transfer-Encoding: chunked", CHUNKED),
        block("X: 1", PAGE, end="\n"),
        block("Bad line\n: none\nX Y: 1\nX-Folded: a\n  b", PAGE),
    ],
)  # fmt: skip
def test_a_body_is_read_whatever_the_archiver_did_to_it(body: bytes, packed: bool, tmp_path: Path, rows, store, local) -> None:
    """Three pages: the odd one stands between two plain ones, and none is lost."""
    records = [record(block("", PAGE)), record(body, "http://a.test/odd"), record(block("", PAGE), "http://a.test/last")]
    (path := tmp_path / "x.warc").write_bytes(b"".join(gzip.compress(r) if packed else r for r in records))
    pages = run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)
    assert [(row["url"][14:], row["bytes"], row["outcome"]) for row in rows(pages.shards)] == [
        (name, len(PAGE), "ok") for name in ("", "odd", "last")
    ]
    archive = Archive(pages.path, 1 << 20)
    assert {archive.body(row["warc_file"], row["warc_offset"]).body for row in rows(pages.shards)} == {PAGE}
    archive.close()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 30), st.binary(max_size=600))
def test_chunks_are_read_as_warcio_reads_them(seed: int, content: bytes) -> None:
    import random

    wire = fuzzed.chunked(random.Random(seed), content)
    assert warc_http.dechunked(wire) == (content, True)
    whole = record(block("Transfer-Encoding: chunked", wire))
    theirs = next(iter(ArchiveIterator(io.BytesIO(gzip.compress(whole)), arc2warc=True))).content_stream().read()
    assert theirs == content or not content


def test_schemes_in_any_case_texts_and_resources_are_pages_and_other_records_are_counted(tmp_path: Path, rows, store, local) -> None:
    page = block("", PAGE)
    records = [
        record(b"software: x", "", "warcinfo"),
        record(page, "HTTP://A.test/1"),
        record(page, "<https://a.test/2>", end="\n"),
        record(TEXT.encode() * 3, "http://a.test/3", "conversion"),
        record(("밀물과 썰물은 달이 만든다. " * 9).encode(), "http://a.test/4", "conversion"),
        record(TEXT.encode() * 4, "http://a.test/5", "resource"),
        record(b"GET / HTTP/1.1\r\n\r\n", "http://a.test/1", "request"),
        record(b"x: y", "http://a.test/1", "metadata"),
        record(b"", "http://a.test/1", "revisit"),
        record(b"20260101 1.2.3.4", "dns:a.test", "resource"),
        record(b"", "http://a.test/1", "fancy"),
        record(b"no answer", "http://a.test/6"),
    ]
    (path := tmp_path / "x.warc.gz").write_bytes(b"".join(gzip.compress(r) for r in records))
    pages = run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)
    counts = pages.counts
    assert [row["url"][-1] for row in rows(pages.shards)] == list("12345")
    assert (counts["read"], counts["kept"], counts["set_aside.no_http_head"], counts["records_read"]) == (6, 5, 1, 12)
    skipped = {name: counts[f"records_skipped.{name}"] for name in ("warcinfo", "request", "metadata", "revisit", "not_web", "other")}
    assert set(skipped.values()) == {1}
    assert counts["bytes_read"] == path.stat().st_size == counts["bytes_delivered"] + counts["bytes_skipped"] + counts["bytes_quarantined"]
    made = run(EXTRACT, ExtractConfig(), {"pages": pages}, store, local)
    assert made.counts["kept"] == 5 and "밀물과 썰물은 달이 만든다" in rows(made.shards)[3]["text"]


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all\n" * 9, record(b"a: b", "", "warcinfo"), b"\0" * 99, gzip.compress(b"", mtime=0)]
)
def test_an_archive_without_a_page_is_an_error_that_says_what_was_read(content: bytes, tmp_path: Path, store, local) -> None:
    (path := tmp_path / "x.warc").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"warc: no page in 1 file\(s\) \(x.warc\): {len(content)} bytes"):
        run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)


def test_one_file_without_a_page_beside_others_is_a_warning(tmp_path: Path, store, local, caplog) -> None:
    (tmp_path / "a.warc").write_bytes(record(block("", PAGE)))
    (tmp_path / "b.warc").write_bytes(b"rubbish")
    made = run(WARC, WarcConfig(tuple(SourceFile.of(tmp_path / name) for name in ("a.warc", "b.warc"))), {}, store, local)
    assert (made.counts["kept"], made.counts["set_aside.corrupt_record"]) == (1, 1)
    assert any("b.warc: no page" in getattr(record, "event", {}).get("message", "") for record in caplog.records)


@pytest.mark.parametrize(
    ("head", "body", "outcome"),
    [
        ("Content-Encoding: gzip", gzip.compress(PAGE)[:-40], "truncated"),
        ("Transfer-Encoding: chunked", CHUNKED[:-90], "truncated"),
        ("Refresh: 0; url=/new", b"<p>moved</p>", "meta_refresh"),
        ("Refresh: 0; url=/new", PAGE, "ok"),
        ("X-Robots-Tag: noindex", PAGE, "opt_out"),
        ("tdm-reservation: 1", PAGE, "opt_out"),
        ("Content-Encoding: gzip", gzip.compress(bytes(3 << 20)), None),
    ],
    ids=["gzip", "chunks", "refresh", "refresh beside a text", "noindex", "tdm", "bomb"],
)
def test_what_becomes_of_a_page_is_said(
    head: str, body: bytes, outcome: str | None, tmp_path: Path, rows, store, local, monkeypatch
) -> None:
    monkeypatch.setattr(warc, "LARGEST_BODY", 1 << 20)
    (path := tmp_path / "x.warc").write_bytes(record(block("", PAGE)) + record(block(head, body), "http://a.test/odd"))
    pages = run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)
    assert [row["outcome"] for row in rows(pages.shards)] == ["ok", *([outcome] if outcome else [])]
    assert pages.counts.get("set_aside.too_large", 0) == (outcome is None)
    if outcome == "opt_out":
        kept = run(WARC, WarcConfig((SourceFile.of(path),), ()), {}, store, local)
        assert [row["outcome"] for row in rows(kept.shards)] == ["ok", "ok"]


def test_two_archives_in_one_file_and_damage_between_them(tmp_path: Path, store, local, rows) -> None:
    """One by records, one in a piece, one in pieces that records cross: unpacked, each is read to its end."""

    def page(n: int) -> bytes:
        return record(block("", PAGE), f"http://a.test/{n}")

    whole = b"".join(map(page, range(5, 9)))
    crossing = b"".join(gzip.compress(whole[start : start + 700]) for start in range(0, len(whole), 700))
    data = b"".join([gzip.compress(page(0)), gzip.compress(page(1) + page(2)), b"\xff" * 30, gzip.compress(page(3)), crossing])
    (path := tmp_path / "x.warc.gz").write_bytes(data)
    made = run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)
    assert [row["url"][-1] for row in rows(made.shards)] == list("01235678")
    assert made.counts["set_aside.corrupt_record"] == 1 and made.counts["bytes_quarantined"] >= 30
    archive = Archive(made.path, 1 << 20)
    assert all(archive.body(row["warc_file"], row["warc_offset"]).body == PAGE for row in rows(made.shards))


@pytest.mark.parametrize("first", range(0, 45, 15))
def test_no_byte_and_no_record_of_a_damaged_archive_is_uncounted(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + 15):
        check_archive(seed, tmp_path)


def test_odd_answers_are_read_as_curl_reads_them_and_noise_ends_as_an_outcome(tmp_path: Path) -> None:
    seen = asyncio.run(check_answers(0, 60, tmp_path, 1_500, curl=bool(shutil.which("curl"))))
    assert seen["outcome ok"] > 30 and seen["outcome truncated"] > 3
    assert seen["as curl"] > 20 or not shutil.which("curl")


def test_the_same_file_gives_the_same_shard(tmp_path: Path) -> None:
    (path := tmp_path / "x.warc.gz").write_bytes(gzip.compress(fuzzed.archive(5, "plain").data))
    made = []
    for name in "ab":
        index_file(WarcConfig((SourceFile.of(path),)), tmp_path / name, 0)
        files = [f for f in sorted((tmp_path / name).rglob("*")) if f.is_file()]
        inside = [(f.relative_to(tmp_path / name), f.read_bytes()) for f in files]
        made.append([(f, data) for f, data in inside if not any(part.startswith(".") for part in f.parts)])  # scratch is not committed
    assert made[0] == made[1] and shards.counts(tmp_path / "a/00000.arrow")["kept"]


@pytest.mark.parametrize(
    ("headers", "markup", "found"),
    [
        ([("X-Robots-Tag", "noindex, nofollow")], "", {"noindex", "nofollow"}),
        ([("x-robots-tag", "None")], "", {"noindex", "nofollow"}),
        ([("X-Robots-Tag", "noai, noimageai")], "", {"noai"}),
        ([("X-Robots-Tag", "googlebot: noindex, nofollow")], "", set()),
        ([("X-Robots-Tag", "googlebot: noindex, textmill: noai")], "", {"noai"}),
        ([("X-Robots-Tag", "unavailable_after: 25 Jun 2010 15:00:00 PST, noindex")], "", {"noindex"}),
        ([("X-Robots-Tag", "max-snippet: 20, index")], "", set()),
        ([("TDM-Reservation", "1")], "", {"tdm"}),
        ([("tdm-reservation", "0")], "", set()),
        ([], "<META NAME='Robots' CONTENT='NOINDEX,FOLLOW'>", {"noindex"}),
        ([], '<meta content="noai" name=robots>', {"noai"}),
        ([], '<meta name="textmill" content="none">', {"noindex", "nofollow"}),
        ([], '<meta name="googlebot" content="noindex">', set()),
        ([], '<meta name="tdm-reservation" content="1">', {"tdm"}),
        ([], '<!-- <meta name="robots" content="noindex"> --><script>"<meta name=robots content=noindex>"</script>', set()),
        ([], '<meta name="robots" content="index, follow, max-image-preview:large">', set()),
        ([], '<meta name="description" content="robots noindex">', set()),
    ],
)
def test_directives_are_read_where_they_hold(headers, markup: str, found: set[str]) -> None:
    for body in (markup.encode(), ("\ufeff" + markup).encode("utf-16-le")):
        assert set(opt_outs.stated(headers, b"<html><head>" + body + b"</head>", "textmill", is_html=True)) == found
    assert set(opt_outs.stated(headers, markup.encode(), "textmill", is_html=False)) == {*(found if headers else ())}


def test_an_unknown_directive_is_refused() -> None:
    with pytest.raises(ConfigError, match="opt_outs: unknown 'noarchive'; available: noindex, noai, tdm, nofollow"):
        WarcConfig((SourceFile("x", "", "x"),), ("noarchive",))
