from __future__ import annotations

import codecs
import collections
import gzip
import json
import re
import time
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import charset, html
from data_prep.corpus.child import Question, Reader
from data_prep.corpus.extract import EXTRACT, SET_ASIDE, ExtractConfig, document_id
from infra.errors import ConfigError
from infra.stage import run

PROSE = "The harbour lay still in the early light, and the fishermen had not yet come down from the village to mend their nets."
QUESTION = Question("", "resiliparse", 1)


def page(body: str, title: str = "A title") -> str:
    start = f"<!doctype html><html><head><title>{title}</title></head><body><article>"
    return f"{start}<h1>{title}</h1><p>{body}</p></article></body></html>"


class Crawl:
    """Pages as a crawl would have stored them: one gzip member a record."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.warc = b""

    def add(self, url: str, body: bytes, header: str = "text/html", encoding: str = "", charset_: str = "", **row: object) -> None:
        lines = [f"HTTP/1.1 200 OK\r\nContent-Type: {header}"] + ([f"Content-Encoding: {encoding}"] if encoding else [])
        block = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        head = (
            f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        facts = dict.fromkeys(schemas.PAGES.names) | {
            "url": url,
            "outcome": "ok",
            "host": "h.test",
            "charset": charset_,
            "source": "list:1",
        }
        facts |= {"content_type": header, "warc_file": "warc/a.warc.gz", "warc_offset": len(self.warc), "karma": 4}
        self.rows.append(facts | row)
        self.warc += gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)

    def artifact(self, given):
        return given([self.rows], schemas.PAGES, {"warc/a.warc.gz": self.warc})


@pytest.mark.parametrize("engine", html.ENGINES)
def test_main_text_of_real_articles_is_close_to_the_gold_text(data: Path, engine: str, capsys) -> None:
    gold = json.loads((data / "web/articles/ground-truth.json").read_text())
    scores = []
    started = time.process_time()
    for name, entry in gold.items():
        with gzip.open(data / f"web/articles/html/{name}.html.gz") as file:
            text = html.extract(charset.decode(file.read()).text, engine).text
        ours, theirs = (collections.Counter(re.findall(r"\w+", t.lower())) for t in (text, entry["articleBody"]))
        common = sum((ours & theirs).values())
        scores.append(2 * common / (sum(ours.values()) + sum(theirs.values())))
    mean, speed = sum(scores) / len(scores), len(scores) / (time.process_time() - started)
    with capsys.disabled():
        print(f"\n{engine}: F1 {mean:.4f} on {len(scores)} articles, {speed:.0f} pages/s")
    assert mean >= {"best": 0.95, "trafilatura": 0.95, "resiliparse": 0.9}[engine]


KOREAN, GERMAN, JAPANESE, RUSSIAN = (
    "안녕하세요 여러분 반갑습니다",
    "Grüße aus Köln – schön",
    "こんにちは世界、日本語です",
    "Привет, дорогие друзья",
)


@pytest.mark.parametrize(
    ("body", "header", "text", "source"),
    [
        (codecs.BOM_UTF8 + KOREAN.encode(), "euc-kr", KOREAN, "bom"),
        (codecs.BOM_UTF16_LE + KOREAN.encode("utf-16-le"), "", KOREAN, "bom"),
        (KOREAN.encode("euc-kr"), "EUC-KR", KOREAN, "header"),
        (KOREAN.encode("cp949"), "ks_c_5601-1987", KOREAN, "header"),
        (JAPANESE.encode("shift_jis"), "x-sjis", JAPANESE, "header"),
        (b'<meta charset="gb2312">' + "中文网页".encode("gb18030"), "", '<meta charset="gb2312">中文网页', "meta"),
        (b"<meta http-equiv='x' content='text/html; charset=koi8-r'>" + RUSSIAN.encode("koi8-r"), "", None, "meta"),
        (GERMAN.encode("cp1252"), "latin-1", GERMAN, "header"),  # a label that everyone, and the standard, reads as windows-1252
        (GERMAN.encode("cp1252"), "iso-8859-1", GERMAN, "header"),
        (GERMAN.encode(), "iso-8859-1", GERMAN, "header, contradicted"),  # mojibake, were the header believed
        (RUSSIAN.encode("cp1251") * 5, "", RUSSIAN * 5, "detected"),
        (KOREAN.encode(), "no-such-charset", KOREAN, "detected"),
        (KOREAN.encode(), "euc-kr", KOREAN, "detected"),  # the header lies, the bytes decide
        (b"<?xml version='1.0' encoding='windows-1251'?>" + RUSSIAN.encode("cp1251"), "", None, "meta"),
        (b'<meta charset="utf-16">' + GERMAN.encode(), "", None, "meta"),
    ],
)
def test_charset_by_mark_then_header_then_meta_then_detection(body: bytes, header: str, text: str | None, source: str) -> None:
    decoded = charset.decode(body, header)
    assert decoded.source == source
    assert decoded.lost == 0
    if text is not None:
        assert decoded.text == text
    elif source == "meta":
        assert decoded.text.endswith((RUSSIAN, GERMAN))


def test_a_page_with_one_broken_byte_is_read_and_noise_is_not() -> None:
    one = charset.decode(PROSE.encode() + KOREAN.encode() + b"\xff" + KOREAN.encode(), "utf-8")
    assert one.is_text
    assert KOREAN in one.text
    assert not charset.decode(bytes(range(256)) * 4, "utf-8").is_text or charset.decode(bytes(range(256)) * 4, "utf-8").lost == 0


@drawn(st.binary(max_size=300), st.text(max_size=20))
def test_no_bytes_and_no_label_can_make_decoding_fail(body: bytes, label: str) -> None:
    decoded = charset.decode(body, label)
    charset.normal(decoded.text).encode()
    assert decoded == charset.decode(body, label)


CODECS = {"utf-8": "utf-8", "utf-16": "utf-16", "euc-kr": "cp949", "shift_jis": "cp932", "gb2312": "gb18030"}


@drawn(st.text(max_size=200), st.sampled_from(sorted(CODECS)))
def test_what_a_page_says_in_its_declared_charset_is_what_is_read(text: str, label: str) -> None:
    body = text.encode(CODECS[label], "ignore")
    if not body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_BE)):
        expected = body.decode(CODECS[label])
        assert charset.decode(body, label).text == expected


@drawn(st.text(max_size=300))
def test_normal_text_is_nfc_without_controls_and_normalising_twice_changes_nothing(text: str) -> None:
    once = charset.normal(text)
    assert charset.normal(once) == once == unicodedata.normalize("NFC", once)
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", once)
    assert html.clean(html.clean(text)) == html.clean(text)


@drawn(st.text(alphabet="<>/=\"'&;#x0 pdivscriptable\x00\ud800é한", max_size=200), st.sampled_from(html.ENGINES))
def test_broken_markup_never_stops_an_engine(markup: str, engine: str) -> None:
    html.extract(markup, engine).text.encode()


def test_hostile_pages_cost_no_more_than_themselves(given, rows, store, local) -> None:
    crawl = Crawl()
    crawl.add("http://h.test/good", page(PROSE).encode())
    crawl.add("http://h.test/nul", page(f"{PROSE}\x00\x00 and more of it").encode())
    crawl.add("http://h.test/surrogate", page(f"{PROSE} &#xD800; &#56320; end").encode())
    crawl.add("http://h.test/empty", b"")
    crawl.add("http://h.test/blank", page("").replace("A title", "").encode())
    crawl.add("http://h.test/broken", f"<html><body><table><tr><td><div><p>{PROSE}<script>var a = '</di".encode())
    crawl.add("http://h.test/deep", (b"<div>" * 30_000) + PROSE.encode())
    crawl.add("http://h.test/wide", f"<table><tr><td colspan=9007199254740992>{PROSE}</td></tr></table>".encode())
    crawl.add("http://h.test/zipped", gzip.compress(page(PROSE).encode()), encoding="gzip")
    crawl.add("http://h.test/korean", page(KOREAN * 5).encode("euc-kr"), charset_="utf-8")
    crawl.add("http://h.test/plain", (PROSE + "\r\n\r\n" + PROSE).encode(), header="text/plain")
    crawl.add("http://h.test/feed", b"<rss/>", header="application/rss+xml")
    crawl.add("http://h.test/large", page(PROSE * 6000).encode())
    crawl.add("http://h.test/lost", b"", warc_offset=7)
    crawl.add("http://h.test/nowhere", b"", warc_file="warc/none.warc.gz")
    crawl.add("http://h.test/404", b"", outcome="http_error")
    crawl.add("http://h.test/robots", b"", outcome="robots", warc_file="", warc_offset=None)
    crawl.add("http://h.test/last", page(unicodedata.normalize("NFD", "Crème brûlée " * 10)).encode())
    config = ExtractConfig(max_bytes=600_000, seconds=1)
    made = run(EXTRACT, config, {"pages": crawl.artifact(given)}, store, local)
    documents, aside = {r["url"]: r for r in rows(made.shards)}, {r["url"]: r["reason"] for r in rows(made.side("set_aside"))}
    counts = made.counts
    assert aside["http://h.test/deep"] == "timeout"
    assert counts["read"] == 18
    assert counts["removed.not_ok"] == 2
    assert counts["kept"] + len(aside) + 2 == 18
    assert aside["http://h.test/empty"] == aside["http://h.test/blank"] == "empty"
    assert aside["http://h.test/feed"] == "not_html"
    assert aside["http://h.test/large"] == "too_large"
    assert aside["http://h.test/lost"] == aside["http://h.test/nowhere"] == "missing_record"
    for name in ("good", "nul", "surrogate", "broken", "wide", "zipped", "plain"):
        assert PROSE in documents[f"http://h.test/{name}"]["text"], name
    assert KOREAN in documents["http://h.test/korean"]["text"]
    assert unicodedata.normalize("NFC", "Crème brûlée") in documents["http://h.test/last"]["text"]
    assert documents["http://h.test/good"]["title"] == "A title"
    assert documents["http://h.test/good"]["id"] == document_id("http://h.test/good")
    assert [r["url"] for r in rows(made.shards)] == [r["url"] for r in crawl.rows if r["url"] in documents]
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS
    assert shards.read(made.side("set_aside")[0]).schema.remove_metadata() == SET_ASIDE


def test_the_same_pages_give_the_same_bytes(given, content, tmp_path: Path, local) -> None:
    from infra.store import Store

    crawl = Crawl()
    for number in range(6):
        crawl.add(f"http://h.test/{number}", page(f"{PROSE} {number}").encode())
    pages = crawl.artifact(given)
    made = [content(run(EXTRACT, ExtractConfig(), {"pages": pages}, Store(tmp_path / name), local)) for name in "ab"]
    assert made[0] == made[1]


HANGING = """
import data_prep.corpus.html as html, time, ctypes
def hang(markup, engine="best", least=1, meanwhile=None):
    if "spin" in markup:
        while True: pass
    if "crash" in markup: ctypes.string_at(0)
    if "hog" in markup: return html.Found("", "x" * (64 << 30))
    if "raise" in markup: raise KeyError("parser")
    if "print" in markup: print("not an answer")
    return html.Found("", "fine enough")
