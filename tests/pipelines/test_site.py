"""The demo's website against independent readers: another HTML parser, another HTTP client, a brute-force count of links."""

from __future__ import annotations

import csv
import gzip
import hashlib
import html.parser
import http.client
import io
import json
import os
import subprocess
import sys

import pytest

from data_prep import shards
from infra.compute import LocalCompute
from infra.errors import ConfigError, StageFailed
from infra.stage import run
from infra.store import Store
from pipelines import site
from pipelines.site import SITE, SiteConfig, masked, names_of, task
from pipelines.site_markup import Markup
from pipelines.site_render import first_sentence, host_of
from pipelines.site_server import serving

SMALL = ("json", "email", "pyarrow.types")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run(SITE, SiteConfig.of(SMALL, own_page=200), {}, Store(tmp_path_factory.mktemp("store")), LocalCompute())


def rows_of(artifact):
    return [row for path in artifact.shards for row in shards.read(path).to_pylist()]


def submissions_of(artifact):
    text = gzip.decompress(artifact.file("submissions.csv.gz").read_bytes()).decode()
    return list(csv.DictReader(io.StringIO(text)))


class Anchors(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.add(dict(attributes)["href"].split("#")[0])


def anchors(row):
    parser = Anchors()
    parser.feed(row["html"].decode())
    return {link if "://" in link else f"http://{row['host']}{link}" for link in parser.found}


def get(address, url):
    host, _, path = url.partition("://")[2].partition("/")
    connection = http.client.HTTPConnection(*address.split(":"), timeout=10)
    connection.request("GET", f"/{path}", headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_karma_is_the_number_of_other_pages_that_link_to_a_page(small):
    rows = rows_of(small)
    addresses = [f"http://{row['host']}{row['path']}" for row in rows]
    expected = {}
    for address, row in zip(addresses, rows, strict=True):
        for link in anchors(row) - {address}:
            expected[link] = expected.get(link, 0) + 1
    listed = {row["url"]: int(row["score"]) for row in submissions_of(small) if row["url"] in expected and row["score"].isdigit()}
    assert len(expected) > 50
    assert listed == expected


def test_every_link_of_a_page_leads_to_a_page_of_this_web_or_to_the_standard_library(small):
    rows = rows_of(small)
    there = {f"http://{row['host']}{row['path']}" for row in rows}
    dead = {link for row in rows for link in anchors(row)} - there
    assert {link for link in dead if not link.startswith("http://python.test/")} == set()
    assert not any("localhost" in link or "://www." in link for row in rows for link in anchors(row))  # nothing leads to the real web


def test_the_same_packages_render_to_the_same_bytes_whatever_the_hash_seed(tmp_path):
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        job = {"package": "email", "out": str(out), "name": "00000.arrow", "own_page": 200, "longest": 1500, "most": 100}
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-m", "pipelines.site_render", json.dumps(job)], check=True, env=environment)
        files = [out / "00000.arrow", out / "sentences" / "00000.arrow"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert digests[0] == digests[1]


def test_a_second_making_is_the_same_file_for_file(small, tmp_path):
    again = run(SITE, SiteConfig.of(SMALL, own_page=200), {}, Store(tmp_path), LocalCompute())
    assert again.fingerprint == small.fingerprint
    assert again.files == small.files


class Interrupted(LocalCompute):
    """Ends the first piece of work after one item."""

    def map(self, name, fn, items):
        super().map(name, fn, list(items)[:1])
        raise KeyboardInterrupt


def test_a_killed_attempt_renders_only_what_is_missing(small, tmp_path):
    config = SiteConfig.of(SMALL, own_page=200)
    with pytest.raises(KeyboardInterrupt):
        run(SITE, config, {}, Store(tmp_path), Interrupted())
    before = (tmp_path / "site" / f".{small.fingerprint}" / "00000.arrow").stat().st_mtime_ns
    again = run(SITE, config, {}, Store(tmp_path), LocalCompute())
    assert again.shards[0].stat().st_mtime_ns == before
    assert again.files == small.files


def test_no_page_names_this_machine(small):
    text = b"".join(row["html"] for row in rows_of(small))
    assert sys.prefix.encode() not in text
    assert b" at 0x" not in text


def test_another_version_of_a_package_makes_another_web():
    now = SiteConfig.of(("json", "numpy"))
    assert dict(now.versions)["numpy"] == __import__("numpy").__version__
    other = SiteConfig(packages=now.packages, versions=(("json", "3.0"), ("numpy", "0.1")))
    assert SITE.key(now, {}) != SITE.key(other, {})


def test_a_package_that_is_not_installed_is_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"nosuchpackage.*not installed"):
        SiteConfig.of(("json", "nosuchpackage"))


def test_a_package_that_hangs_is_ended_and_named(tmp_path, monkeypatch):
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(site, "LIMIT_S", 1)
    with pytest.raises(StageFailed, match=r"rendering hangs took more than 1 s"):
        run(SITE, SiteConfig(packages=("hangs",)), {}, Store(tmp_path / "store"), LocalCompute())


def test_modules_that_cannot_be_imported_are_counted_and_print_nothing(tmp_path, monkeypatch, capfd):
    package = tmp_path / "mixed"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\nprint("hello")\n')
    (package / "leaves.py").write_text("raise SystemExit(3)\n")
    (package / "good.py").write_text('"""A module with a docstring."""\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = run(SITE, SiteConfig(packages=("mixed",)), {}, Store(tmp_path / "store"), LocalCompute())
    assert made.counts["modules_failed"] == 1
    assert made.counts["modules"] == 2
    assert "hello" not in "".join(capfd.readouterr())


def test_an_independent_client_reaches_the_pages(small):
    rows = rows_of(small)
    with serving(small) as served:
        for row in rows[::10]:
            status, body, headers = get(served.address, f"http://{row['host']}{row['path']}")
            assert (status, body) == (200, row["html"])
            assert headers["Content-Type"].startswith("text/html")
        assert get(served.address, "http://python.test/robots.txt")[1].startswith(b"User-agent")
        assert get(served.address, "http://python.test/no-such-page.html")[0] == 404
        assert set(served.connect_to) == {"python.test", "pyarrow.test", "gone.test"}


def test_the_hostile_items_of_the_list_are_what_they_claim(small):
    items = submissions_of(small)
    with serving(small) as served:
        moved = [row["url"] for row in items if row["title"] == "Moved since"]
        for url in moved:
            status, _, headers = get(served.address, url)
            assert status == 301
            assert "/loop/" in url or get(served.address, url.rpartition("/latest/")[0] + headers["Location"])[0] == 200
        assert {get(served.address, row["url"])[0] for row in items if row["title"] == "A page that is gone"} == {404}
        with pytest.raises(http.client.RemoteDisconnected):
            get(served.address, "http://gone.test/0.html")
    assert sum(row["is_self"] == "True" for row in items) == 3
    assert sum(row["url"] is None for row in items) == 1  # the broken line
    assert sum(row["url"] is not None and not row["score"].isdigit() for row in items) == 1


def test_the_server_says_nothing_on_the_terminal(small, capfd):
    with serving(small) as served:
        get(served.address, "http://python.test/")
        get(served.address, "http://python.test/missing")
    assert capfd.readouterr() == ("", "")


def test_the_task_is_balanced_masked_and_without_duplicates():
    told = {"numpy": [f"Numpy makes array number {n} quickly." for n in range(50)]}
    told["torch"] = [f"Returns np.thing tensor {n} for you." for n in range(80)]
    told["numpy"] += ["Shared by both of the packages.", "Numpy makes array number 3 quickly."]
    told["torch"] += ["Shared by both of the packages."]
    train, dev = task(told, most=60, dev_share=0.2)
    assert (len(train), len(dev)) == (48, 12)
    for part in (train, dev):
        assert len({label for label, _ in part}) == 2
        assert sum(label == "numpy" for label, _ in part) * 2 == len(part)
    texts = [text for _, text in train + dev]
    assert len(set(texts)) == len(texts)
    assert not any("numpy" in text.lower() or "np." in text or "Shared" in text for text in texts)


def test_names_are_masked_whole():
    names = names_of(["numpy", "pyarrow", "rich"])
    assert masked("How numpyish things enrich us all.", names) == "How ___ things enrich us all."
    assert masked("Like numpy.linalg.norm but for PyTorch and pyarrow users.", names) == "Like ___ but for ___ and ___ users."
    assert masked("Too short.", names) is None


def test_a_docstring_becomes_prose_with_links():
    markup = Markup(frozenset({"pkg.mod", "pkg.mod.thing", "pkg.mod.Other"}), frozenset({"json"}))
    text = "Uses :func:`thing` and\n``Other`` & `json.loads`.\n\nSee Also\n--------\nthing : does it\n\n- one <b>\n- two\n\n>>> thing()\n1"
    made = markup.blocks(text, "pkg.mod")
    assert '<a href="/pkg.mod.thing.html">thing</a>' in made
    assert '<code><a href="/pkg.mod.Other.html">Other</a></code> &amp; <a href="http://python.test/json.html">json.loads</a>' in made
    assert "<h2>See Also</h2>" in made
    assert "<b>" not in made


def test_first_sentences_are_prose():
    assert first_sentence("sum(a, b) -> c\n\nAdd two things. Then rest.") == "Add two things."
    assert first_sentence("Parameters\n----------\nx : int") == ""
    assert host_of("email") == "python.test"
    assert host_of("torch.nn") == "torch.test"
