"""One command makes everything; the same command again makes nothing; a change makes what follows it."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser

import pytest

from tests.end_to_end import mini

TRAINED = ("gpt", "bert", "half", "half-control", "package half")
SCORED = ("evaluate gpt", "evaluate bert", "evaluate half", "evaluate half-control", "compare half", "evaluate package half")
LATER = ("tokenizer bytes", "tokenizer pieces", "encode bytes", "encode pieces", "blocks bytes 64", "pairs pieces 64", *TRAINED, *SCORED)


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.images, self.outside = "", 0, []

    def handle_data(self, data) -> None:
        self.text += data

    def handle_starttag(self, tag, attrs) -> None:
        links = [value for name, value in attrs if name in ("src", "href")]
        self.images += tag == "img"
        self.outside += [value for value in links if not value.startswith(("data:", "#"))]


def test_one_command_leads_from_links_to_models_scores_and_a_report(finished: mini.Place) -> None:
    rows = {row["label"]: row for row in finished.rows()}
    assert set(rows) == {"site", "links", "crawl", "extract", "filter", "dedup", *LATER}
    assert {row["state"] for row in rows.values()} == {"done"}
    for label in TRAINED:
        folder = finished.made(rows[label])
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "model").iterdir()}
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert len(steps) > 10 and steps == sorted(set(steps))
        assert not list(folder.rglob("*checkpoint*"))
    for label in SCORED:
        assert json.loads((finished.made(rows[label]) / "scores.json").read_text())
    assert "report  workspace/runs/" in (finished.folder / "stdout").read_text()


def test_the_report_is_one_page_that_shows_every_stage_curve_and_score(finished: mini.Place) -> None:
    page = _Words()
    page.feed((finished.newest() / "report.html").read_text())
    assert not page.outside, "the page needs no network"
    assert page.images >= 5  # a curve for each training
    for words in (*(row["label"] for row in finished.rows()), "no_submission", "wrong_columns", "dead_host", "redirect_loop", "robots"):
        assert words in page.text, words


def test_what_every_stage_hands_on_is_what_the_next_one_read(finished: mini.Place) -> None:
    """The funnel has no hole: the next stage's `read` is the number of rows in the files of the one before."""
    rows = {row["label"]: row for row in finished.rows()}
    for label, row in rows.items():
        [before] = row["inputs"].values() if len(row["inputs"]) == 1 else [""]
        if before not in ("links", "crawl", "extract", "filter"):
            continue
        told, given = mini.counts(finished.made(row)), mini.table(mini.shards(finished.made(rows[before])))
        assert told["read"] == len(given) > 50, label
        lost = sum(number for name, number in told.items() if name.startswith(("removed.", "set_aside.")))
        assert told["read"] == told["kept"] + lost, label


def test_a_second_run_finds_every_stage_done_and_takes_seconds(there: mini.Place, finished: mini.Place) -> None:
    begun = time.monotonic()
    told = there.call(*mini.RUN)
    assert told.returncode == 0 and time.monotonic() - begun < 60
    assert set(there.states().values()) == {"cached"}
    assert sum(row["seconds"] for row in there.rows()) < 5
    assert [row["fingerprint"] for row in there.rows()] == [row["fingerprint"] for row in finished.rows()]
    assert (there.newest() / "report.html").stat().st_size > 10_000


def test_another_filter_re_runs_the_filter_and_what_follows_it_alone(there: mini.Place, finished: mini.Place) -> None:
    change = ("--set", "corpus.filter.min_words=40")
    plan = json.loads(there.call("plan", "mini.yaml", *change, "--json").stdout)
    assert [step["label"] for step in plan if step["action"] == "reuse"] == ["site", "links", "crawl", "extract"]
    assert {step["label"] for step in plan if step["action"] != "reuse"} == {"filter", "dedup", *LATER}
    rows = there.run(*mini.RUN, *change, "--until", "pairs")
    done = [row["label"] for row in rows if row["state"] == "done"]
    assert [row["label"] for row in rows if row["state"] == "cached"] == ["site", "links", "crawl", "extract"]
    assert done == ["filter", "dedup", *LATER[:6]]
    before = {row["label"]: row["fingerprint"] for row in finished.rows()}
    assert all(row["fingerprint"] != before[row["label"]] for row in rows if row["state"] == "done")
    [longer] = [there.made(row) for row in rows if row["label"] == "filter"]
    assert min(len(row["text"].split()) for row in mini.table(mini.shards(longer))) >= 40


@pytest.mark.parametrize("change", ["resources.ranks=2", "models.gpt.pretrain.save_every=7"])
def test_what_says_only_how_makes_nothing_anew(there: mini.Place, change: str) -> None:
    plan = json.loads(there.call("plan", "mini.yaml", "--set", change, "--json").stdout)
    assert {step["action"] for step in plan} == {"reuse"}
