"""Every kind of link source and every rule for links, from a recipe to the list that the command makes and shows."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import shards
from infra.artifact import Artifact
from infra.errors import ConfigError
from pipelines import chain
from pipelines import recipe as recipes

RECIPE = """\
name: links
corpus:
  sources:
    - {kind: sitemap, path: "maps/*.xml"}
    - {kind: feed, path: feed.xml, since: 2024-01-31}
    - {kind: submissions, path: posts.jsonl, karma_rule: sum, min_karma: 4}
    - {kind: urls, path: urls.txt}
    - {kind: site, url: "http://site.test/", depth: 1}
  links:
    shards: 2
    exclude_hosts: ["*.bad.test"]
    exclude_hosts_file: lists/spam.txt
    allow_hosts_file: lists/good.txt
    exclude_extensions: [php]
    max_per_domain: 2
    tracking_parameters: [from, "ad_*"]
  crawl: {contact: someone@example.com}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    urlset = "<urlset>{}</urlset>"
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/one.xml").write_text(
        urlset.format("<url><loc>http://a.test/1?from=map&amp;ad_x=1</loc></url><url><loc>http://a.test/2</loc></url>")
    )
    (tmp_path / "maps/all.xml").write_text("<sitemapindex><sitemap><loc>http://a.test/one.xml</loc></sitemap></sitemapindex>")
    item = "<item><link>http://{}</link><pubDate>{} Jan 2024 08:00:00 GMT</pubDate></item>"
    items = [item.format(*pair) for pair in (("b.test/old", 30), ("b.test/new", 31), ("x.bad.test/", 31), ("b.test/x.php", 31))]
    (tmp_path / "feed.xml").write_text(f"<rss><channel>{''.join(items)}</channel></rss>")
    posts = [("http://a.test/3", 2), ("http://a.test/3", 2), ("http://b.test/low", 3)]
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps({"url": url, "score": score}) + "\n" for url, score in posts))
    (tmp_path / "urls.txt").write_text("http://www.spam.test/\nhttp://other.test/\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/spam.txt").write_text("spam.test\n")
    (tmp_path / "lists/good.txt").write_text("a.test\nb.test\nbad.test\nspam.test\n")
    path = tmp_path / "links.yaml"
    path.write_text(RECIPE)
    return path


def test_the_command_makes_and_shows_the_list(recipe: Path, textmill: Callable, tmp_path: Path) -> None:
    done = textmill("run", str(recipe), "--plain", "--until", "links", "--workspace", "w")
    assert done.returncode == 0, done.stderr
    told = textmill("show", "links", "--workspace", "w", "--json")
    assert told.returncode == 0, told.stderr
    shown = json.loads(told.stdout)
    assert {key: value for key, value in shown["counts"].items() if value} == {
        "read": 13,
        "kept": 4,
        "hosts": 3,
        "removed.domain_cap": 1,
        "removed.duplicate": 1,
        "removed.extension": 1,
        "removed.host": 2,
        "removed.low_karma": 1,
        "removed.not_allowed": 1,
        "removed.older": 1,
        "set_aside.other_sitemap": 1,
    }
    listed = {url for path in (tmp_path / "w").glob("artifacts/links/*/0*.arrow") for url in shards.read(path)["url"].to_pylist()}
    assert "http://a.test/1" in listed
    assert shown["set_aside"]["other_sitemap"][0]["line"] == "http://a.test/one.xml"


def test_a_resolved_recipe_gives_the_same_links(recipe: Path, tmp_path: Path) -> None:
    loaded = recipes.load(str(recipe))
    again = tmp_path / "again.yaml"
    again.write_text(loaded.resolved)

    def configs(path: Path) -> list[object]:
        told = []

        def do(stage, config, label="", **inputs):
            told.append(config)
            return Artifact(stage.name, stage.key(config, inputs), Path("nowhere"))

        chain.run(do, recipes.load(str(path)).recipe, "links")
        return told

    assert configs(recipe) == configs(again)
    (config,) = configs(again)
    assert config.suffix_list and config.exclude_hosts_file.name == "spam.txt"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("lists/spam.txt", "lists/ham.txt", "links.yaml:12: corpus.links.exclude_hosts_file: there is no file"),
        ("max_per_domain", "max_per_domian", "links.yaml:15: corpus.links has no `max_per_domian`; did you mean `max_per_domain`?"),
        ("kind: feed", "kind: rss", "links.yaml:5: corpus.sources.1.kind must be one of"),
        ("path: feed.xml", "path: none.xml", "links.yaml:5: corpus.sources.1.path: there is no file"),
    ],
)
def test_a_mistake_is_told_with_its_line(recipe: Path, old: str, new: str, line: str) -> None:
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        recipes.load(str(recipe))
    assert any(told.startswith(line) for told in str(caught.value).splitlines()), str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("since: 2024-01-31", "since: soon", "since 'soon' is no date"),
        ('"*.bad.test"', '"http://bad.test"', "'http://bad.test' is no host"),
        ("max_per_domain: 2", "max_per_domain: 0", "max_per_domain must be at least 1"),
    ],
)
def test_what_the_stage_refuses_is_told_before_any_work(recipe: Path, old: str, new: str, message: str) -> None:
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        chain.rehearse(recipes.load(str(recipe)).recipe)


def test_a_recipe_of_real_sitemaps_and_feeds(textmill: Callable, tmp_path: Path, data: Path) -> None:
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as tar:
        tar.extractall(tmp_path / "site", [member for member in tar if member.name.endswith(".xml")], filter="data")
    (tmp_path / "r.yaml").write_text(
        'name: r\ncorpus:\n  sources:\n    - {kind: sitemap, path: "site/**/sitemap.xml"}\n    - {kind: feed, path: "site/**/index.xml"}\n'
        "  crawl: {contact: someone@example.com}\n"
    )
    done = textmill("run", "r.yaml", "--plain", "--until", "links", "--workspace", "w")
    assert done.returncode == 0, done.stderr
    counts = json.loads(textmill("show", "links", "--workspace", "w", "--json").stdout)["counts"]
    assert (counts["kept"], counts["set_aside.other_sitemap"]) == (344, 2)
