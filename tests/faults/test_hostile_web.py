"""The web at its worst, through the whole corpus: nothing stops the run, everything is counted, the good documents come through.

The crawler's threats one by one: tests/data_prep/corpus/crawling/test_threats.py.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.end_to_end.mini import Place, Row, counts, shards, table
from tests.faults.web import DEAD, Web, cut, page, serving

GOOD, BAD, GONE = "good.test", "bad.test", "gone.test"
MB = 1 << 20
RECIPE = """\
name: hostile
corpus:
  sources:
    - {kind: submissions, path: posts.jsonl, min_karma: 3}
    - {kind: urls, path: urls.txt}
  links: {shards: 2}
  crawl: {contact: me@example.org, per_host_delay_s: 0.0, backoff_s: 0.02, page_timeout_s: 20, allow_networks: [127.0.0.0/8]}
  filter: {languages: [en], min_words: 40}
"""
WORDS = """river mountain paper garden window teacher engine morning winter letter picture market bridge village doctor kitchen story
people answer music shoulder harbour question season weather journey candle forest island machine pocket silver summer""".split()  # noqa: SIM905
JOINTS = "the of and with to that a in for from was is by on at as his her their every".split()  # noqa: SIM905


def prose(number: int, sentences: int = 12) -> str:
    """English enough for every rule, and no two alike."""
    rng = random.Random(number)

    def some() -> str:
        words = [word for noun in rng.sample(WORDS, 7) for word in (rng.choice(JOINTS), noun)]
        return f"{' '.join(words).capitalize()}."

    return " ".join(some() for _ in range(sentences))


def html(text: str, title: str = "A page", head: str = "") -> str:
    body = f"<article><h1>{title}</h1><p>{text}</p></article>"
    return f"<!DOCTYPE html><html><head><title>{title}</title>{head}</head><body>{body}</body></html>"


def bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    chunk = b"<p>boom</p>" * 10_000
    return b"".join(packer.compress(chunk) for _ in range(size // len(chunk))) + packer.flush()


BROKEN = (
    "<html><head><title>Broken</title><body><div><p>" + prose(101) + "<p><b><i>" + prose(102) + "</b></td></table></div></p>"
    "<script>if (a < b) { document.write('<p>') }<p>\x00\x01" + "<div>" * 3000 + prose(103) + "<!-- never closed <p>lost"
).encode()
ACCENTS = "The café in the old façade of Zürich was naïve about its crème brûlée. "
FOREIGN = {
    "/latin-in-utf8": page(html(ACCENTS + prose(201)).encode("latin-1"), kind="text/html; charset=utf-8"),
    "/utf8-in-latin": page(html(ACCENTS + prose(202)).encode(), kind="text/html; charset=iso-8859-1"),
    "/no-such-charset": page(html(ACCENTS + prose(203)).encode(), kind="text/html; charset=utf-99"),
    "/meta-lies": page(html(ACCENTS + prose(204), head='<meta charset="iso-8859-1">').encode(), kind="text/html"),
}


def fill(web: Web) -> None:
    web.pages |= {(GOOD, f"/{n}.html"): page(html(prose(n), f"Page {n}").encode()) for n in range(12)}
    web.pages[GOOD, "/twin.html"] = web.pages[GOOD, "/3.html"]
    web.pages |= {(BAD, path): send for path, send in FOREIGN.items()}
    web.pages |= {
        (BAD, "/broken.html"): page(BROKEN),
        (BAD, "/empty.html"): page(b""),
        (BAD, "/blank.html"): page(b" \n\t " * 50),
        (BAD, "/noise.html"): page(random.Random(5).randbytes(60_000), kind="text/html"),
        (BAD, "/endless.html"): web.flood(b"<p>" + b"words and words " * 4096 + b"</p>", 800),
        (BAD, "/large.html"): web.flood(b"<p>" + b"words and words " * 4096 + b"</p>", 800, declared=True),
        (BAD, "/bomb.html"): page(bomb(300 * MB), Content_Encoding="gzip"),
        (BAD, "/not-gzip.html"): page(html(prose(301)).encode(), Content_Encoding="gzip"),
        (BAD, "/half.html"): cut(html(prose(302)).encode(), 1_000_000),
        (BAD, "/picture"): page(b"\x89PNG\r\n", kind="image/png"),
        (BAD, "/teapot"): page(b"<p>short and stout</p>", status=418),
    }


def posts() -> bytes:
    """A dump with good posts, one that nobody liked, and lines that are no posts."""
    good = [{"url": f"http://{GOOD}/{n}.html", "score": 3 + n, "title": f"Page {n}", "is_self": False} for n in range(12)]
    lines = [json.dumps(post).encode() for post in [*good, {**good[0], "url": f"http://{GOOD}/disliked.html", "score": 2}]]
    damaged = [lines[4][:41], b"\xff\xfe\x00 not even text", b"[]", b'{"url": 9}', json.dumps({**good[1], "score": "many"}).encode()]
    return b"\n".join(lines[:6] + damaged + lines[6:]) + b"\n"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data) -> None:
        if self.rows and data.strip():
            self.rows[-1] += f"{data.strip()} | "


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory):
    """The run, what the server sent, and the most memory the command held."""
    place = Place(tmp_path_factory.mktemp("hostile"))
    with serving() as web:
        fill(web)
        (place.folder / "posts.jsonl").write_bytes(posts())
        listed = sorted({(host, path) for host, path in web.pages} - {(GOOD, f"/{n}.html") for n in range(12)})
        urls = [f"http://{host}{path}" for host, path in listed] + [f"http://{GONE}/{n}" for n in range(3)] + ["no url", "http://[bad/"]
        (place.folder / "urls.txt").write_text("\n".join(urls) + "\n")
        reach = "".join(f"    {host}: '{where}'\n" for host, where in ((GOOD, web.where), (BAD, web.where), (GONE, DEAD)))
        (place.folder / "hostile.yaml").write_text(f"{RECIPE}resources:\n  connect_to:\n{reach}")
        process = place.start("run", "hostile.yaml", "--plain", "--until", "dedup")
        most = watched(process.pid)
        told = process.communicate()
    assert process.returncode == 0, told
    assert "Traceback" not in told[1]
    return place, web, most[0]


def watched(pid: int) -> list[int]:
    """The most bytes the process ever held, kept up to date; the kernel's ru_maxrss would begin with what its parent held."""
    most = [0]

    def look() -> None:
        while (status := Path(f"/proc/{pid}/status")).exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
            most[0] = max(most[0], int(found[1]) * 1024)
            time.sleep(0.05)

    threading.Thread(target=look, daemon=True).start()
    return most


