from __future__ import annotations

import csv
import gzip
import html
import io
import json
import re
from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.corpus import urls
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource, deal
from data_prep.schemas import LINKS as COLUMNS
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError
from infra.stage import run


def dump(path, *records) -> SourceFile:
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return SourceFile.of(path)


def rows(artifact) -> list[dict]:
    return [row for shard in artifact.shards for row in shards.read(shard).to_pylist()]


SCORES = {
    "http://a.test/1": (1, 2),
    "http://a.test/2": (2, 2),
    "http://a.test/3": (3,),
    "http://a.test/4": (-1, 4),
    "http://a.test/5": (4, -2),
}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("post", {"http://a.test/3": 3, "http://a.test/4": 4, "http://a.test/5": 4}),
        ("sum", {"http://a.test/1": 3, "http://a.test/2": 4, "http://a.test/3": 3, "http://a.test/4": 3}),
    ],
)
def test_enough_karma_is_one_posts_or_the_sum_as_the_rule_says(store, local, tmp_path, rule, kept) -> None:
    file = dump(tmp_path / "posts.jsonl", *({"url": url, "score": score} for url, scores in SCORES.items() for score in scores))
    made = run(LINKS, LinksConfig((LinkSource("submissions", (file,), karma_rule=rule),), shards=1), {}, store, local)
    assert {row["url"]: row["karma"] for row in rows(made)} == kept


def test_every_line_is_accounted_for(store, local, tmp_path) -> None:
    posts = dump(
        tmp_path / "posts.jsonl",
        {"url": "http://a.test/page", "score": 9},
        {"url": "HTTP://A.test:80/page?utm_source=x#top", "score": 12},
        {"url": "http://a.test/low", "score": 2},
        {"url": "http://a.test/self", "score": 9, "is_self": True},
        {"url": "http://a.test/adult", "score": 9, "over_18": True},
        {"url": "http://a.test/gone", "score": 9, "removed_by_category": "deleted"},
        {"url": "ftp://a.test/", "score": 9},
        {"url": "http://a.test/a.jpg", "score": 9},
        {"url": "http://bad host/", "score": 9},
        {"url": "http://i.imgur.com/x", "score": 9},
        "{broken",
        '{"title": "no url, no score"}',
    )
    lines = dump(tmp_path / "urls.txt", "# a comment", "", "http://a.test/page", "http://b.test/", "not a url", "mailto:x@y.test")
    sources = (
        LinkSource("submissions", (posts,)),
        LinkSource("urls", (lines,)),
        LinkSource("site", url="http://b.test", depth=2, max_pages=7),
    )
    made = run(LINKS, LinksConfig(sources, shards=3, exclude_hosts=("*.imgur.com",)), {}, store, local)
    assert made.counts == {
        "read": 17,
        "kept": 2,
        "hosts": 2,
        "removed.duplicate": 3,
        "removed.low_karma": 1,
        "removed.self_post": 1,
        "removed.over_18": 1,
        "removed.deleted": 1,
        "removed.not_http": 2,
        "removed.media": 1,
        "removed.bad_url": 2,
        "removed.host": 1,
        "set_aside.not_json": 1,
        "set_aside.no_submission": 1,
    }
    found = {row["url"]: row for row in rows(made)}
    assert (found["http://a.test/page"]["karma"], found["http://a.test/page"]["source"]) == (12, "posts.jsonl:2")
    assert found["http://b.test/"]["karma"] is None
    aside = shards.read(made.side("set_aside")[0]).to_pylist()
    assert aside[0] == {"line": "{broken", "source": "posts.jsonl:11", "reason": "not_json"}
    sites = [row for path in made.side("sites") for row in shards.read(path).to_pylist()]
    assert sites == [{"url": "http://b.test/", "host": "b.test", "depth": 2, "max_pages": 7}]


def test_a_bad_line_is_kept_cut_and_whole_in_the_count(store, local, tmp_path) -> None:
    file = dump(tmp_path / "x.jsonl", "ü" * 10_000, {"url": "http://a.test/", "score": 3})
    made = run(LINKS, LinksConfig((LinkSource("submissions", (file,)),), shards=1), {}, store, local)
    assert [len(row["line"]) for row in shards.read(made.side("set_aside")[0]).to_pylist()] == [500]
    assert made.counts["set_aside.not_json"] == made.counts["kept"] == 1


def test_real_posts_pass_the_karma_rule_as_a_plain_reader_counts_them(store, local, data) -> None:
    paths = sorted((data / "urls/reddit-top-2013").glob("*.csv.gz"))
    made = run(LINKS, LinksConfig((LinkSource("submissions", tuple(map(SourceFile.of, paths))),), shards=4), {}, store, local)
    posts = [row for path in paths for row in csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline=""))]
    links = [row for row in posts if row["is_self"] == "False"]
    assert (len(posts), len(posts) - len(links), sum(int(row["score"]) < 3 for row in links)) == (29_674, 2_992, 1_324)
    clean = [row for row in links if row["over_18"] == "False"]
    assert made.counts["read"] == len(posts)
    assert made.counts["removed.self_post"] == len(posts) - len(links)
    assert made.counts["removed.over_18"] == len(links) - len(clean)
    assert made.counts["removed.low_karma"] == sum(int(row["score"]) < 3 for row in clean)
    best: dict[str, int] = defaultdict(lambda: -1)
    for row in clean:
        url = urls.canonical(re.sub("&(?:amp;)+", "&", html.unescape(row["url"])))  # Reddit's API escapes, some posters did before
        if int(row["score"]) >= 3 and url and not urls.is_media(url):
            best[url] = max(best[url], int(row["score"]))
    assert {row["url"]: row["karma"] for row in rows(made)} == best


