from __future__ import annotations

import codecs
import collections
import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import unicodedata
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from lxml.html import fromstring

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
        ours, theirs = words(text), words(entry["articleBody"])
        common = sum((ours & theirs).values())
        scores.append(2 * common / (sum(ours.values()) + sum(theirs.values())))
    mean, speed = sum(scores) / len(scores), len(scores) / (time.process_time() - started)
    with capsys.disabled():
        print(f"\n{engine}: F1 {mean:.4f} on {len(scores)} articles, {speed:.0f} pages/s")
    assert mean >= {"best": 0.975, "trafilatura": 0.967, "resiliparse": 0.92}[engine]


def test_best_keeps_the_snippets_that_belong_to_a_page_and_few_others(data: Path) -> None:
    told = json.loads((data / "web/snippet-pages/evaldata.json").read_text())
    with tarfile.open(data / "web/snippet-pages/pages.tar.gz") as archive:
        files = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}
    wanted = unwanted = 0
    for entry in told.values():
        text = html.extract(charset.decode(files[entry["file"]]).text).text
        wanted += sum(snippet in text for snippet in entry["with"])
        unwanted += sum(snippet in text for snippet in entry["without"])
    assert wanted >= 385  # of 408
    assert unwanted <= 31  # of 410


def test_best_agrees_with_what_a_browser_shows_as_an_article(data: Path) -> None:
    with tarfile.open(data / "web/readability-pages/pages.tar.gz") as archive:
        files = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}
    scores = []
    for name in sorted(name for name in files if name.endswith("/source.html")):
        expected = fromstring(files[name.replace("source.html", "expected.html")].decode("utf-8", "replace"))
        ours, theirs = (words(text) for text in (html.extract(charset.decode(files[name]).text).text, " ".join(expected.itertext())))
        scores.append(2 * sum((ours & theirs).values()) / (sum(ours.values()) + sum(theirs.values()) or 1))
    assert sum(scores) / len(scores) >= 0.96


def words(text: str) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"\w+", text.lower()))


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
        (b"<meta http-equiv='Content-Type' content='text/html; charset=koi8-r'>" + RUSSIAN.encode("koi8-r"), "", None, "meta"),
        (GERMAN.encode("cp1252"), "latin-1", GERMAN, "header"),  # a label that everyone, and the standard, reads as windows-1252
        (GERMAN.encode("cp1252"), "iso-8859-1", GERMAN, "header"),
        (GERMAN.encode(), "iso-8859-1", GERMAN, "header, contradicted"),  # mojibake, were the header believed
        (RUSSIAN.encode("cp1251") * 5, "", RUSSIAN * 5, "detected"),
        (KOREAN.encode(), "no-such-charset", KOREAN, "detected"),
        (KOREAN.encode(), "euc-kr", KOREAN, "header, contradicted"),  # the header lies, the bytes decide
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
    crawl.add("http://h.test/moved", b"<meta http-equiv=refresh content='0; url=/new'><p>Moved, please wait for the new page to come.</p>")
    crawl.add("http://h.test/gone", page("It is not here, and we do not know where it is.", "Page not found").encode())
    crawl.add("http://h.test/noise", b"\xef\xbb\xbf" + bytes(range(128, 256)) * 40)
    dated = page(PROSE).replace("<head>", "<head><meta property='article:published_time' content='2020-02-29T10:00:00Z'>")
    crawl.add("http://h.test/dated", dated.encode("utf-16"))
    crawl.add("http://h.test/404", b"", outcome="http_error")
    crawl.add("http://h.test/robots", b"", outcome="robots", warc_file="", warc_offset=None)
    crawl.add("http://h.test/last", page(unicodedata.normalize("NFD", "Crème brûlée " * 10)).encode())
    config = ExtractConfig(max_bytes=600_000, seconds=1)
    made = run(EXTRACT, config, {"pages": crawl.artifact(given)}, store, local)
    documents, aside = {r["url"]: r for r in rows(made.shards)}, {r["url"]: r["reason"] for r in rows(made.side("set_aside"))}
    counts = made.counts
    assert aside["http://h.test/deep"] == "timeout"
    assert counts["read"] == 22
    assert counts["removed.not_ok"] == 2
    assert counts["kept"] + len(aside) + 2 == 22
    assert aside["http://h.test/empty"] == aside["http://h.test/blank"] == "empty"
    assert aside["http://h.test/feed"] == "not_html"
    assert aside["http://h.test/moved"] == "meta_refresh"
    assert aside["http://h.test/gone"] == "soft_404"
    assert aside["http://h.test/noise"] == "undecodable"
    assert [documents["http://h.test/dated"][key] for key in ("date", "charset", "language")] == ["2020-02-29", "utf-16-le", "en"]
    assert [documents["http://h.test/korean"][key] for key in ("date", "charset", "language")] == ["", "cp949", "ko"]
    assert aside["http://h.test/large"] == "too_large"
    assert aside["http://h.test/lost"] == aside["http://h.test/nowhere"] == "missing_record"
    for name in ("good", "nul", "surrogate", "broken", "wide", "zipped", "plain"):
        assert PROSE in documents[f"http://h.test/{name}"]["text"], name
    assert made.counts["replacement_characters"] == sum(row["text"].count("\ufffd") for row in documents.values()) >= 2
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


