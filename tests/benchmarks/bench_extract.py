"""Main text of real pages: how good and how fast each engine is, ours beside trafilatura, on one core, in process CPU time.

    python tests/benchmarks/bench_extract.py --data FOLDER

FOLDER is the test data (default: TEXTMILL_TEST_DATA). The engines take turns, set by set and repeat by repeat, so that whatever else
the machine does falls on all of them; the fastest repeat counts. Prints two Markdown tables: quality, then pages a second with the
ratio to trafilatura; --stage adds the whole stage, from WARC to documents. --cross-validate prints what the constants of extraction give
on sites that did not choose them (extract_sites.py).
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import re
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

Bag = collections.Counter[str]
Engine = Callable[[str], str]
PEER, PRECISE = "trafilatura, default", "trafilatura, favor_precision"


@dataclass(frozen=True)
class Page:
    """markup, its site, and what is known of it: its text as a bag of words, or strings that should and should not be in it."""

    body: bytes
    markup: str
    gold: Bag | None = None
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    site: str = ""


def bag(text: str) -> Bag:
    return collections.Counter(re.findall(r"\w+", text.lower()))


def host(url: str) -> str:
    return (urlsplit(url).hostname or url).removeprefix("www.")


def page(body: bytes, **known: object) -> Page:
    from data_prep.corpus import charset

    return Page(body, charset.decode(body).text, **known)


def articles(folder: Path) -> list[Page]:
    gold = json.loads((folder / "web/articles/ground-truth.json").read_text())
    files = ((folder / f"web/articles/html/{name}.html.gz", entry) for name, entry in gold.items())
    return [page(gzip.decompress(path.read_bytes()), gold=bag(entry["articleBody"]), site=host(entry["url"])) for path, entry in files]


def packed(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive if member.isfile()}


def snippets(folder: Path) -> list[Page]:
    told = json.loads((folder / "web/snippet-pages/evaldata.json").read_text())
    files = packed(folder / "web/snippet-pages/pages.tar.gz")
    return [page(files[e["file"]], wanted=tuple(e["with"]), unwanted=tuple(e["without"]), site=host(url)) for url, e in told.items()]


def readability(folder: Path) -> list[Page]:
    from lxml.html import fromstring

    files = packed(folder / "web/readability-pages/pages.tar.gz")
    found = []
    for name in sorted(name for name in files if name.endswith("/source.html")):
        expected = files[name.replace("source.html", "expected.html")].decode("utf-8", "replace")
        gold = bag(" ".join(fromstring(expected).itertext()))
        found.append(page(files[name], gold=gold, site="readability:" + re.sub(r"-\d+$", "", name.split("/")[0])))
    return found


def engines() -> dict[str, Engine]:
    import trafilatura

    from data_prep.corpus import html

    def peer(**settings: bool) -> Engine:
        return lambda markup: trafilatura.extract(markup, include_comments=False, **settings) or ""

    ours: dict[str, Engine] = {f"textmill, `{name}`": lambda markup, name=name: html.extract(markup, name).text for name in html.ENGINES}
    return {**ours, PEER: peer(), PRECISE: peer(favor_precision=True)}


def timed(
    chosen: dict[str, Engine], sets: dict[str, list[Page]], repeats: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[str]]]]:
    """Pages a second and texts, by engine and set."""
    best: dict[str, dict[str, float]] = {name: {} for name in chosen}
    texts: dict[str, dict[str, list[str]]] = {name: {} for name in chosen}
    for name, engine in chosen.items():  # what is imported or built at the first page is not counted
        for each in next(iter(sets.values()))[:8]:
            engine(each.markup)
    for _ in range(repeats):
        for title, pages in sets.items():
            for name, engine in chosen.items():
                started = time.process_time()
                texts[name][title] = [engine(each.markup) for each in pages]
                speed = len(pages) / (time.process_time() - started)
                best[name][title] = max(speed, best[name].get(title, 0.0))
    return best, texts


def against_gold(texts: list[str], pages: list[Page]) -> tuple[float, float, float]:
    """Mean F1, precision and recall of bags of words."""
    rows = []
    for text, each in zip(texts, pages, strict=True):
        found, gold = bag(text), each.gold or collections.Counter()
        common, ours, theirs = (sum(c.values()) for c in (found & gold, found, gold))
        rows.append(
            (2 * common / (ours + theirs) if ours + theirs else 1.0, common / ours if ours else 0.0, common / theirs if theirs else 0.0)
        )
    return tuple(statistics.mean(column) for column in zip(*rows, strict=True))


def quality(texts: dict[str, dict[str, list[str]]], sets: dict[str, list[Page]]) -> str:
    lines = ["| engine | articles F1 | P | R | wanted | unwanted | readability F1 | P | R |", "|---|---|---|---|---|---|---|---|---|"]
    totals = [sum(len(getattr(each, kind)) for each in sets["snippets"]) for kind in ("wanted", "unwanted")]
    for name, found in texts.items():
        cells = [f"{value:.3f}" for value in against_gold(found["articles"], sets["articles"])]
        for kind, total in zip(("wanted", "unwanted"), totals, strict=True):
            kept = sum(told in text for text, each in zip(found["snippets"], sets["snippets"], strict=True) for told in getattr(each, kind))
            cells.append(f"{kept} of {total}")
        cells += [f"{value:.3f}" for value in against_gold(found["readability"], sets["readability"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def speeds(best: dict[str, dict[str, float]]) -> str:
    titles = list(next(iter(best.values())))
    lines = ["| engine | " + " | ".join(f"{title}, pages/s | to default | to favor_precision" for title in titles) + " |"]
    lines.append("|---|" + "---|---|---|" * len(titles))
    for name, found in best.items():
        cells = [f"{found[t]:.0f} | {found[t] / best[PEER][t]:.1f}x | {found[t] / best[PRECISE][t]:.1f}x" for t in titles]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cross_validated(sets: dict[str, list[Page]]) -> str:
    """A table of what the constants give on sites that did not choose them, and of trafilatura on the same pages."""
    import extract_sites

    kinds = {id(each): title for title, pages in sets.items() for each in pages}

    def score(text: str, each: Page) -> collections.Counter[str]:
        if kinds[id(each)] == "snippets":
            kept = {kind: sum(told in text for told in getattr(each, kind)) for kind in ("wanted", "unwanted")}
            return collections.Counter(kept | {f"{kind}_total": len(getattr(each, kind)) for kind in kept})
        name, count = ("article_f1", "articles") if kinds[id(each)] == "articles" else ("readability_f1", "readability")
        return collections.Counter({name: extract_sites.f1(bag(text), each.gold or collections.Counter()), count: 1})

    pages = [each for pages in sets.values() for each in pages]
    scored, chosen, choices = extract_sites.cross_validate(pages, score)
    peers = {name: engine for name, engine in engines().items() if name in (PEER, PRECISE)}
    lines = [
        f"Chosen by all sites that choose: {chosen}",
        *(f"{count} sites left out: {choice}" for choice, count in choices.most_common()),
    ]
    lines += ["", "| engine | sites | articles F1 | wanted | unwanted | readability F1 |", "|---|---|---|---|---|---|"]
    lines += extract_sites.report(scored, "textmill, cross-validated")
    for name, engine in peers.items():
        lines += extract_sites.report([(each.site, score(engine(each.markup), each)) for each in pages], name)
    return "\n".join(lines)


def stage(pages: list[Page]) -> str:
    """The stage on one shard: CPU milliseconds a page of the reading process and of its child, which starts once."""
    import pyarrow as pa

    from data_prep import schemas, shards
    from data_prep.corpus.extract import ExtractConfig, read_pages

    with tempfile.TemporaryDirectory() as name:
        folder, rows, warc = Path(name), [], b""
        for number, each in enumerate(pages):
            block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + each.body
            head = "WARC/1.1\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
            head += f"Content-Length: {len(block)}\r\n\r\n"
            facts = {"url": f"http://h.test/{number}", "host": "h.test", "outcome": "ok", "content_type": "text/html", "source": ""}
            rows.append(dict.fromkeys(schemas.PAGES.names) | facts | {"warc_file": "a.warc.gz", "warc_offset": len(warc)})
            warc += gzip.compress(head.encode() + block + b"\r\n\r\n", 6, mtime=0)
        (folder / "a.warc.gz").write_bytes(warc)
        shards.write(pa.Table.from_pylist(rows, schema=schemas.PAGES), folder / shards.name(0))
        before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        made = read_pages(ExtractConfig(), folder / shards.name(0), folder)
        after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    reader, child = (1e3 * (b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime) / len(pages) for a, b in zip(before, after, strict=True))
    return f"The whole stage: {reader:.2f} + {child:.2f} ms a page, {1e3 / (reader + child):.0f} pages/s a core; {made.counts}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cross-validate", action="store_true", help="leave-one-site-out cross-validation of the constants, and no timing")
    parser.add_argument("--stage", action="store_true", help="the whole stage too")
    options = parser.parse_args()
    if not options.data:
        parser.error("no test data: give --data or set TEXTMILL_TEST_DATA")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    folder = Path(options.data)
    sets = {"articles": articles(folder), "snippets": snippets(folder), "readability": readability(folder)}
    if options.cross_validate:
        print(cross_validated(sets))
        return
    best, texts = timed(engines(), sets, options.repeats)
    print(", ".join(f"{len(pages)} {title}" for title, pages in sets.items()) + "\n")
    print(quality(texts, sets) + "\n")
    print(speeds(best))
    if options.stage:
        print("\n" + stage([each for pages in (sets["articles"], sets["snippets"]) for each in pages] * 4))


if __name__ == "__main__":
    main()
