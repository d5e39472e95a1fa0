from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator

from data_prep import schemas, shards
from data_prep.corpus import arc
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.warc import WARC, WarcConfig
from infra.artifact import SourceFile
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

GOOD = ("example.warc.gz", "example.warc", "example-iana.org-chunked.warc", "example-bad-non-chunked.warc.gz", "example-trunc.warc")


def known_pages(path: Path) -> list[tuple[str, bytes]]:
    """(url, body) of the responses of a file, by another reader."""
    found = []
    opened = gzip.open if "non-chunked" in path.name else open  # warcio refuses an archive packed as one piece
    with opened(path, "rb") as file:
        for record in ArchiveIterator(file, arc2warc=True):
            if record.rec_type == "response" and record.rec_headers["WARC-Target-URI"].strip("<>").startswith("http"):
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


def test_a_page_can_be_read_back_from_the_place_its_row_names(data: Path, rows, store, local) -> None:
    sources = tuple(SourceFile.of(data / "web/warc/warcio" / name) for name in (*GOOD, "example.arc.gz"))
    pages = run(WARC, WarcConfig(sources), {}, store, local)
    made = run(EXTRACT, ExtractConfig(engine="resiliparse"), {"pages": pages}, store, local)
    assert made.counts["kept"] == sum(row["outcome"] == "ok" for row in rows(pages.shards))
    texts = [row["text"] for row in rows(made.shards) if "example.com" in row["url"]]
    assert len(texts) == 5
    assert all("illustrative examples in documents" in text for text in texts)


def test_all_samples_together_are_read_and_the_corrupt_counted(data: Path, rows, store, local) -> None:
    sources = tuple(SourceFile.of(path) for path in sorted((data / "web/warc/warcio").iterdir()))
    made = run(WARC, WarcConfig(sources), {}, store, local)
    assert len(made.shards) == len(sources) == 16
    aside = {row["source"].split(":")[0]: row["reason"] for row in rows(made.side("set_aside"))}
    assert {"bad.arc", "example-trunc.warc"} <= set(aside)
    assert "example.warc.gz" not in aside
    assert made.counts["read"] == made.counts["kept"] + sum(v for k, v in made.counts.items() if k.startswith("set_aside."))
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
    found = [(r.url[-1], r.reason, r.body) for r in arc.records(data)]
    assert found == [("1", "", page), ("2", "corrupt_record", b""), ("3", "", page), ("4", "corrupt_record", b"")]


def test_no_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="no file"):
        WarcConfig(())