SUMMED = """
import gzip, pathlib, sys, xxhash
from data_prep.corpus.child import Question, read_page
sums = xxhash.xxh3_64()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.gz"))[::4]:
    sums.update(repr(read_page(Question("", "best", 25), gzip.decompress(path.read_bytes()))).encode())
print(sums.hexdigest())
"""


def test_no_hash_seed_and_no_other_process_changes_a_text(data: Path) -> None:
    command = [sys.executable, "-c", SUMMED, str(data / "web/articles/html")]
    started = [
        subprocess.Popen(
            command, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0] for process in started)
    assert len(first.strip()) == 16
    assert first == second


HANGING = """
import data_prep.corpus.html as html, time, ctypes
def hang(markup, engine="best", least=1, meanwhile=None, **more):
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


SLOW = """
import data_prep.corpus.html as html, ctypes
def slow(body, **settings):
    if b"spin" in body:
        while True: pass
    if b"crash" in body: ctypes.string_at(0)
    if b"raise" in body: raise KeyError("parser")
    if b"nothing" in body: return ""
    return "What the slow engine says of it."
html._trafilatura = slow
"""
DOUBTED = f"{'<div>Words in no paragraph, which only some take for text.</div>' * 20}<p>{PROSE}</p>"


def test_when_the_slow_engine_fails_the_quick_ones_answer_stays_and_is_counted(given, rows, store, local, monkeypatch) -> None:
    from data_prep.corpus import child

    monkeypatch.setattr(child, "_START", child._START.replace("from data_prep", f"exec({SLOW!r}); from data_prep"))
    crawl = Crawl()
    for word in ("well", "spin", "crash", "raise", "nothing", "last"):
        crawl.add(f"http://h.test/{word}", f"<html><body>{DOUBTED}<p>This page: {word}</p></body></html>".encode())
    made = run(EXTRACT, ExtractConfig(seconds=1), {"pages": crawl.artifact(given)}, store, local)
    texts = {row["url"].rpartition("/")[2]: row["text"] for row in rows(made.shards)}
    assert texts["well"] == texts["last"] == "What the slow engine says of it."
    for word in ("spin", "crash", "raise", "nothing"):
        assert texts[word].endswith(f"{PROSE}\nThis page: {word}")
    assert made.counts["cut_short"] == 3
    assert made.counts["kept"] == made.counts["read"] == 6


BOMBS = {
    "colspan": f"<table><tr><td colspan={2**53} rowspan={2**53}>cell</table><p>{PROSE * 8}</p>".encode(),
    "nested": b"<div>" * 100_000 + PROSE.encode(),
    "rows": b"<table>" + b"<tr><td>a b</td></tr>" * 1_000_000,
    "attribute": b"<p class='" + b"x " * 2_000_000 + f"'>{PROSE * 8}</p>".encode(),
    "elements": b"<p>" * 3_000_000,
    "formats": b"<b><i><u>" * 50_000 + PROSE.encode(),
    "links": b"<a href=x>" * 50_000 + PROSE.encode(),
    "lists": b"<ul><li>" * 50_000 + PROSE.encode(),
}


@pytest.mark.parametrize("engine", ["best", "trafilatura"])  # resiliparse is the first that best asks
def test_a_page_made_to_break_a_parser_costs_its_limits_and_its_neighbours_stay(engine: str) -> None:
    good = page("".join(f"</p><p>{number}. {PROSE}" for number in range(9))).encode()
    with Reader(1, 512) as reader:
        for name, body in BOMBS.items():
            answer = reader.ask(Question("utf-8", engine, 1), body)
            assert bool(answer.text) != bool(answer.reason), name
            assert answer.reason in ("", "empty", "timeout", "memory", "parse_error", "crashed"), name
            assert f"8. {PROSE}" in reader.ask(Question("utf-8", engine, 1), good).text, name


def test_a_child_does_not_grow_with_the_pages_it_has_read() -> None:
    bodies = [page("".join(f"</p><p>{number}. {PROSE}" for number in range(n % 90 + 9)) + DOUBTED * (n % 2)).encode() for n in range(100)]
    sizes = []
    with Reader(5, 2048) as reader:
        for _ in range(6):
            for body in bodies:
                assert reader.ask(Question("", "best", 1), body).text
            sizes.append(psutil.Process(reader._child.pid).memory_info().rss >> 20)
    assert sizes[-1] - sizes[0] < 30  # MB; the machinery of all engines is loaded in the first round


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