@pytest.fixture
def artifacts(survived) -> dict[str, Path]:
    return {row["label"]: survived[0].made(row) for row in survived[0].rows()}


@pytest.fixture
def pages(artifacts: dict[str, Path]) -> dict[str, Row]:
    return {row["url"].removeprefix(f"http://{BAD}"): row for row in table(shards(artifacts["crawl"]))}


def test_the_run_goes_through_to_its_end_and_says_so(survived) -> None:
    place = survived[0]
    assert [row["state"] for row in place.rows()] == ["done"] * 5
    assert json.loads((place.newest() / "status.json").read_text())["state"] == "done"


def test_damaged_lines_of_a_dump_are_counted_and_kept_with_their_place(artifacts: dict[str, Path]) -> None:
    told, aside = counts(artifacts["links"]), table(shards(artifacts["links"], "set_aside"))
    assert sorted(row["source"] for row in aside) == sorted(f"posts.jsonl:{line}" for line in range(7, 12))
    assert sum(number for name, number in told.items() if name.startswith("set_aside.")) == 5
    assert told["removed.low_karma"] == 1 and told["removed.bad_url"] == 2
    assert all(row["reason"] and row["line"] for row in aside)


def test_every_url_ends_as_a_row_with_what_became_of_it(pages: dict[str, Row], artifacts: dict[str, Path]) -> None:
    outcomes = {url: row["outcome"] for url, row in pages.items()}
    assert {outcomes[f"http://{GONE}/{n}"] for n in range(3)} == {"dead_host"}
    assert outcomes["/endless.html"] == outcomes["/large.html"] == "too_large"
    assert outcomes["/bomb.html"] == "bomb"
    assert outcomes["/picture"] == "not_text" and outcomes["/teapot"] == "http_error"
    assert all(outcomes[path] == "ok" for path in (*FOREIGN, "/broken.html", "/empty.html", "/blank.html", "/noise.html"))
    assert {outcomes[f"http://{GOOD}/{n}.html"] for n in range(12)} == {"ok"}
    assert len(pages) == counts(artifacts["crawl"])["read"] == counts(artifacts["links"])["kept"]
    told = counts(artifacts["crawl"])
    for name in ("too_large", "bomb", "not_text", "http_error", "dead_host"):
        assert told[f"removed.{name}"] == sum(outcome == name for outcome in outcomes.values())


