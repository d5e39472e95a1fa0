"""What each filter rule removes of clean texts of several kinds, asked alone: all rules of every document, and with the defaults.

    python tests/benchmarks/bench_filter_kinds.py --data FOLDER [--examples RULE]

Prints the table of docs/guides/filters.md; --examples prints up to 20 texts that a rule removes of each kind, to be read.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data_prep.corpus import mediawiki, words
from data_prep.corpus.filter import FilterConfig, rules_of
from data_prep.corpus.language import detect
from data_prep.corpus.rules import Batch

REVIEWS = 20_000
SHOWN = 20
PUBLISHED = FilterConfig(languages=(), min_share_words=0, min_share_lines=0, min_words=50, max_words=100_000)


def rows(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (json.loads(line)["text"] for line in file)


def kinds(data: Path) -> Iterator[tuple[str, list[str]]]:
    text = data / "text"
    yield "books", list(rows(text / "en/books.jsonl.gz"))
    yield "English film reviews", list(rows(text / "en/movie-reviews.jsonl.gz"))
    yield "Korean film reviews", [one for one in itertools.islice(rows(text / "ko/naver-movie-reviews.jsonl.gz"), REVIEWS) if one]
    yield "speeches", list(rows(text / "en/state-of-the-union.jsonl.gz"))
    with bz2.open(text / "en/enwiki-pages-articles-shortened.xml.bz2") as stream:
        yield "Wikipedia", [page.text for page in mediawiki.pages(stream) if page.text]
    wikitext = gzip.decompress((text / "en/wikitext-2-valid.txt.gz").read_bytes()).decode()
    yield "tokenized Wikipedia", [part for part in wikitext.split("\n = ") if len(part.split()) > 1]
    yield "declaration, 387 languages", [one for one in rows(text / "other/udhr.jsonl.gz") if one]
    yield "web pages", list(rows(text / "en/cc-en-head-0091.jsonl.gz"))


def removed(texts: list[str], config: FilterConfig) -> dict[str, list[str]]:
    """By rule, what it removes. No text has a URL."""
    languages, done, found = [detect(text) for text in texts], 0, {rule.name: list[str]() for rule in rules_of(config)}
    for batch in words.batches(pa.chunked_array([pa.array(texts, pa.string())])):
        looked = Batch(batch, languages[done : done + len(batch)], pages=pa.array([False] * len(batch)).to_numpy(zero_copy_only=False))
        for rule in rules_of(config):
            found[rule.name] += [text for text, bad in zip(batch.to_pylist(), rule.broken(looked)[0], strict=True) if bad]
        done += len(batch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TEXTMILL_TEST_DATA", "data")))
    parser.add_argument("--examples", default="", metavar="RULE")
    options = parser.parse_args()
    cells: dict[str, dict[str, str]] = {}
    heads = []
    for kind, texts in kinds(options.data):
        before, after = (removed(texts, config) for config in (PUBLISHED, FilterConfig(languages=())))
        heads.append(f"{kind} ({len(texts):,})")
        for rule in before:
            if before[rule] or after.get(rule):
                shares = (100 * len(each.get(rule, [])) / len(texts) for each in (before, after))
                cells.setdefault(rule, {})[heads[-1]] = ", ".join(f"{share:.1f}" for share in shares)
        for text in after.get(options.examples, [])[:SHOWN]:
            print(f"[{kind}] {text[:300]!r}")
    if not options.examples:
        print(f"| rule | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
        for rule, row in cells.items():
            print(f"| `{rule}` | {' | '.join(row.get(head, '') for head in heads)} |")


if __name__ == "__main__":
    main()
