from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from data_prep import schemas, shards
from data_prep.corpus import arc
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.warc import GZIP, WARC, WarcConfig, pages_of
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError
from infra.stage import run
from infra.store import Store

GOOD = ("example.warc.gz", "example.warc", "example-iana.org-chunked.warc", "example-bad-non-chunked.warc.gz", "example-trunc.warc")

SAMPLES = [*GOOD, "bad.arc", "example-bad.warc.gz.bad", "example-digest.warc", "example-resource.warc.gz"]
SAMPLES += ["example-space-in-target-uri.warc.gz", "example-space-in-url.arc", "example-wget-bad-target-uri.warc.gz"]
SAMPLES += ["example-wrong-chunks.warc.gz", "example.arc", "example.arc.gz", "post-test.warc.gz"]
BY_HAND = {  # (url, size) of the pages, and how many records are broken
    "bad.arc": ([], 3),  # lengths -1 and "abc", and an empty answer
    "example-bad.warc.gz.bad": ([("http://example.com?example=1", 1_270), ("http://www.iana.org/domains/example", 201)], 0),  # one member
    "example-trunc.warc": ([("http://example.com/", 1_270)], 0),  # its length is wrong by two bytes, zeros: "truncated"
    "example-wrong-chunks.warc.gz": ([("http://example.com/", 1_270)], 0),  # says chunked and is not: warcio gives up
}


def known_pages(path: Path) -> list[tuple[str, bytes]]:
    """(url, body) of the responses of a file, by another reader."""
    found = []
    opened = gzip.open if "non-chunked" in path.name else open  # warcio refuses an archive packed as one piece
    with opened(path, "rb") as file:
        for record in ArchiveIterator(file, arc2warc=True):
            if record.rec_type in ("response", "resource") and record.rec_headers["WARC-Target-URI"].strip("<>").startswith("http"):
                found.append((record.rec_headers["WARC-Target-URI"].strip("<>"), record.content_stream().read()))
    return found


def made_of(path: Path, store: Store, local):
    return run(WARC, WarcConfig((SourceFile.of(path),)), {}, store, local)


@pytest.mark.parametrize(
    "name", [*GOOD[:4], "example.arc", "example.arc.gz", "example-wget-bad-target-uri.warc.gz", "example-space-in-url.arc"]
)
def test_every_response_that_warcio_finds_is_a_page(data: Path, name: str, rows, store, local) -> None:
    path = data / "web/warc/warcio" / name
    made = made_of(path, store, local)
    table = rows(made.shards)
    expected = known_pages(path)
    assert [row["url"] for row in table] == [url for url, _ in expected]
    assert [row["bytes"] for row in table] == [len(body) for _, body in expected]
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.PAGES
    assert all(row["etag"] is not None and row["last_modified"] is not None for row in table)


def test_a_page_can_be_read_back_from_the_place_its_row_names(data: Path, rows, store, local) -> None:
    sources = tuple(SourceFile.of(data / "web/warc/warcio" / name) for name in (*GOOD, "example.arc.gz"))
    pages = run(WARC, WarcConfig(sources), {}, store, local)
    made = run(EXTRACT, ExtractConfig(engine="resiliparse"), {"pages": pages}, store, local)
    assert made.counts["kept"] == sum(row["outcome"] == "ok" for row in rows(pages.shards))
    texts = [row["text"] for row in rows(made.shards) if "example.com" in row["url"]]
    assert len(texts) == 4  # the record of example-trunc.warc is two bytes shorter than its gzip body: "truncated"
    assert all("illustrative examples in documents" in text for text in texts)


@pytest.mark.parametrize("name", SAMPLES)
def test_good_records_of_every_sample_are_read_and_bad_ones_counted(name: str, data: Path, rows, store, local) -> None:
    """Each of the 16 files against warcio's own reading, and where warcio gives up against what stands in the file."""
    expected, lost = BY_HAND.get(name) or ([(url, len(body)) for url, body in known_pages(data / "web/warc/warcio" / name)], 0)
    if not expected:
        with pytest.raises(ArtifactError, match=r"warc: no page in 1 file\(s\) .*" + ("3 corrupt_record|2 corrupt_record" if lost else "")):
            made_of(data / "web/warc/warcio" / name, store, local)
        return
    made = made_of(data / "web/warc/warcio" / name, store, local)
    found = [(row["url"], row["bytes"]) for row in rows(made.shards)]
    aside = [row["reason"] for row in rows(made.side("set_aside"))]
    assert found == expected
    assert aside == ["corrupt_record"] * lost
    assert made.counts["read"] == len(found) + lost and made.counts["kept"] == len(found)


