"""From a recipe to the report: lists, languages, masks and task files, the same bytes for any hash seed and any Unicode form."""

from __future__ import annotations

import json
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.end_to_end import mini

PROSE = (
    "In the spring of that year the two brothers went to live with their aunt, who kept a small café by the harbour. "
    "The older one soon learned to mend nets and to read the weather, while the younger spent whole days with a Dutch "
    "sailor, listening to stories of storms, whales and cities built of coral. Neither of them wished to go back to school. "
)
DEUTSCH = (
    "Im Frühling zogen die beiden Brüder zu ihrer Tante, die am Hafen eine kleine Gaststätte führte und für jeden ein gutes Wort hatte. "
    "Der ältere lernte bald, Netze zu flicken und das Wetter zu lesen, während der jüngere ganze Tage mit einem Seemann verbrachte. "
)
KOREAN = (
    "그해 봄에 두 형제는 항구 옆에서 작은 식당을 하는 이모와 함께 살게 되었다. 형은 곧 그물을 고치고 날씨를 읽는 법을 배웠지만 "
    "동생은 하루 종일 늙은 선원과 함께 앉아서 먼 나라의 이야기를 들었고 아무도 학교로 돌아가고 싶어 하지 않았다."
)
ITEM = "nobody ever asked the keeper of the old lighthouse why he painted its door green each winter"
TEXTS = {
    "http://good.example/english": PROSE,
    "http://good.example/mail": f"{PROSE} Write to ann@harbour.example.org or call +44 20 7946 0958.",
    "http://good.example/deutsch": DEUTSCH,
    "http://good.example/korean": KOREAN,
    "http://www.bad.example/page": f"First of all: {PROSE}",
    "http://good.example/casino/page": f"Then again: {PROSE}",
    "http://good.example/rude": f"{PROSE} What a gräßlich <b>word</b>, he said.",
    "http://good.example/spam": "<script>alert(1)</script> the shoes of the shop " * 30,
    "http://good.example/french": "Au printemps les deux frères vivaient chez leur tante au bord de la mer et ne voulaient plus rien. " * 3,
    "http://good.example/task": f"{PROSE * 2} {ITEM.upper().replace(' ', chr(10))} {PROSE[::-1]}",
}
RECIPE = """\
name: clean
corpus:
  sources:
    - {kind: documents, path: documents.jsonl, shards: 3}
  filter:
    languages: [en, de, ko]
    min_words: 20
    duplicate_ngrams: []
    block_hosts: hosts*.txt
    block_url_words: words.txt
    bad_words: bad/*
    mask: [emails, phones]
  decontaminate: {max_documents: 10}
tokenizers:
  bytes: {kind: byte_bpe, vocab: 512}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {tokens: 4_096, batch_tokens: 512, length: 64}}
tasks:
  house: {kind: classify, train: task.tsv, dev: task.tsv, models: [gpt]}
"""
RUN = ("run", "clean.yaml", "--plain", "--until", "decontaminate")
REJECTED = {
    "http://www.bad.example/page": "blocked_host", "http://good.example/casino/page": "url_words", "http://good.example/french": "language",
    "http://good.example/rude": "bad_words", "http://good.example/spam": "top_2_gram",
}  # fmt: skip


def make(folder: Path, form: str) -> mini.Place:
    """The recipe, its documents and its lists, every text in one form of Unicode."""
    place = mini.Place.make(folder)
    files = {
        "clean.yaml": RECIPE,
        "documents.jsonl": "".join(
            json.dumps({"url": url, "text": unicodedata.normalize(form, text)}, ensure_ascii=False) + "\n" for url, text in TEXTS.items()
        ),
        "hosts-1.txt": "other.example\n", "hosts-2.txt": "0.0.0.0 bad.example\n", "words.txt": "casino\n",
        "bad/en": unicodedata.normalize(form, "gräßlich\n"), "bad/de.txt": "zogen nie\n",
        "task.tsv": f"text\tlabel\n{ITEM}\t1\ntoo short an item\t0\n",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> mini.Place:
    made = make(tmp_path_factory.mktemp("clean"), "NFC")
    made.run(*RUN)
    return made


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = "", set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_document_is_kept_or_says_which_rule_it_broke(place: mini.Place) -> None:
    made = {row["label"]: place.made(row) for row in place.rows()}
    rejected = {row["url"]: row["rule"] for row in mini.table(mini.shards(made["filter"], "rejected"))}
    assert rejected == REJECTED
    kept = {row["url"]: row for row in mini.table(mini.shards(made["filter"]))}
    assert set(kept) | set(rejected) == set(TEXTS) and not set(kept) & set(rejected)
    assert {row["language"] for row in kept.values()} == {"en", "de", "ko"}
    assert kept["http://good.example/mail"]["text"].endswith("Write to email@example.com or call 555-0100.")
    counts = mini.counts(made["filter"])
    assert (counts["masked.emails"], counts["masked.phones"], counts["read"], counts["kept"]) == (1, 1, 10, 5)
    left = {row["url"]: row["text"] for row in mini.table(mini.shards(made["decontaminate"]))}
    assert "LIGHTHOUSE" in kept["http://good.example/task"]["text"] and "LIGHTHOUSE" not in left["http://good.example/task"]
    counts = mini.counts(made["decontaminate"])
    assert (counts["cut"], counts["overlaps.house"], counts["items_unchecked.house"]) == (1, 1, 2)


def test_the_report_and_show_tell_each_rule_with_examples_as_text(place: mini.Place) -> None:
    page = _Words()
    page.feed((place.newest() / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    for words in (*REJECTED.values(), *REJECTED, "<script>alert(1)</script>", "What of the tasks stood in the corpus", "LIGHTHOUSE WHY HE"):
        assert words in page.text, words
    shown = json.loads(place.call("show", "filter", "--json").stdout)
    assert {row["url"]: rule for rule, rows in shown["rejected"].items() for row in rows} == REJECTED
    shown = json.loads(place.call("show", "decontaminate", "--json").stdout)
    assert [row["fate"] for row in shown["rejected"]["house"]] == ["cut"]
    assert {row["row"] for row in shown["items"]["unchecked"]} == {3}
    printed = place.call("show", "filter").stdout
    assert "rejected: blocked_host" in printed and "alert(1)" in printed


@pytest.mark.parametrize(("seed", "form"), [("1", "NFC"), ("2", "NFD")])
def test_hash_seeds_and_unicode_forms_change_no_byte(place: mini.Place, tmp_path: Path, monkeypatch, seed: str, form: str) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    other = make(tmp_path / "other", form)
    other.run(*RUN)
    for row, twin in zip(place.rows(), other.rows(), strict=True):
        if row["label"] != "documents" or form == "NFC":  # a document's name and its line are as its file says
            assert mini.content(place.made(row)) == mini.content(other.made(twin)), row["label"]


def test_a_list_that_is_not_there_is_told_before_any_work(place: mini.Place) -> None:
    told = place.call("plan", "clean.yaml", "--until", "decontaminate", "--set", "corpus.filter.block_hosts=gone.txt")
    assert told.returncode != 0 and "gone.txt" in told.stderr + told.stdout