def test_large_pages_are_let_go_and_never_held(survived) -> None:
    """Of 50 MB the crawler takes 10 and hangs up; a page that says its length is not even begun."""
    _, web, most = survived
    assert 10 * MB <= web.sent[BAD, "/endless.html"] < 25 * MB
    assert web.sent[BAD, "/large.html"] < 8 * MB
    assert 50 * MB < most < 800 * MB, f"{most / MB:.0f} MB"


def test_text_in_a_wrong_charset_is_read_right(artifacts: dict[str, Path]) -> None:
    texts = {row["url"]: row["text"] for row in table(shards(artifacts["extract"]))}
    for path in FOREIGN:
        assert ACCENTS.strip() in texts[f"http://{BAD}{path}"], path


def test_what_holds_no_text_is_set_aside_with_its_reason(artifacts: dict[str, Path]) -> None:
    aside = {row["url"].removeprefix(f"http://{BAD}"): row["reason"] for row in table(shards(artifacts["extract"], "set_aside"))}
    assert aside["/empty.html"] == aside["/blank.html"] == "empty"
    assert "/noise.html" in aside
    told = counts(artifacts["extract"])
    assert sum(number for name, number in told.items() if name.startswith("set_aside.")) == len(aside)


def test_good_documents_and_the_text_of_broken_html_come_through(artifacts: dict[str, Path]) -> None:
    kept = {row["url"]: row["text"] for row in table(shards(artifacts["dedup"]))}
    for n in range(12):
        found = kept.get(f"http://{GOOD}/{n}.html", "") or (kept[f"http://{GOOD}/twin.html"] if n == 3 else "")
        assert prose(n) in found, n
    assert (f"http://{GOOD}/twin.html" in kept) + (f"http://{GOOD}/3.html" in kept) == 1
    broken = kept[f"http://{BAD}/broken.html"]
    assert prose(101) in broken and prose(102) in broken and "document.write" not in broken and "\x00" not in broken
    assert "/disliked.html" not in str(list(kept))
    assert not any("boom" in text or "words and words" in text for text in kept.values())


def test_the_report_shows_what_was_lost_and_why(survived, artifacts: dict[str, Path]) -> None:
    text = _Text()
    text.feed((survived[0].newest() / "report.html").read_text())
    for stage in ("links", "crawl", "extract"):
        for name, number in counts(artifacts[stage]).items():
            kind, _, rule = name.partition(".")
            if kind in ("removed", "set_aside") and number:
                aside = "set aside | " if kind == "set_aside" else ""
                assert any(row.startswith(f"{stage} | {rule} | {aside}{number} |") for row in text.rows), (stage, name)
    for outcome in ("too_large", "bomb", "dead_host", "not_text", "http_error"):
        assert any(row.startswith(f"{outcome} | ") for row in text.rows), outcome
    assert any("posts.jsonl:7" in row for row in text.rows), "an example of a damaged line"
    kept = counts(artifacts["dedup"])["kept"]
    assert any(row.startswith(f"dedup | {counts(artifacts['dedup'])['read']} | {kept} |") for row in text.rows)