def test_real_pushshift_posts(store, local, data) -> None:
    source = LinkSource("submissions", (SourceFile.of(data / "urls/pushshift/RS_v2_2005-07.xz"),))
    counts = run(LINKS, LinksConfig((source,), shards=2), {}, store, local).counts
    assert counts["read"] == 1_079 and "removed.deleted" not in counts  # three deleted accounts, whose links are there
    assert counts["removed.low_karma"] == 1_079 - 757


def test_a_host_lies_in_one_shard_and_shards_are_even(store, local, tmp_path) -> None:
    sizes = {f"h{n}.test": 1 + n * n % 17 for n in range(60)}
    lines = [f"http://{host}/{n}" for host, size in sizes.items() for n in range(size)]
    made = run(LINKS, LinksConfig((LinkSource("urls", (dump(tmp_path / "u.txt", *lines),)),), shards=4), {}, store, local)
    where = {(row["host"], path.name) for path in made.shards for row in shards.read(path).to_pylist()}
    assert len(where) == len(sizes)
    counts = [shards.read(path).num_rows for path in made.shards]
    assert max(counts) - min(counts) <= 2
    assert [path.name for path in made.shards] == ["00000.arrow", "00001.arrow", "00002.arrow", "00003.arrow"]
    assert all(shards.read(path).schema.equals(COLUMNS) for path in made.shards)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 99)), unique=True), st.integers(1, 5), st.randoms(use_true_random=False)
)
def test_dealing_loses_nothing_and_keeps_order(tmp_path_factory, links, count, random) -> None:
    links = sorted(links)
    out = tmp_path_factory.mktemp("dealt")
    table = pa.table(
        {
            "url": [f"{h}/{n:02}" for h, n in links],
            "host": [h for h, _ in links],
            "karma": [n for _, n in links],
            "source": [""] * len(links),
        },
        COLUMNS,
    )
    halves = [table.filter(pa.compute.less(table["host"], "d")), table.filter(pa.compute.greater_equal(table["host"], "d"))]
    deal(halves, pa.table({"url": [], "host": pa.array([], pa.string()), "max_pages": []}), count, out)
    dealt = [shards.read(out / shards.name(n)) for n in range(count)]
    assert Counter(url for part in dealt for url in part["url"].to_pylist()) == Counter(table["url"].to_pylist())
    order = {url: place for place, url in enumerate(table["url"].to_pylist())}
    assert all((places := [order[url] for url in part["url"].to_pylist()]) == sorted(places) for part in dealt)


def test_the_order_of_files_does_not_change_the_links(store, local, tmp_path) -> None:
    one = dump(tmp_path / "one.jsonl", *({"url": f"http://{n % 5}.test/{n}", "score": n} for n in range(30)))
    two = dump(tmp_path / "two.jsonl", *({"url": f"http://{n % 5}.test/{n}", "score": n + 100} for n in range(20, 50)))
    made = [run(LINKS, LinksConfig((LinkSource("submissions", files),), shards=2), {}, store, local) for files in ((one, two), (two, one))]
    assert [path.read_bytes() for path in made[0].shards] == [path.read_bytes() for path in made[1].shards]


@pytest.mark.parametrize(
    "make",
    [
        lambda file: LinkSource("tweets", (file,)),
        lambda file: LinkSource("urls"),
        lambda file: LinkSource("submissions", (file,), karma_rule="mean"),
        lambda file: LinkSource("site", url="example.com"),
        lambda file: LinkSource("site", url="http://a.test/", depth=-1),
        lambda file: LinkSource("site", url="http://a.test/", max_pages=0),
        lambda file: LinksConfig(()),
        lambda file: LinksConfig((LinkSource("urls", (file,)),), shards=0),
        lambda file: LinksConfig((LinkSource("urls", (file,)),), exclude_hosts=("http://a.test/",)),
    ],
)
def test_an_impossible_config_is_refused(tmp_path, make) -> None:
    with pytest.raises(ConfigError, match="links: "):
        make(dump(tmp_path / "x.txt"))


def test_a_missing_file_is_told_before_any_work(store, local, tmp_path) -> None:
    with pytest.raises(ArtifactError, match="check the path"):
        SourceFile.of(tmp_path / "none.csv")
    here = dump(tmp_path / "here.txt", "http://a.test/")
    gone = dump(tmp_path / "gone.txt", "http://b.test/")
    (tmp_path / "gone.txt").unlink()
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        run(LINKS, LinksConfig((LinkSource("urls", (here, gone)),)), {}, store, local)
    assert not list(store.root.glob("links/.*/.parts"))
