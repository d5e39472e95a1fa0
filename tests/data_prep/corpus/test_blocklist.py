"""Hosts, words of URLs and words of texts that a user's lists name."""

from __future__ import annotations

import gzip
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas
from data_prep.corpus import blocklist
from data_prep.corpus import filter as filtering
from data_prep.corpus.filter import FILTER, FilterConfig
from infra.artifact import SourceFile
from infra.errors import StageFailed
from infra.stage import run

NOTHING = FilterConfig(**{f.name: () if isinstance(f.default, tuple) else None for f in fields(FilterConfig)})
HOSTS = """# a comment
bad.example
*.wild.example
.dotted.example.   # and one behind an entry
0.0.0.0 ads.example
127.0.0.1 localhost
BÜCHER.example
10.0.0.7
"""


def listed(path: Path, text: str) -> tuple[SourceFile, ...]:
    path.write_text(text, encoding="utf-8")
    return (SourceFile.of(path),)


@pytest.mark.parametrize(
    ("host", "blocked"),
    [
        ("bad.example", True),
        ("www.bad.example:8080", True),
        ("notbad.example", False),
        ("bad.example.org", False),
        ("wild.example", True),
        ("a.b.wild.example", True),
        ("dotted.example", True),
        ("ads.example", True),
        ("localhost", True),
        ("a.localhost", False),  # a word without a dot is no domain
        ("xn--bcher-kva.example", True),
        ("10.0.0.7", True),
        ("example", False),
    ],
)
def test_a_domain_stands_for_everything_under_it(host: str, blocked: bool, tmp_path: Path) -> None:
    assert blocklist.blocked(host, blocklist.hosts(listed(tmp_path / "hosts.txt", HOSTS))) is blocked


NAMES = st.from_regex(r"[ab]{1,2}(\.[ab]{1,2}){1,4}", fullmatch=True)


@drawn(st.sets(NAMES, max_size=6), NAMES)
def test_a_host_is_blocked_when_it_ends_in_an_entry(entries: set[str], host: str) -> None:
    assert blocklist.blocked(host, frozenset(entries)) == any(host == one or host.endswith(f".{one}") for one in entries)


@pytest.mark.parametrize(
    ("url", "number"),
    [
        ("http://a.test/casino/play", 1),
        ("http://casino-casino.test/Free%20Money", 3),
        ("http://a.test/casinos", 0),
        ("http://a.test/free/money", 1),
        ("http://a.test/freemoney?money=free", 0),
        ("", 0),
    ],
)
def test_words_of_a_url_are_counted(url: str, number: int, tmp_path: Path) -> None:
    assert blocklist.url_words(url, blocklist.phrases(listed(tmp_path / "words.txt", "Casino\nfree money\n#no\n"))) == number


def test_listed_documents_are_rejected_with_their_rule_and_no_text_rule_is_asked(given, rows, store, local, tmp_path) -> None:
    with gzip.open(tmp_path / "more.txt.gz", "wt") as file:
        file.write("worse.example\n")
    hosts = (*listed(tmp_path / "hosts.txt", HOSTS), SourceFile.of(tmp_path / "more.txt.gz"))
    words = listed(tmp_path / "words.txt", "casino\npoker\n")
    addresses = [
        "http://good.example/",
        "http://www.bad.example/x",
        "http://worse.example/",
        "http://a.test/casino",
        "http://a.test/casino/poker",
    ]
    documents = given([[{"url": url, "host": url.split("/")[2], "text": f"Text {number}."} for number, url in enumerate(addresses)]])
    config = replace(NOTHING, block_hosts=hosts, block_url_words=words, max_url_words=1, max_words=0)
    made = run(FILTER, config, {"documents": documents}, store, local)
    told = [(row["url"], row["rule"], row["value"]) for row in rows(made.side("rejected"))]
    assert told == [
        ("http://good.example/", "max_words", 2), ("http://www.bad.example/x", "blocked_host", 1),
        ("http://worse.example/", "blocked_host", 1), ("http://a.test/casino", "max_words", 2),
        ("http://a.test/casino/poker", "url_words", 2),
    ]  # fmt: skip
    assert made.counts["removed.blocked_host"] == 2 and made.counts["kept"] == 0
    (tmp_path / "words.txt").write_text("other")
    blocklist.phrases.cache_clear()
    with pytest.raises(StageFailed, match=r"words\.txt: is not the list"):
        run(FILTER, replace(config, max_url_words=0), {"documents": documents}, store, local)


def test_a_list_named_by_a_language_is_for_its_texts_alone(tmp_path: Path) -> None:
    lists = (*listed(tmp_path / "de", "Gift\n"), *listed(tmp_path / "ko.txt", "나쁜말\n"), *listed(tmp_path / "all.words.txt", "darn\n"))
    config = replace(NOTHING, bad_words=lists)
    texts = ["A gift for you.", "Das ist Gift.", "Oh darn!", "이건 나쁜말 이다", "Ach, darn."]
    names, values = filtering.judge(config, pa.array(texts), ["en", "de", "en", "ko", "de"])
    assert names == ["", "bad_words", "bad_words", "bad_words", "bad_words"]
    assert values[1:].tolist() == [1, 1, 1, 1]
    assert [blocklist.language(file) for file in lists] == ["de", "ko", ""]


def test_a_million_domains_are_one_entry_each(tmp_path: Path) -> None:
    files = listed(tmp_path / "many.txt", "\n".join(f"host{number}.example" for number in range(1_000_000)))
    hosts = blocklist.hosts(files)
    assert len(hosts) == 1_000_000
    assert blocklist.hosts(files) is hosts  # read once a process
    blocklist.hosts.cache_clear()
    row = dict.fromkeys(schemas.DOCUMENTS.names, "") | {"karma": None}
    table = pa.Table.from_pylist([{**row, "host": f"www.host{n}.example"} for n in (5, 1_000_000)], schema=schemas.DOCUMENTS)
    assert filtering.addressed(replace(NOTHING, block_hosts=files), table)[0] == ["blocked_host", ""]
    blocklist.hosts.cache_clear()
