"""show() on a small run: found by stage, label, fingerprint and URL, and safe to print."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from infra.errors import ConfigError
from infra.store import Store
from pipelines.show import render, show


@pytest.fixture
def place(finished):
    return Store(finished.parent.parent / "artifacts"), finished.parent


def printed(found):
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    render(found, console)
    return console.file.getvalue()


def test_a_stage_a_label_and_a_fingerprint_name_the_same_artifact(place):
    by_stage, by_label = show(*place, "dedup"), show(*place, "bert")
    assert by_stage["stage"] == "dedup"
    assert by_label["stage"] == "pretrain"
    assert show(*place, f"dedup/{by_stage['fingerprint'][:5]}")["fingerprint"] == by_stage["fingerprint"]
    assert show(place[0], place[1] / "no-runs", "dedup")["fingerprint"] == by_stage["fingerprint"]


def test_dedup_shows_its_clusters_as_lists_of_document_ids(place):
    found = show(*place, "dedup")
    assert found["clusters"] == [[f"{0:016x}", f"{3:016x}"]]
    assert found["paragraphs"] == [{"text": "All rights.", "url": "http://site.test/1.html", "kept_in": f"{0:016x}"}]
    assert "paragraphs cut" in printed(found) and "All rights." in printed(found)


def test_filter_shows_what_each_rule_rejected(place):
    rejected = show(*place, "filter")["rejected"]
    assert list(rejected) == ["min_words"]
    assert [row["url"] for row in rejected["min_words"]] == ["http://site.test/4.html", "http://site.test/5.html"]


def test_crawl_shows_its_outcomes_and_evaluate_its_scores(place):
    assert show(*place, "crawl")["outcomes"] == {"ok": 6, "dead_host": 1, "http_error": 1, "robots": 1}
    assert show(*place, "evaluate bert")["scores"]["scores"]["loss"]["value"] == 1.25


def test_encode_shows_what_a_token_holds_in_each_language(place):
    found = show(*place, "encode pieces")
    told = {row["language"].strip(): row for row in found["languages"]}
    assert list(told) == ["all", "ko", "en"]
    assert (told["all"]["documents"], told["all"]["bytes"], told["all"]["tokens"]) == (2, 120, 12)
    assert told["ko"]["fertility"] == 1.5 and told["ko"]["bytes_per_token"] == pytest.approx(80 / 6, abs=1e-4)
    assert told["ko"]["unknown_share"] == 0.5 and told["en"]["unknown_share"] == 0
    assert "by language" in printed(found) and "fertility" in printed(found)


def test_lineage_goes_up_to_the_roots(place):
    found = show(*place, "packages half")["lineage"]
    stages = [(row["depth"], row["stage"]) for row in found]
    assert stages[:5] == [(1, "distill"), (2, "encode"), (2, "pretrain"), (3, "dedup"), (3, "encode")]
    assert stages[5:] == [(4, "filter"), (5, "extract"), (6, "crawl"), (7, "links")]
    assert all(row["there"] for row in found)
    assert show(*place, "links")["lineage"] == []


def test_a_url_tells_its_way_through_every_stage(place):
    steps = {step["stage"]: step for step in show(*place, "HTTP://Site.Test:80/0.html#top")["steps"]}
    assert list(steps) == ["links", "crawl", "extract", "filter", "dedup", "encode pieces"]
    assert (steps["links"]["karma"], steps["links"]["source"]) == (3, "dump.csv.gz:2")
    assert (steps["crawl"]["status"], steps["crawl"]["fetched_at"]) == ("ok", "2026-01-01T00:00:00Z")
    assert steps["crawl"]["warc"].endswith("/warc/00000.warc.gz")
    assert steps["crawl"]["warc_offset"] == 0
    assert steps["encode pieces"]["split"] == "train"


def test_a_document_is_found_by_its_id_and_tells_its_origin(place):
    found = show(*place, f"{0:016x}")
    assert found == show(*place, f"id:{0:016x}")
    assert found["steps"] == show(*place, "http://site.test/0.html")["steps"]
    origin = found["origin"]
    assert (origin["karma"], origin["source"], origin["warc_offset"]) == (3, "dump.csv.gz:2", 0)
    assert origin["warc"].startswith(str(place[0].root))
    assert len(origin["sha256"]) == 64


@pytest.mark.parametrize(
    ("number", "last", "status", "key", "value"),
    [
        (3, "dedup", "removed", "survivor_id", f"{0:016x}"),
        (4, "filter", "removed", "rule", "min_words"),
        (8, "crawl", "dead_host", "karma", 11),
    ],
)
def test_a_url_that_fell_out_says_where_and_why(place, number, last, status, key, value):
    found = show(*place, f"http://site.test/{number}.html")["steps"][-1]
    assert (found["stage"], found["status"], found[key]) == (last, status, value)


def test_what_nobody_knows_is_refused_with_the_nearest_name(place):
    with pytest.raises(ConfigError, match="did you mean 'dedup'"):
        show(*place, "dedupe")
    with pytest.raises(ConfigError, match="no run knows"):
        show(*place, "http://elsewhere.test/")
    with pytest.raises(ConfigError, match="fits none"):
        show(*place, "dedup/ffffffffffff0")
    with pytest.raises(ConfigError, match="nothing yet"):
        show(Store(place[1] / "none"), place[1] / "none", "dedup")


def test_everything_can_be_printed_and_told_as_json(place, hostile):
    stages = {row["label"] for run in place[1].glob("*/stages.json") for row in json.loads(run.read_text())}
    for what in [*sorted(stages), "http://site.test/0.html"]:
        found = show(*place, what)
        json.dumps(found)
        assert found.get("fingerprint", found.get("url"))[:12] in printed(found)
    assert hostile in json.dumps(show(*place, "filter")["rejected"], ensure_ascii=False)


def test_text_of_strangers_cannot_steer_the_terminal(place):
    found = show(*place, "filter")
    found["rejected"]["min_words"][0]["title"] = "\x1b[31m[bold]red[/bold]\x1b]0;title\x07"
    text = printed(found)
    assert "\x1b" not in text and "\x07" not in text
    assert "[bold]red[/bold]" in text
