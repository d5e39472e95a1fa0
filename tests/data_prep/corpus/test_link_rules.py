# a row of a table is a line
"""What keeps a link out: lists of hosts, endings, days, karma of every type; each counted under its own rule."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path

import pytest

from data_prep import shards
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store


def written(path: Path, text: str) -> SourceFile:
    path.write_text(text)
    return SourceFile.of(path)


def listed(artifact: Artifact) -> dict[str, int | None]:
    return {row["url"]: row["karma"] for shard in artifact.shards for row in shards.read(shard).to_pylist()}


def made(store: Store, lines: list[str], folder: Path, **more) -> Artifact:
    source = LinkSource("urls", (written(folder / "urls.txt", "\n".join(lines)),))
    return run(LINKS, LinksConfig((source,), shards=1, **more), {}, store, LocalCompute())


def test_hosts_from_patterns_and_files_are_left_out_or_alone_let_in(store, tmp_path) -> None:
    lines = [
        "http://a.test/",
        "http://www.a.test/",
        "http://b.test:8080/",
        "http://x.b.test/",
        "http://c.test/",
        "http://d.test/",
        "http://e.test/",
    ]
    bad = written(tmp_path / "bad.txt", "# spam\nb.test\nno host here\n")
    good = written(tmp_path / "good.txt", "b.test\nd.test\n")
    found = made(
        store, lines, tmp_path, exclude_hosts=("a.test",), exclude_hosts_file=bad, allow_hosts=("*.a.test", "c.test"), allow_hosts_file=good
    )
    assert list(listed(found)) == ["http://c.test/", "http://d.test/", "http://www.a.test/"]
    assert found.counts == {
        "read": 7,
        "kept": 3,
        "hosts": 3,
        "removed.host": 3,
        "removed.not_allowed": 1,
        "removed.duplicate": 0,
        "host_list_lines_unread": 1,
    }
    with pytest.raises(ConfigError, match="no line names a host"):
        made(store, lines, tmp_path, exclude_hosts_file=written(tmp_path / "html.txt", "<html> <p>\n"))


def test_the_content_of_a_list_of_hosts_is_fingerprinted_its_place_is_not(tmp_path) -> None:
    source = LinkSource("urls", (written(tmp_path / "u.txt", "http://a.test/"),))
    (tmp_path / "there").mkdir()
    here, there = written(tmp_path / "list.txt", "a.test"), written(tmp_path / "there/list.txt", "a.test")
    other = written(tmp_path / "there/other.txt", "b.test")
    keys = [LINKS.key(LinksConfig((source,), exclude_hosts_file=file), {}) for file in (here, there, other)]
    assert keys[0] == keys[1] != keys[2]


def test_endings_of_the_user_s_own(store, tmp_path) -> None:
    lines = [
        "http://a.test/x.php",
        "http://a.test/x.PHP?y=1",
        "http://a.test/php",
        "http://a.test/?x.php",
        "http://a.test/x.cgi.pl",
        "http://a.test/x.jpg",
    ]
    found = made(store, lines, tmp_path, exclude_extensions=("php", ".cgi.pl"))
    assert list(listed(found)) == ["http://a.test/?x.php", "http://a.test/php"]
    assert (found.counts["removed.extension"], found.counts["removed.media"]) == (3, 1)


@pytest.mark.parametrize(
    "more",
    [
        {"exclude_extensions": ("",)},
        {"exclude_extensions": ("a/b",)},
        {"allow_hosts": ("http://a.test/",)},
        {"exclude_hosts": ("a.*",)},
        {"max_per_domain": 0},
    ],
)
def test_an_impossible_rule_is_refused(tmp_path, more) -> None:
    with pytest.raises(ConfigError, match="links: "):
        LinksConfig((LinkSource("urls", (written(tmp_path / "u.txt", "x"),)),), **more)


@pytest.mark.parametrize("since", ["yesterday", "05/09/2024", "2024-9-5"])
def test_a_day_is_written_as_one(tmp_path, since) -> None:
    with pytest.raises(ConfigError, match="no date"):
        LinkSource("feed", (written(tmp_path / "x.xml", "<rss/>"),), since=since)


MAP = "<urlset>{}</urlset>"
ENTRY = "<url><loc>http://a.test/{}</loc><lastmod>{}</lastmod></url>"


def test_entries_that_state_an_older_day_are_left_out(store, tmp_path) -> None:
    days = ["2024-09-05", "2024-09-04T23:59:59Z", "2024-09", "2024-08", "2024", "2023", "", "soon"]
    text = MAP.format("".join(ENTRY.format(number, day) for number, day in enumerate(days)))
    source = LinkSource("sitemap", (written(tmp_path / "sitemap.xml", text),), since="2024-09-05")
    found = run(LINKS, LinksConfig((source,), shards=1), {}, store, LocalCompute())
    assert listed(found) == dict.fromkeys([f"http://a.test/{number}" for number in (0, 2, 4, 6, 7)])
    assert found.counts["removed.older"] == 3


@pytest.mark.parametrize(
    ("score", "karma"),
    [
        (3, 3),
        (3.9, 3),
        ("3", 3),
        ("3.0", 3),
        (-1, -1),
        (True, None),
        ("many", None),
        ([3], None),
        ({}, None),
        (1e300, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**30, None),
        ("1e30", None),
        (1 << 31, None),
        (None, "ups"),
        ("", "ups"),
    ],
)
@pytest.mark.parametrize("rule", ["post", "sum"])
def test_karma_of_every_type_is_a_number_or_told(store, tmp_path, score, karma, rule) -> None:
    """A post without a score has its ups; one with neither, or with what no votes can be, is set aside."""
    posts = [
        {"url": "http://a.test/", "score": score, "ups": 7},
        {"url": "http://b.test/", "score": score},
        {"url": "http://c.test/", "score": 3},
    ]
    file = written(tmp_path / "x.jsonl", "".join(json.dumps(post) + "\n" for post in posts))
    found = run(
        LINKS, LinksConfig((LinkSource("submissions", (file,), karma_rule=rule, min_karma=-5),), shards=1), {}, store, LocalCompute()
    )
    told = {"ups": {"http://a.test/": 7}, None: {}}.get(karma, {"http://a.test/": karma, "http://b.test/": karma})
    assert listed(found) == told | {"http://c.test/": 3}
    assert found.counts.get("set_aside.no_submission", 0) == 3 - len(listed(found))


def test_a_site_s_real_sitemaps_and_feeds(store, tmp_path, data) -> None:
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as tar:
        tar.extractall(tmp_path, [member for member in tar if member.name.endswith(".xml")], filter="data")
    maps, feeds = sorted(tmp_path.rglob("sitemap.xml")), sorted(tmp_path.rglob("index.xml"))
    packed = tmp_path / "packed.xml.gz"
    packed.write_bytes(gzip.compress((tmp_path / "en/sitemap.xml").read_bytes()))
    sources = (
        LinkSource("sitemap", tuple(map(SourceFile.of, [*maps, packed]))),
        LinkSource("feed", tuple(map(SourceFile.of, feeds)), since="2020-01-01"),
    )
    found = run(LINKS, LinksConfig(sources, shards=2), {}, store, LocalCompute())
    assert found.counts["set_aside.other_sitemap"] == 2
    # 291 + 53 pages in the sitemaps; the feeds speak of the same pages, but for none
    assert found.counts["kept"] == 344 == len(listed(found)) and set(listed(found).values()) == {None}
    aside = [row for path in found.side("set_aside") for row in shards.read(path).to_pylist()]
    assert sorted(row["line"] for row in aside) == [f"https://flink.apache.org/{name}/sitemap.xml" for name in ("en", "zh")]
    assert "removed.older" in found.counts


def test_the_real_dumps_as_two_days(store, data) -> None:
    """Half of the subreddits, then all files of the folder, are the same as all at once."""
    paths = sorted((data / "urls/reddit-top-2013").glob("*.csv.gz"))

    def day(files: list[Path], **inputs: Artifact) -> Artifact:
        config = LinksConfig((LinkSource("submissions", tuple(map(SourceFile.of, files))),), shards=4)
        return run(LINKS, config, inputs, store, LocalCompute())

    whole, first = day(paths), day(paths[:14])
    second = day(paths, earlier=first)
    both = listed(first) | listed(second)
    assert set(both) == set(listed(whole)) and len(both) == len(listed(first)) + len(listed(second))
    assert second.counts["removed.known"] >= first.counts["kept"]
    told = [made.counts[name] for made in (whole, second) for name in ("read", "kept", "removed.duplicate")]
    assert told[0] == told[3] and told[1] + told[2] == told[4] + told[5] + second.counts["removed.known"]


def test_the_oldest_real_dump_as_a_plain_reader_reads_it(store, data) -> None:
    path = data / "urls/pushshift/RS_v2_2005-07.xz"
    records = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    found = run(LINKS, LinksConfig((LinkSource("submissions", (SourceFile.of(path),)),), shards=2), {}, store, LocalCompute())
    enough = [r for r in records if r["score"] >= 3 and not r["over_18"] and not r["is_self"] and not r.get("removed_by_category")]
    assert found.counts["read"] == len(records)
    assert found.counts["kept"] + found.counts["removed.duplicate"] + found.counts.get("removed.media", 0) == sum(
        r["url"] != "" for r in enough
    )


def test_the_new_and_the_old_csv_of_the_same_posts(store, tmp_path, data) -> None:
    """The dump of 2013 written again with the field names of later years."""
    path = sorted((data / "urls/reddit-top-2013").glob("*.csv.gz"))[3]
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))
    newer = tmp_path / "newer.jsonl"
    with newer.open("w") as file:
        for row in rows:
            link = {"url": "https://www.reddit.com" + row["permalink"], "url_overridden_by_dest": row["url"]}
            flags = {"over_18": row["over_18"] == "True", "is_self": row["is_self"] == "True", "removed_by_category": None}
            file.write(json.dumps({**link, **flags, "score": int(row["score"]), "selftext": row["selftext"]}) + "\n")
    old, new = (
        run(LINKS, LinksConfig((LinkSource("submissions", (SourceFile.of(each),)),), shards=1), {}, store, LocalCompute())
        for each in (path, newer)
    )
    assert old.counts == new.counts and listed(old) == listed(new)