html.extract = hang
"""


def test_a_page_that_spins_crashes_or_hogs_costs_its_own_answer_only(monkeypatch) -> None:
    from data_prep.corpus import child

    monkeypatch.setattr(child, "_START", child._START.replace("from data_prep", f"exec({HANGING!r}); from data_prep"))
    with Reader(1, 2048) as reader:
        started = time.monotonic()
        reasons = [
            reader.ask(QUESTION, b"page that does " + word).reason for word in (b"spin", b"print", b"crash", b"raise", b"hog", b"nothing")
        ]
        assert time.monotonic() - started < 30
    assert reasons == ["timeout", "", "crashed", "parse_error", "memory", ""]


def test_one_child_reads_many_pages_and_is_changed_now_and_then(monkeypatch) -> None:
    from data_prep.corpus import child

    monkeypatch.setattr(child, "PAGES_PER_CHILD", 3)
    pids = []
    with Reader(5, 2048) as reader:
        for _ in range(7):
            assert reader.ask(QUESTION, page(PROSE).encode()).text.endswith(PROSE)
            pids.append(reader._child.pid)
    assert len(set(pids)) == 3
    assert reader._child is None


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no engine 'lynx'"):
        ExtractConfig(engine="lynx")
    with pytest.raises(ConfigError, match="at least 1"):
        ExtractConfig(seconds=0)


def test_a_shard_without_pages_is_a_shard_without_documents(given, store, local) -> None:
    made = run(EXTRACT, ExtractConfig(), {"pages": given([[]], schemas.PAGES)}, store, local)
    assert (made.counts["read"], made.counts["kept"]) == (0, 0)
    assert pa.ipc.open_file(made.shards[0].read_bytes()).num_record_batches >= 0
