"""The crawler's small parts: unpacking, turns, robots.txt, waiting times, links, journal."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import gzip
import hashlib
import uuid
import zlib
from functools import partial
from urllib import robotparser

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus.crawling import clock as clocks
from data_prep.corpus.crawling import journal as journals
from data_prep.corpus.crawling import robots, warcfile
from data_prep.corpus.crawling.body import Body, Bomb, TooLarge, Undecodable
from data_prep.corpus.crawling.clock import Clock
from data_prep.corpus.crawling.fetch import seconds_asked
from data_prep.corpus.crawling.follow import links_on
from data_prep.corpus.crawling.journal import Journal, Settled
from infra.errors import ArtifactError


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": partial(brotli.compress, quality=1),
    "zstd": zstandard.ZstdCompressor().compress,
}


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3_000), st.sampled_from(sorted(PACK)), st.integers(1, 500))
def test_a_body_is_unpacked_whatever_the_pieces_it_comes_in(data, coding, piece) -> None:
    body, packed = Body(coding, 1 << 20, 1 << 20), PACK[coding](data)
    for start in range(0, len(packed), piece):
        body.feed(packed[start : start + piece])
    assert body.data == data


def test_gzip_members_one_after_another_are_one_body() -> None:
    body = Body("gzip", 1 << 20, 1 << 20)
    body.feed(gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 8)
    assert body.data == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_known_before_it_is_unpacked(coding) -> None:
    packed = PACK[coding](b"\0" * 20_000_000)
    body = Body(coding, 1 << 20, 1 << 20)
    with pytest.raises(Bomb):
        body.feed(packed)
    assert len(body.data) <= 1 << 20


def test_limits_and_unknown_packings_are_told_apart() -> None:
    with pytest.raises(TooLarge):
        Body("", 10, 100).feed(b"x" * 11)
    with pytest.raises(Undecodable, match="is no gzip"):
        Body("gzip", 100, 100).feed(b"plain text")
    with pytest.raises(Undecodable, match="more than 5 codings"):
        Body("gzip, " * 6, 100, 100)
    assert Body("none", 100, 100).unknown == ["none"] and Body("Identity, GZIP", 100, 100).codings == ["gzip"]


CODINGS = ["gzip", "x-gzip", "deflate", "br", "zstd"]


def packed_in(codings, data: bytes) -> bytes:
    for coding in codings:
        data = PACK[coding.removeprefix("x-")](data)
    return data


@settings(max_examples=120, deadline=None)
@given(
    st.binary(max_size=2_000),
    st.lists(st.sampled_from(CODINGS), min_size=1, max_size=3),
    st.integers(1, 300),
    st.binary(max_size=40),
    st.sampled_from(["", "identity, ", "none, ", "utf-8,"]),
)
def test_codings_are_undone_in_turn_and_what_lies_behind_them_is_ignored(data, codings, piece, behind, other) -> None:
    body, wire = Body(other + ", ".join(codings), 1 << 20, 1 << 20), packed_in(codings, data)
    if not behind.startswith((b"\x1f", b"\x28", *(bytes((n,)) for n in range(0x50, 0x60)))):  # that might be a further member or frame
        wire += behind
    for start in range(0, len(wire), piece):
        body.feed(wire[start : start + piece])
    assert body.data == data and body.whole


@settings(max_examples=120, deadline=None)
@given(st.binary(min_size=1, max_size=2_000), st.sampled_from([*CODINGS, "Deflate"]), st.integers(1, 300), st.data())
def test_a_stream_that_ends_early_is_not_whole(data, coding, piece, draw) -> None:
    packed = PACK[coding.removeprefix("x-")](data)
    wire = packed[: draw.draw(st.integers(1, len(packed) - 1))]
    body = Body(coding.lower(), 1 << 20, 1 << 20)
    for start in range(0, len(wire), piece):
        body.feed(wire[start : start + piece])
    assert not body.whole and data.startswith(body.data)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([*CODINGS, "Deflate"]), st.integers(0, 40), st.booleans())
def test_an_archive_s_body_that_is_decoded_already_is_taken_as_it_is(coding, words, is_packed) -> None:
    text = "<!doctype html><title>글 é</title> ".encode() + b"some words " * words
    body = Body(coding.lower(), 1 << 20, 1 << 20, lenient=True)
    body.feed(packed_in([coding], text) if is_packed and coding != "Deflate" else text)
    assert body.data == text and body.whole


def test_a_bomb_within_a_second_coding_is_known() -> None:
    body = Body("gzip, gzip", 1 << 20, 1 << 20)
    with pytest.raises(Bomb):
        body.feed(packed_in(["gzip", "gzip"], b"\0" * 30_000_000))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["gzip", "deflate", "br", "zstd"]), st.binary(max_size=200))
def test_no_bytes_break_the_unpacking(coding, data) -> None:
    body = Body(coding, 1 << 20, 1 << 20)
    try:
        body.feed(data)
    except (Undecodable, Bomb):
        return


def test_two_workers_share_a_hosts_turns_and_a_new_one_remembers_them(tmp_path) -> None:
    now = [100.0]
    one, two = (Clock(tmp_path / "clock", 60.0, lambda: now[0]) for _ in range(2))
    assert [one.reserve("a", 2.0), two.reserve("a", 2.0), one.reserve("a", 2.0), two.reserve("b", 2.0)] == [0.0, 2.0, 4.0, 0.0]
    now[0] = 105.5
    three = Clock(tmp_path / "clock", 60.0, lambda: now[0])
    assert three.reserve("a", 1.0) == 0.5
    three.postpone("a", 10.0)
    assert one.reserve("a", 0.0) == 10.0
    for clock in (one, two, three):
        clock.close()


@pytest.mark.parametrize("delay", [0.0, 1.0])
def test_a_turn_written_before_the_clock_was_set_back_does_not_count(tmp_path, delay: float) -> None:
    now = [1e9]
    clock = Clock(tmp_path / "clock", 60.0, lambda: now[0])
    clock.postpone("a", 50.0)
    now[0] -= 5.0
    assert clock.reserve("a", 0.0) == 55.0
    now[0] -= 86_400.0
    assert clock.reserve("a", delay) == 0.0
    clock.postpone("a", 2.0)
    assert clock.reserve("a", delay) == 2.0
    clock.close()
    assert (tmp_path / "clock").stat().st_size <= clocks.SLOTS * 8


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        (200, False),
        (204, False),
        (301, False),
        (400, True),
        (401, True),
        (404, True),
        (410, True),
        (429, False),
        (500, False),
        (599, False),
    ],
)
def test_the_status_of_robots_decides_as_rfc_9309_says(status, allowed) -> None:
    assert (robots.rules("textmill", status, b"User-agent: *\nDisallow: /").forbids("http://a.test/x") == "") == allowed


def test_delays_are_read_from_crawl_delay_and_request_rate() -> None:
    assert robots.rules("textmill", 200, b"User-agent: textmill\nCrawl-delay: 2.5").delay_s == 2.5
    assert robots.rules("textmill", 200, b"User-agent: *\nRequest-rate: 1/4\nCrawl-delay: 1").delay_s == 4.0
    assert robots.rules("textmill", 404, b"User-agent: *\nCrawl-delay: 1").delay_s == 0.0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_break_robots(body) -> None:
    robots.rules("textmill", 200, body).forbids("http://a.test/")
    assert robots.rules("textmill", 200, b"User-agent: *\nCrawl-delay: " + body[:20]).delay_s >= 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["/a", "/b", "/a/b", "/c"]), max_size=4), st.sampled_from(["/a", "/b/x", "/d", "/"]))
def test_without_allow_lines_the_standard_library_agrees(forbidden, path) -> None:
    lines = ["User-agent: *", *(f"Disallow: {prefix}" for prefix in forbidden)]
    other = robotparser.RobotFileParser()
    other.parse(lines)
    ours = robots.rules("textmill", 200, "\n".join(lines).encode()).forbids(f"http://a.test{path}") == ""
    assert ours == other.can_fetch("textmill", path)


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), (" 120 ", 120.0), ("", 0.0), ("soon", 0.0), ("-5", 0.0), ("9" * 30, 999_999_999.0), ("٣", 0.0)]
)
def test_retry_after_in_seconds(text, seconds) -> None:
    assert seconds_asked(text, 0.0) == seconds


def test_retry_after_as_a_date() -> None:
    then = 1_700_000_000
    assert seconds_asked(email.utils.formatdate(then, usegmt=True), then - 30.0) == 30.0
    assert seconds_asked(email.utils.formatdate(then), then + 30.0) == 0.0


def test_links_of_a_page_stay_on_its_host_and_mind_its_base() -> None:
    page = b"""<base href=/docs/><a href=one>1</a> <a href='/two#part'>2</a> <area href=three><a href=http://other.test/>x</a>
    <a href=picture.png>p</a><a href=mailto:a@b>m</a><a>none</a><a href="">self</a><link href=style.html><a href=one>again</a>"""
    assert links_on("http://a.test/page", page, "") == [f"http://a.test/{path}" for path in ("docs/one", "docs/three", "two")]


@pytest.mark.parametrize("charset", ["", "utf-8", "no-such-charset", "utf-16", "euc-kr"])
def test_links_are_found_in_broken_pages_under_any_charset(charset) -> None:
    links_on("http://a.test/", b"<a href=/x><div" * 50 + b"\xff\xfe\0" + "<a href=/안녕>".encode("euc-kr"), charset)
    assert links_on("http://a.test/", b"", charset) == links_on("http://a.test/", b"\0\0", charset) == []


def entry(number: int) -> Settled:
    return Settled({"url": f"http://a.test/{number}", "host": "a.test", "warc_offset": 0}, links=["http://a.test/x"], failures=number)


def fill(journal: Journal, numbers: range) -> None:
    async def go() -> None:
        writer = asyncio.create_task(journal.write())
        await asyncio.gather(*(journal.add(entry(n), b"record %d;" % n if n % 2 else b"") for n in numbers))
        await journal.queue.put(None)
        await writer

    asyncio.run(go())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1_600), st.integers(0, 100), st.binary(max_size=5))
def test_after_a_cut_anywhere_the_journal_holds_whole_entries_and_the_file_whole_records(tmp_path_factory, cut, cut_warc, junk) -> None:
    folder = tmp_path_factory.mktemp("journal")
    line, warc = folder / "j.jsonl", folder / "warc/x.gz"
    journal = Journal(line, warc, b"head;")
    fill(journal, range(8))
    journal.close()
    whole = (warc.with_name("x.gz.part")).read_bytes()
    line.write_bytes(line.read_bytes()[:cut] + junk)
    (warc.with_name("x.gz.part")).write_bytes(whole[: max(0, len(whole) - cut_warc)] if cut_warc else whole + junk)
    again = Journal(line, warc, b"head;")
    kept = [int(url.rpartition("/")[2]) for url in again.settled]
    fill(again, range(8)) if not kept else fill(again, range(max(kept) + 1, 8))
    again.close()
    again = Journal(line, warc, b"head;")
    again.finish()
    assert warc.read_bytes() == whole
    assert all(whole[e.row["warc_offset"] :].startswith(b"record %d;" % n) for n, e in enumerate(again.settled.values()) if n % 2)
    assert list(again.settled) == [f"http://a.test/{n}" for n in range(8)]


def test_the_journal_ends_when_its_last_entries_are_ones_that_nobody_waits_for(tmp_path) -> None:
    async def go(journal: Journal) -> None:
        writer = asyncio.create_task(journal.write())
        await asyncio.sleep(0)
        for number in range(3):
            await journal.add(entry(number), b"", wait=False)
        await journal.queue.put(None)  # met behind the others, in one batch
        await asyncio.wait_for(writer, timeout=20)

    journal = Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;")
    asyncio.run(go(journal))
    journal.close()
    assert len(Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;").settled) == 3


def test_a_finished_file_whose_table_was_never_written_is_taken_up_again(tmp_path) -> None:
    journal = Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;")
    fill(journal, range(3))
    journal.finish()
    again = Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"other head;")
    assert list(again.settled) == [f"http://a.test/{n}" for n in range(3)]
    again.finish()
    assert (tmp_path / "warc/x.gz").read_bytes() == b"head;record 1;"


def test_two_processes_never_write_one_shard(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(journals, "LOCK_TRIES", 2)
    monkeypatch.setattr(journals, "LOCK_WAIT_S", 0.01)
    first = Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;")
    with pytest.raises(ArtifactError, match="another process"):
        Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;")
    first.close()
    Journal(tmp_path / "j.jsonl", tmp_path / "warc/x.gz", b"head;").close()


@given(st.binary(max_size=99), st.text(max_size=30))
def test_digests_and_names_of_records_are_what_the_standard_library_makes(data, text) -> None:
    exchange = warcfile.Exchange("http://a.test/", "", "", b"", "", (), data)
    assert exchange.digest == "sha1:" + base64.b32encode(hashlib.sha1(data).digest()).decode()
    assert warcfile.record_id("response", text, "now") == f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'response now {text}')}>"
