# ruff: noqa: E501  # a row of a table is a line
"""Lists that build on earlier ones: consecutive days together are one list of everything, whatever the piles, workers or kills."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.corpus import hosts, links, tallies, urls
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import StageFailed
from infra.stage import run
from infra.store import Store

Post = tuple[str, int]


def dump(path: Path, posts: list[Post]) -> SourceFile:
    path.write_text("".join(json.dumps({"url": url, "score": score}) + "\n" for url, score in posts))
    return SourceFile.of(path)


def karma_of(artifact: Artifact) -> dict[str, int | None]:
    rows = [row for shard in artifact.shards for row in shards.read(shard).to_pylist()]
    found = {row["url"]: row["karma"] for row in rows}
    assert len(found) == len(rows)
    return found


def known(artifact: Artifact) -> list[int]:
    return [row["hash"] for path in artifact.side("known") for row in shards.read(path).to_pylist()]


def grow(store: Store, days: list[tuple[SourceFile, ...]], rule: str = "post", **more) -> list[Artifact]:
    made: list[Artifact] = []
    for files in days:
        config = LinksConfig((LinkSource("submissions", files, karma_rule=rule),), shards=2, **more)
        made.append(run(LINKS, config, {"earlier": made[-1]} if made else {}, store, LocalCompute()))
    return made


DAYS = st.lists(st.lists(st.tuples(st.sampled_from([f"http://{h}.test/{n}" for h in "abc" for n in range(3)]), st.integers(0, 5)), max_size=12), min_size=1, max_size=3)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(DAYS, st.sampled_from(["post", "sum"]))
def test_consecutive_days_are_one_run_on_all(tmp_path_factory, days, rule) -> None:
    folder = tmp_path_factory.mktemp("days")
    store = Store(folder / "artifacts")
    files = [dump(folder / f"{number}.jsonl", posts) for number, posts in enumerate(days)]
    daily = grow(store, [(file,) for file in files], rule)
    whole = grow(store, [tuple(files)], rule)[0]
    listed = Counter(url for made in daily for url in karma_of(made))
    assert set(listed) == set(karma_of(whole)) and set(listed.values()) <= {1}
    assert known(daily[-1]) == known(whole) == sorted(tallies.hashes(listed).tolist())
    repeated = grow(store, [tuple(files[: number + 1]) for number in range(len(files))], rule)  # each day's folder keeps the files before
    assert [karma_of(made) for made in repeated] == [karma_of(made) for made in daily]


def test_karma_that_comes_later_counts_from_then_on(store, tmp_path) -> None:
    days = [
        [("http://a.test/late", 2), ("http://a.test/early", 3)],
        [("http://a.test/late", 5), ("http://a.test/early", 9)],
        [("http://a.test/late", 7)],
    ]
    files = [(dump(tmp_path / f"{number}.jsonl", posts),) for number, posts in enumerate(days)]
    made = grow(store, files)
    assert [karma_of(each) for each in made] == [{"http://a.test/early": 3}, {"http://a.test/late": 5}, {}]
    assert made[0].counts["removed.low_karma"] == 1
    assert [each.counts.get("removed.known", 0) for each in made] == [0, 1, 1]
    sums = grow(store, [(dump(tmp_path / f"s{number}.jsonl", [("http://a.test/", 2)]),) for number in range(2)], "sum")
    assert [karma_of(each) for each in sums] == [{}, {"http://a.test/": 4}]


def test_a_file_given_again_counts_once_in_a_sum_even_when_the_threshold_falls(store, tmp_path) -> None:
    files = (dump(tmp_path / "x.jsonl", [("http://a.test/", 2)]),)
    first = grow(store, [files, files], "sum")
    assert [karma_of(made) for made in first] == [{}, {}]
    config = LinksConfig((LinkSource("submissions", files, karma_rule="sum", min_karma=2),), shards=1)
    assert karma_of(run(LINKS, config, {"earlier": first[-1]}, store, LocalCompute())) == {"http://a.test/": 2}


def test_recrawl_lists_again_and_forgets_nothing(store, tmp_path) -> None:
    one, two = (dump(tmp_path / f"{n}.jsonl", [(f"http://a.test/{n}", 3), ("http://a.test/both", 3)]) for n in range(2))
    first = grow(store, [(one,)])[0]
    again = LinksConfig((LinkSource("submissions", (two,)),), recrawl=True)
    made = run(LINKS, again, {"earlier": first}, store, LocalCompute())
    assert set(karma_of(made)) == {"http://a.test/1", "http://a.test/both"} and "removed.known" not in made.counts
    assert known(made) == sorted(tallies.hashes(["http://a.test/0", "http://a.test/1", "http://a.test/both"]).tolist())


def test_a_start_page_is_walked_again_and_never_crowded_out(store, tmp_path) -> None:
    posts = dump(tmp_path / "x.jsonl", [(f"http://site.test/{n}", 9) for n in range(5)])
    sources = (LinkSource("site", url="http://site.test/start", max_pages=7), LinkSource("submissions", (posts,)))
    config = LinksConfig(sources, shards=1, max_per_domain=2, exclude_hosts=("other.test",))
    first = run(LINKS, config, {}, store, LocalCompute())
    assert list(karma_of(first)) == ["http://site.test/0", "http://site.test/start"]
    second = run(LINKS, config, {"earlier": first}, store, LocalCompute())
    assert list(karma_of(second)) == ["http://site.test/start"]
    assert (second.counts["removed.known"], second.counts["removed.domain_cap"]) == (1, 4)
    assert [row["url"] for row in shards.read(second.side("sites")[0]).to_pylist()] == ["http://site.test/start"]
    assert known(second) == known(first)
    with_sites = LinksConfig((sources[0],), shards=1, allow_hosts=("nobody.test",))
    assert list(karma_of(run(LINKS, with_sites, {"earlier": first}, store, LocalCompute()))) == ["http://site.test/start"]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["a.co.uk", "b.a.co.uk", "c.com", "www.c.com", "x.github.io", "y.github.io"]), st.integers(0, 9), st.integers(3, 6)), max_size=40),
    st.integers(1, 4),
)  # fmt: skip
def test_the_cap_keeps_those_with_most_karma_then_the_first_by_url(tmp_path_factory, rows, most) -> None:
    folder = tmp_path_factory.mktemp("cap")
    store = Store(folder / "artifacts")
    posts = [(f"http://{host}/{page}", karma) for host, page, karma in rows]
    half = len(posts) // 2
    files = [dump(folder / f"{number}.jsonl", part) for number, part in enumerate((posts[:half], posts[half:]))]
    whole = grow(store, [tuple(files)], max_per_domain=most)[0]
    best: dict[str, int] = {}
    for url, karma in posts:
        best[url] = max(karma, best.get(url, 0))
    by_domain: dict[str, list[str]] = defaultdict(list)
    for url in sorted(best, key=lambda url: (-best[url], url)):
        by_domain[hosts.domain(urls.authority(url))].append(url)
    assert set(karma_of(whole)) == {url for listed in by_domain.values() for url in listed[:most]}
    assert whole.counts.get("removed.domain_cap", 0) == sum(max(0, len(listed) - most) for listed in by_domain.values())
    daily = grow(store, [(file,) for file in files], max_per_domain=most)
    counted = Counter(hosts.domain(urls.authority(url)) for made in daily for url in karma_of(made))
    assert counted == {domain: min(most, len(listed)) for domain, listed in by_domain.items()}


def posts_of_many_hosts(number: int) -> list[Post]:
    chosen = random.Random(number)
    return [
        (f"http://h{chosen.randrange(40)}.d{chosen.randrange(9)}.test/{chosen.randrange(30)}", chosen.randrange(9)) for _ in range(3_000)
    ]


def content(artifact: Artifact) -> dict[str, bytes]:
    return {str(p.relative_to(artifact.path)): p.read_bytes() for p in sorted(artifact.path.rglob("*")) if p.is_file() and p.name != "manifest.json"}  # fmt: skip


class Failing(LocalCompute):
    """Gives up after some items, as a killed worker would, each time a few later."""

    def __init__(self, lives: int) -> None:
        super().__init__()
        self.lives = lives

    def map(self, name, fn, items):
        def mortal(item):
            self.lives -= 1
            if self.lives < 0:
                raise RuntimeError("killed")
            return fn(item)

        return super().map(name, mortal, items)


@pytest.mark.parametrize("rule", ["post", "sum"])
def test_one_pile_or_many_and_kills_give_the_same_bytes(tmp_path, monkeypatch, rule) -> None:
    files = [dump(tmp_path / f"{number}.jsonl", posts_of_many_hosts(number)) for number in range(4)]
    days = [tuple(files[:2]), tuple(files[2:])]
    one = grow(Store(tmp_path / "one"), days, rule, max_per_domain=100)
    monkeypatch.setattr(links, "PILE_BYTES", 20_000)
    monkeypatch.setattr(tallies, "SHARD_ROWS", 200)
    assert links.pile_count([tmp_path / "0.jsonl", tmp_path / "1.jsonl"]) > 10
    many = grow(Store(tmp_path / "many"), days, rule, max_per_domain=100)
    monkeypatch.setattr(tallies, "SHARD_ROWS", 1 << 22)
    killed = Store(tmp_path / "killed")
    made, tries = [], 0
    for files in days:
        config = LinksConfig((LinkSource("submissions", files, karma_rule=rule),), shards=2, max_per_domain=100)
        before = {"earlier": made[-1]} if made else {}
        while len(made) == 0 or made[-1].fingerprint != LINKS.key(config, before):
            tries += 1
            try:
                made.append(run(LINKS, config, before, killed, Failing(5)))
            except StageFailed:
                continue
    assert tries > 4
    for single, piled, resumed in zip(one, many, made, strict=True):
        assert content(single) == content(resumed)
        assert single.counts == piled.counts == resumed.counts
        assert [p.read_bytes() for p in single.shards] == [p.read_bytes() for p in piled.shards]
        assert known(single) == known(piled) and len(piled.side("known")) > len(single.side("known"))