def test_all_samples_together_are_read(data: Path, rows, store, local) -> None:
    paths = sorted((data / "web/warc/warcio").iterdir())
    assert [path.name for path in paths] == sorted(SAMPLES)
    made = run(WARC, WarcConfig(tuple(SourceFile.of(path) for path in paths)), {}, store, local)
    assert len(made.shards) == len(SAMPLES) == 16
    assert {"redirected", "not_text", "ok"} <= {row["outcome"] for row in rows(made.shards)}


def test_a_real_crawl_file_gives_all_its_pages(data: Path, rows, store, local) -> None:
    pages = made_of(data / "web/warc/cc-sample-0000.warc.gz", store, local)
    assert (pages.counts["read"], pages.counts["kept"]) == (22, 22)
    assert {row["outcome"] for row in rows(pages.shards)} == {"ok"}
    made = run(EXTRACT, ExtractConfig(), {"pages": pages}, store, local)
    assert made.counts["kept"] >= 20


def record(number: int, body: bytes = b"") -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + (body or b"<p>page %d</p>" % number * 50)
    head = (
        b"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: http://h.test/%d\r\nContent-Type: application/http; msgtype=response\r\n"
        % number
    )
    return head + b"Content-Length: %d\r\n\r\n" % len(http) + http + b"\r\n\r\n"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("fault", ["flip", "head", "cut"])
