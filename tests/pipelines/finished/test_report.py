"""The report of a small run: the figures add up, strangers' text stays text, nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import html.parser
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from infra.store import Store
from pipelines import report
from pipelines.report import build, markdown
from pipelines.report_scores import flatten

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def store_of(folder):
    return Store(folder.parent.parent / "artifacts")


@pytest.fixture(scope="module")
def page(finished):
    return build(finished, store_of(finished)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def figures(finished, page):
    return json.loads((finished / "report.json").read_text(encoding="utf-8"))


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.handlers, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "action", "data")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_needs_nothing_from_outside(page):
    reader = read(page)
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "@import" not in page and "url(" not in page


def test_text_of_strangers_is_shown_as_text(page, hostile):
    reader = read(page)
    assert reader.handlers == []
    assert hostile in "".join(reader.text)
    assert hostile not in page


def test_tokens_are_told_by_language(figures, finished):
    rows = {row["language"].strip(): row for row in figures["languages"]}
    assert rows["en"]["label"] == "encode pieces" and rows["all"]["tokens"] == rows["en"]["tokens"] + rows["ko"]["tokens"] == 12
    assert "Tokens by language" in (finished / "report.html").read_text()


def test_the_funnel_adds_up(figures):
    rows = {row["stage"]: row for row in figures["funnel"]}
    assert list(rows) == ["links", "crawl", "extract", "filter", "dedup", "encode pieces"]
    for row in rows.values():
        assert row["read"] == row["kept"] + row["removed"] + row["set_aside"]
    assert rows["encode pieces"]["tokens"] == 12
    told = [(row["stage"], row["rule"], row["count"]) for row in figures["removed"]]
    assert told == [("links", "low_karma", 5), ("links", "wrong_columns", 1), ("filter", "min_words", 2), ("dedup", "near", 1)]


def test_every_rule_comes_with_examples(figures):
    shown = {row["rule"]: row["examples"] for row in figures["removed"]}
    assert [example["where"] for example in shown["min_words"]] == ["http://site.test/4.html", "http://site.test/5.html"]
    assert shown["near"] == [{"where": "http://site.test/3.html", "text": "Jaccard 0.900 with http://site.test/0.html, which was kept"}]
    assert {row["outcome"]: row["count"] for row in figures["crawl"]["outcomes"]} == {"ok": 6, "http_error": 1, "robots": 1, "dead_host": 1}


def test_the_unigram_line_is_the_entropy_that_a_hand_count_gives(figures):
    assert figures["curves"][0]["unigram"] == 1.5  # evaluated: on the very places that the model was asked for
    train, valid = [1, 2, 3, 1, 1, 1, 2, 2], [1, 2, 3, 3]
    chance = {token: (train.count(token) + 1) / (len(train) + 4) for token in range(4)}
    expected = -sum(math.log(chance[token]) for token in valid) / len(valid)
    assert figures["curves"][1]["unigram"] == pytest.approx(expected, abs=1e-4)
    assert [curve["label"] for curve in figures["curves"]] == ["bert", "half", "half-control", "packages bert", "packages half"]


def test_a_student_stands_beside_its_teacher_and_its_control(figures):
    (student,) = figures["students"]
    assert student["names"] == {"teacher": "bert", "student": "half", "control": "half-control"}
    rows = {row["measure"]: row for row in student["rows"]}
    assert rows["packages: accuracy"]["teacher"]["value"] == 0.9
    assert rows["packages: accuracy"]["student"]["low"] == pytest.approx(0.77)
    assert rows["parameters"]["student"] == 1_000
    assert rows["agreement"]["control"]["value"] == 0.77
    assert student["minus_control"] == [{"measure": "loss", "value": -0.25, "low": -0.28, "high": -0.23}]


def test_the_page_says_how_much_of_the_teacher_is_kept(page):
    assert "88.9 %" in page
    assert "0.8 [0.77, 0.82]" in page


def test_task_files_stand_once_with_their_labels_and_the_rows_that_were_not_used(figures, page, finished):
    train, dev = figures["task_files"]
    assert (train["task"], train["file"], train["rows"], train["quarantined"]) == ("packages", "train", 98, "2 quotes (lines 20, 71)")
    assert train["labels"].startswith("no 40, ") and train["labels"].endswith(" 58")
    assert (dev["labels"], dev["unknown_labels"], dev["duplicate_ids"]) == ("no 29, maybe 1", "maybe 1", 3)
    text = " ".join(read(page).text)
    assert "Task files" in text and "2 quotes (lines 20, 71)" in text and "maybe 1" in text
    assert "| packages | dev | 30 | no 29, maybe 1 |" in markdown(finished, store_of(finished))


def test_the_same_run_makes_the_same_page(finished, page):
    assert build(finished, store_of(finished)).read_text(encoding="utf-8") == page


def test_a_run_that_ended_early_still_has_a_page(until_dedup):
    page = build(until_dedup, store_of(until_dedup)).read_text(encoding="utf-8")
    assert "min_words" in page and "Losses" not in page
    assert json.loads((until_dedup / "report.json").read_text())["scores"] == []


def test_a_run_without_anything_still_has_a_page(tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    assert "unknown" in build(tmp_path / "runs" / "empty", Store(tmp_path / "artifacts")).read_text()
    assert markdown(tmp_path / "runs" / "empty").startswith("# empty")


def test_a_failed_stage_and_one_whose_artifact_is_gone_do_not_stop_the_page(finished, tmp_path):
    folder = tmp_path / "runs" / "broken"
    shutil.copytree(finished, folder)
    rows = json.loads((folder / "stages.json").read_text())
    rows[3] |= {"state": "failed"}
    rows[4] |= {"fingerprint": "0" * 12}
    (folder / "stages.json").write_text(json.dumps(rows))
    build(folder, store_of(finished))
    told = json.loads((folder / "report.json").read_text())
    assert [row["stage"] for row in told["funnel"]] == ["links", "crawl", "extract", "encode pieces"]


def test_markdown_is_small_and_cannot_be_broken_out_of(finished, page, hostile, monkeypatch):
    text = markdown(finished, store_of(finished))
    assert len(text.encode()) < 200_000
    assert text.count("data:image/png;base64,") == 5
    assert "| links | 15 | 9 | 5 | 1 |" in text
    assert hostile not in text and "<script" not in text
    monkeypatch.setattr(report, "MARKDOWN_LIMIT", 40_000)
    small = markdown(finished)
    assert len(small.encode()) <= 40_000
    assert small.count("(data:") == small.count("[losses]")


def test_nested_scores_become_rows():
    nested = {
        "valid": {"loss": 1.5, "ok": True, "name": "x"},
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3},
        "deep": {"a": {"b": 2}},
    }
    assert list(flatten(nested)) == [
        {"measure": "valid.loss", "value": 1.5},
        {"measure": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6},
        {"measure": "deep.a.b", "value": 2},
    ]


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_page_without_an_error_or_a_request(finished, page):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1200, "height": 900})
        errors, requests, dialogs = [], [], []
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        address = (finished / "report.html").as_uri()
        shown.goto(address)
        shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        widths = shown.evaluate("[...document.images].map(image => image.naturalWidth)")
        overflow = shown.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        browser.close()
    assert (errors, dialogs) == ([], [])
    assert {re.match(r"[a-z]+:", each)[0] for each in requests} <= {"file:", "data:"}
    assert [each for each in requests if each.startswith("file:")] == [address]
    assert len(widths) == 10 and min(widths) > 100, "of each training its losses, and what else was told of it"
    assert overflow <= 0
    assert Path(finished / "report.html").stat().st_size < 2_000_000


def drawn(points):
    from pipelines.report_plots import training_curves

    uri = training_curves({"points": points})
    return base64.b64decode(uri.partition("base64,")[2]).decode() if uri else ""


def test_everything_that_was_told_of_a_training_is_drawn_once_it_was_told():
    """Charts are counted by their axes; matplotlib names each in the SVG."""
    bare = [{"step": step, "loss": 2.0 - step, "parts": {"next": 2.0 - step}, "lr": 1e-3} for step in range(3)]
    speed = {"real_tokens_per_s": 900.0, "computed_tokens_per_s": 1000.0, "mfu": 0.5, "ceiling_flops": 1e11, "ceiling": "tried"}
    speed |= {"data_wait": 0.01, "communication": 0.1, "peak_bytes": 10**9}
    full = [{**point, "norm": 1.0, "speed": speed, "valid_bits_per_byte": 3.0, "valid_perplexity": 20.0} for point in bare]
    full = [{**point, "parts": {"mlm": 1.0, "pair": 0.5}} for point in full]
    assert drawn([{"step": 0}]) == ""
    assert drawn(bare).count('id="axes_') == 2, "the rate, and the empty place beside it"
    assert drawn(full).count('id="axes_') == 10, "nine charts, and one empty place"
    assert drawn(full) == drawn(full)
    told = report.speeds(full)
    assert "50.0 % of a ceiling of 1e+11 flop/s (tried)" in told and "1.0 % of the time waits for data" in told
    assert report.speeds(bare) == ""
