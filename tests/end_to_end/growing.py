"""Three days of a growing corpus on a real site, run by the real command, and one run on all of it to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.mini import Place, shards, table
from tests.end_to_end.test_flink import HOST, reachable, serve, unpacked
from tests.faults.web import Web, serving

RECIPE = """\
name: days
corpus:
  grow: GROW
  sources:
    - {kind: urls, path: "LISTS"}
  links: {shards: 2}
  crawl: {contact: me@example.org, per_host_delay_s: 0.0, backoff_s: 0.05, allow_networks: [127.0.0.0/8]}
  filter: {languages: [en, zh], min_words: 30}
TAKEDOWN
resources:
  connect_to: {flink.apache.org: "ADDRESS"}
"""
TOKENS = """\
tokenizers:
  gpt2: {kind: import, files: [FILES]}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: gpt2, pretrain: {tokens: 2048, batch_tokens: 512, length: 64}}
"""
DAYS = ("2026-11-24", "2026-11-25", "2026-11-26")


@dataclass(frozen=True)
class Day:
    """What the web was asked for, the corpus afterwards, and where every stage's artifact stands."""

    asked: list[str]
    corpus: dict[str, str]
    made: dict[str, Path]


@dataclass(frozen=True)
class Days:
    """grown: where the days were run; once: where one run took everything. lists: the URLs of each day."""

    grown: Place
    once: Place
    lists: tuple[list[str], ...]
    seen: list[Day]
    web: Web


def write(place: Place, web: Web, name: str, lists: str, *, grow: bool, more: str = "", takedown: str = "") -> str:
    text = RECIPE.replace("GROW", str(grow).lower()).replace("LISTS", lists).replace("ADDRESS", web.where)
    text = text.replace("TAKEDOWN", f"  takedown: {takedown}" if takedown else "")
    (place.folder / name).write_text(text + more)
    return name


def corpus(place: Place) -> dict[str, str]:
    """URL -> text of the newest run's corpus."""
    return {row["url"]: row["text"] for row in table(shards(made(place)["dedup"]))}


def made(place: Place) -> dict[str, Path]:
    return {row["label"]: place.made(row) for row in place.rows()}


def put_list(place: Place, date: str, lines: list[str]) -> None:
    (place.folder / f"day-{date}.txt").write_text("".join(f"{line}\n" for line in lines) or "\n")


@contextmanager
def three_days(data: Path, folder: Path) -> Iterator[Days]:
    """Every second page; the other ones and twenty again; nothing new."""
    grown, once = Place(folder / "grown"), Place(folder / "once")
    once.folder.mkdir(parents=True)
    tree = unpacked(data, grown.folder / "site")
    urls = sorted(f"http://{HOST}/{file.relative_to(tree).as_posix()}" for file in reachable(tree))
    lists = (urls[::2], urls[1::2] + urls[:40:2], [])
    seen = []
    with serving() as web:
        serve(web, tree)
        recipe = write(grown, web, "days.yaml", "day*.txt", grow=True)
        for date, lines in zip(DAYS, lists, strict=True):
            put_list(grown, date, lines)
            web.asked.clear()
            grown.run("run", recipe, "--plain", "--until", "dedup", "--set", f"date={date}")
            asked = [path for host, path in web.asked if host == HOST and path != "/robots.txt"]
            seen.append(Day(asked, corpus(grown), made(grown)))
        (once.folder / "all.txt").write_text("".join(f"{line}\n" for line in lists[0] + lists[1]))
        once.run("run", write(once, web, "once.yaml", "all.txt", grow=False), "--plain", "--until", "dedup")
        yield Days(grown, once, lists, seen, web)