def test_a_corrupt_record_loses_itself_and_not_its_neighbours(packed: bool, fault: str, tmp_path: Path, rows, store, local) -> None:
    members = [gzip.compress(record(n), mtime=0) if packed else record(n) for n in range(5)]
    broken = bytearray(members[2])
    if fault == "flip":
        broken[len(broken) // 2 if packed else 3] ^= 0xFF
    elif fault == "head":
        broken[: 6 if packed else 60] = b"#" * (6 if packed else 60)
    else:
        broken = broken[: len(broken) // 2]
    path = tmp_path / ("x.warc.gz" if packed else "x.warc")
    path.write_bytes(b"".join([*members[:2], bytes(broken), *members[3:]]))
    made = made_of(path, store, local)
    found = [row["url"][-1] for row in rows(made.shards)]
    assert [n for n in found if n != "2"] in (
        ["0", "1", "3", "4"],
        ["0", "1", "4"] if fault == "cut" and not packed else ["0", "1", "3", "4"],
    )
    assert made.counts.get("set_aside.corrupt_record", 0) == 1 or "2" in found


def test_the_source_file_is_not_changed_and_its_place_does_not_matter(data: Path, tmp_path: Path, content, local) -> None:
    made = []
    for name in "ab":
        (tmp_path / name).mkdir()
        path = tmp_path / name / "example.warc.gz"
        path.write_bytes((data / "web/warc/warcio/example.warc.gz").read_bytes())
        made.append(made_of(path, Store(tmp_path / name / "store"), local))
        assert path.read_bytes() == (data / "web/warc/warcio/example.warc.gz").read_bytes()
    assert content(made[0]) == content(made[1])
    assert made[0].fingerprint == made[1].fingerprint


def test_arc_records_go_on_after_a_bad_one() -> None:
    page = b"HTTP/1.0 200 OK\r\n\r\nbody"
    good = b"http://a.test/%d 1.2.3.4 20140102030405 text/html %d\n"
    data = b"filedesc://x 0.0.0.0 20140102000000 text/plain 3\nabc\n" + good % (1, len(page)) + page + b"\n"
    data += b"http://a.test/2 1.2.3.4 20140102030405 text/html -1\n\n" + good % (3, len(page)) + page + b"\n" + good % (4, 9999) + b"short"
    found = [(r.url[-1], r.reason, r.body) for r in arc.records(data) if not r.is_description and r.reason != "padding"]
    assert found == [("1", "", page), ("2", "corrupt_record", b""), ("3", "", page), ("4", "corrupt_record", b"")]


def test_no_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="no file"):
        WarcConfig(())


@settings(max_examples=150)
@given(st.data(), st.booleans(), st.integers(0, 4), st.sampled_from(["flip", "cut", "insert"]))
def test_damage_to_one_record_never_reaches_beyond_it(tmp_path_factory, draw, packed: bool, hurt: int, fault: str) -> None:
    """Packed, all other records come through; unpacked, a wrong length may swallow the next one's head, and no more."""
    records = [gzip.compress(record(n), mtime=0) if packed else record(n) for n in range(5)]
    broken = bytearray(records[hurt])
    place = draw.draw(st.integers(0, len(broken) - 1))
    if fault == "flip":
        broken[place] ^= draw.draw(st.integers(1, 255))
    elif fault == "cut":
        del broken[place : draw.draw(st.integers(place + 1, len(broken)))]
    else:
        broken[place:place] = draw.draw(st.binary(min_size=1, max_size=40))
    path = tmp_path_factory.mktemp("fuzz") / ("x.warc.gz" if packed else "x.warc")
    path.write_bytes(b"".join([*records[:hurt], bytes(broken), *records[hurt + 1 :]]))
    found = [one.row for one in pages_of(path) if not one.reason and not one.skipped]
    sizes = {row["url"]: row["bytes"] for row in found}
    whole = {f"http://h.test/{n}": len(b"<p>page %d</p>" % n * 50) for n in range(5)}
    risked = {f"http://h.test/{n}" for n in ((hurt,) if packed else (hurt, hurt + 1))}
    assert {url: size for url, size in sizes.items() if url in whole and url not in risked} == {
        url: size for url, size in whole.items() if url not in risked
    }
    assert len(found) <= 5 + (fault == "insert")


@settings(max_examples=150)
@given(st.binary(max_size=400), st.sampled_from([b"", b"WARC/1.0\r\n", b"WARC/1.1\r\nContent-Length: 9\r\n\r\n", GZIP, record(1)]))
def test_no_bytes_break_the_reading(tmp_path_factory, tail: bytes, head: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "x.warc"
    path.write_bytes(head + tail)
    found = list(pages_of(path))
    assert len(found) < 20
    list(arc.records(b"filedesc://x 0.0.0.0 20140102000000 text/plain 3\nabc\n" + head + tail))


@pytest.mark.parametrize(
    ("harm", "least"),
    [
        (lambda b: b, 5),
        (lambda b: b[:-8], 5),  # the checksum is missing
        (lambda b: b[:-6] + b"xx" + b[-4:], 5),  # it is wrong
        (lambda b: b[:-40], 3),
        (lambda b: b[: len(b) // 2], 1),
        (lambda b: b[: len(b) // 2] + b"\xff" * 9 + b[len(b) // 2 + 9 :], 0),
        (lambda b: b + b"\0" * 512, 5),
        (lambda b: b + b"rubbish", 5),
    ],
    ids=["whole", "no checksum", "wrong checksum", "cut", "half", "damaged", "padded", "rubbish after it"],
)
def test_of_an_archive_packed_as_one_piece_all_before_the_damage_is_read(harm, least: int, tmp_path: Path, rows, store, local) -> None:
    path = tmp_path / "x.warc.gz"
    bodies = [hashlib.sha512(b"%d" % n).hexdigest().encode() * 9 for n in range(5)]
    path.write_bytes(harm(gzip.compress(b"".join(record(n, body) for n, body in enumerate(bodies)), mtime=0)))
    made = made_of(path, store, local)
    found = [row["url"][-1] for row in rows(made.shards)]
    assert found == list("01234")[: len(found)] and len(found) >= least
    assert all(row["bytes"] == len(bodies[0]) for row in rows(made.shards))
    whole = path.read_bytes().rstrip(b"\0") == gzip.compress(b"".join(map(record, range(5), bodies)), mtime=0).rstrip(b"\0")
    assert made.counts.get("set_aside.corrupt_record", 0) == (0 if whole else 1)


@pytest.mark.parametrize(
    ("harm", "pages"),
    [(lambda b: b[:-5], 1), (lambda b: b[: len(b) // 2], 0), (lambda b: GZIP + b"?" * 50, 0)],
    ids=["cut", "half", "noise"],
)
def test_a_damaged_arc_file_is_read_as_far_as_it_goes(harm, pages: int, data: Path, tmp_path: Path, rows, store, local) -> None:
    (tmp_path / "x.arc.gz").write_bytes(harm((data / "web/warc/warcio/example.arc.gz").read_bytes()))
    if not pages:
        with pytest.raises(ArtifactError, match="1 corrupt_record"):
            made_of(tmp_path / "x.arc.gz", store, local)
        return
    made = made_of(tmp_path / "x.arc.gz", store, local)
    assert made.counts["read"] == made.counts["kept"] + made.counts["set_aside.corrupt_record"]
    assert made.counts["kept"] == pages
