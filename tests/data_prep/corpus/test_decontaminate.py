"""Items of tasks are put into documents on purpose; what is found and taken out is counted against what was put in."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import decontaminate, overlap, task_texts
from data_prep.corpus.decontaminate import DECONTAMINATE, DecontaminateConfig, TaskFiles
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError
from infra.stage import run
from infra.store import Store

SYLLABLES = ["ka", "lo", "mi", "ten", "ru", "sa", "vor", "ny", "del", "pi", "gra", "shu"]


def sentence(rng: Random, number: int) -> str:
    return " ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(number))


def task(folder: Path, name: str, rows: list[str]) -> TaskFiles:
    path = folder / f"{name}.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{row}\t{n % 2}\n" for n, row in enumerate(rows)))
    return TaskFiles(name, (SourceFile.of(path),))


def repunctuated(text: str) -> str:
    return ", ".join(word.upper() if n % 3 else f"“{word}”" for n, word in enumerate(text.split())) + "!!"


KINDS = {
    "verbatim": lambda rng, item: item,
    "re-wrapped": lambda rng, item: "\n".join(textwrap.wrap(item, 40)),
    "in filler": lambda rng, item: f"{sentence(rng, 150)} {item} {sentence(rng, 150)}",
    "punctuated": lambda rng, item: repunctuated(item),
    "in a list": lambda rng, item: "\n".join(f"> {line}" for line in textwrap.wrap(item, 30)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["cut", "drop"])
def test_every_injected_item_is_found_and_no_clean_document_is_touched(kind, action, given, rows, store, local, tmp_path) -> None:
    rng = Random(kind)
    items = [sentence(rng, 13 + n % 20) for n in range(60)]
    dirty = [{"url": f"http://d.test/{n}", "text": KINDS[kind](rng, item)} for n, item in enumerate(items)]
    clean = [{"url": f"http://c.test/{n}", "text": sentence(rng, 200)} for n in range(60)]
    config = DecontaminateConfig((task(tmp_path, "mood", items),), action=action)
    made = run(DECONTAMINATE, config, {"documents": given([dirty[:30] + clean[:30], [], clean[30:] + dirty[30:]])}, store, local)
    told = rows(made.side("overlaps"))
    recall = len({row["url"] for row in told}) / len(dirty)
    assert recall == 1.0
    assert {row["url"] for row in told} == {row["url"] for row in dirty}
    kept = {row["url"]: row["text"] for row in rows(made.shards)}
    assert {url: kept[url] for url in kept if "c.test" in url} == {row["url"]: row["text"] for row in clean}
    left = overlap.grams(list(kept.values()), 13).values
    assert not np.isin(overlap.grams(items, 13).values, left).any()
    assert made.counts["items_dirty.mood"] == made.counts["overlaps.mood"] == 60
    assert made.counts["cut"] == (60 if action == "cut" and kind == "in filler" else 0)
    assert made.counts.get("removed.mood", 0) + made.counts["kept"] == made.counts["read"] == 120


def test_the_text_around_an_item_stays_but_for_a_window(given, rows, store, local, tmp_path) -> None:
    rng = Random(1)
    before, item, after = sentence(rng, 100), sentence(rng, 15), sentence(rng, 100)
    documents = given([[{"url": "http://a.test/", "text": f"{before} {item} {after}"}]])
    made = run(DECONTAMINATE, DecontaminateConfig((task(tmp_path, "t", [item]),)), {"documents": documents}, store, local)
    [row] = rows(made.shards)
    head, tail = row["text"].split("\n\n")
    assert before.startswith(head) and after.endswith(tail)
    assert 200 <= len(before) - len(head) <= 215 and 200 <= len(after) - len(tail) <= 215
    assert set(row["text"].split()) <= set(before.split()) | set(after.split())  # no word is cut in two
    [told] = rows(made.side("overlaps"))
    assert (told["task"], told["grams"], told["fate"]) == ("t", 3, "cut")
    assert item.startswith(told["words"])
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS


def test_a_document_in_too_many_pieces_or_with_too_little_left_is_removed(given, rows, store, local, tmp_path) -> None:
    rng = Random(2)
    items = [sentence(rng, 14) for _ in range(12)]
    torn = " ".join(f"{item} {sentence(rng, 120)}" for item in items)
    bare = f"{sentence(rng, 20)} {items[0]} {sentence(rng, 20)}"
    documents = given([[{"url": "http://torn.test/", "text": torn}, {"url": "http://bare.test/", "text": bare}]])
    made = run(DECONTAMINATE, DecontaminateConfig((task(tmp_path, "t", items),)), {"documents": documents}, store, local)
    assert made.counts["kept"] == 0 and made.counts["removed.t"] == 2
    assert [(row["url"], row["task"]) for row in rows(made.side("removed"))] == [("http://torn.test/", "t"), ("http://bare.test/", "t")]


def test_short_items_are_listed_as_not_checkable(given, rows, store, local, tmp_path) -> None:
    rng = Random(3)
    long, short = sentence(rng, 13), sentence(rng, 12)
    documents = given([[{"text": f"{short} {sentence(rng, 30)}"}]])
    made = run(DECONTAMINATE, DecontaminateConfig((task(tmp_path, "t", [long, short]),)), {"documents": documents}, store, local)
    listed = rows(made.side("items"))
    assert [(row["row"], row["words"], row["state"]) for row in listed] == [(3, 12, "unchecked")]
    assert (made.counts["items.t"], made.counts["items_unchecked.t"], made.counts["items_clean.t"]) == (2, 1, 1)
    assert made.counts["kept"] == 1


def test_what_many_documents_say_stays_and_its_item_is_told(given, rows, store, local, tmp_path) -> None:
    rng = Random(4)
    phrase, secret = sentence(rng, 13), sentence(rng, 13)
    common = [{"url": f"http://a.test/{n}", "text": f"{sentence(rng, 60)} {phrase} {sentence(rng, 60)}"} for n in range(11)]
    documents = given([common, [{"url": "http://b.test/", "text": f"{sentence(rng, 60)} {secret} {sentence(rng, 60)}"}]])
    config = DecontaminateConfig((task(tmp_path, "t", [phrase, secret]),))
    made = run(DECONTAMINATE, config, {"documents": documents}, store, local)
    assert [row["url"] for row in rows(made.side("overlaps"))] == ["http://b.test/"]
    assert made.counts["common_grams"] == made.counts["items_common.t"] == made.counts["items_dirty.t"] == 1
    strict = run(DECONTAMINATE, DecontaminateConfig(config.tasks, max_documents=None), {"documents": documents}, store, local)
    assert strict.counts["overlaps.t"] == 12


def test_counts_are_by_task_and_a_document_is_removed_once(given, store, local, tmp_path) -> None:
    rng = Random(5)
    one, two = sentence(rng, 14), sentence(rng, 14)
    tasks = (task(tmp_path, "first", [one]), task(tmp_path, "second", [two, one]))
    made = run(DECONTAMINATE, DecontaminateConfig(tasks), {"documents": given([[{"text": f"{one} {two}"}]])}, store, local)
    assert (made.counts["grams.first"], made.counts["grams.second"]) == (2, 4)
    assert made.counts["removed.first"] == 1 and "removed.second" not in made.counts


def test_one_shard_or_many_and_a_second_try_give_the_same_rows(given, rows, content, tmp_path, local) -> None:
    rng = Random(6)
    items = [sentence(rng, 20) for _ in range(10)]
    texts = [{"url": f"http://a.test/{n}", "text": f"{sentence(rng, 80)} {items[n % 20] if n % 20 < 10 else ''}"} for n in range(40)]
    config = DecontaminateConfig((task(tmp_path, "t", items),))
    whole = run(DECONTAMINATE, config, {"documents": given([texts])}, Store(tmp_path / "a"), local)
    parts = {"documents": given([texts[:7], texts[7:30], texts[30:]])}
    split = run(DECONTAMINATE, config, parts, Store(tmp_path / "b"), local)
    assert rows(whole.shards) == rows(split.shards) and rows(whole.side("overlaps")) == rows(split.side("overlaps"))
    assert whole.counts == split.counts
    out = tmp_path / "out"  # killed after the first shard: the rest is done, the same bytes come
    decontaminate.work(config, parts, out, local)
    for late in (out / "00001.arrow", out / "00002.arrow", out / "items" / "00000.arrow", out / ".work" / "hits" / "00002.arrow"):
        late.unlink()
    decontaminate.work(config, parts, out, local)
    assert {name: (out / name).read_bytes() for name in content(split)} == content(split)


def test_tokenised_task_files_match_running_text() -> None:
    tokenised = "it does n't matter that they ca n't say ; you wo n't be told -- and is n't it 's own reward ?"
    running = "It doesn’t matter that they can't say; you won't be told—and isn't it's own\nreward?"
    assert overlap.grams([tokenised], 13).values.tolist() == overlap.grams([running], 13).values.tolist() != []


KOREAN = "나는 어제 저녁에 친구와 함께 극장에서 그 영화를 아주 재미있게 보고 늦게 집으로 돌아왔다"
CHINESE = "我昨天晚上和朋友一起在电影院看了那部电影"
HINDI = "मैंने कल शाम को अपने दोस्त के साथ सिनेमा में वह फिल्म बहुत मज़े से देखी थी"


@pytest.mark.parametrize("text", [KOREAN, CHINESE, HINDI])
def test_other_scripts_have_words_too(text: str) -> None:
    inside = overlap.grams([f"( {text} )... 1 2 3"], 13).values
    assert len(overlap.grams([text], 13).values) and np.isin(overlap.grams([text], 13).values, inside).all()


def slow_words(text: str) -> list[str]:
    return [overlap.form(word) for word in re.findall(r"[a-z0-9é]+", text) if overlap.form(word)]


@drawn(st.lists(st.text(alphabet="ab c\n.,'nté-", max_size=60), max_size=4), st.integers(2, 4))
def test_grams_are_those_of_a_plain_walk_over_the_words(texts: list[str], n: int) -> None:
    found = overlap.grams(texts, n)
    named: dict[int, tuple[str, ...]] = {}
    for d, text in enumerate(texts):
        words = slow_words(text)
        expected = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        values = found.values[found.starts[d] : found.starts[d + 1]].tolist()
        assert len(values) == len(expected)
        for value, gram in zip(values, expected, strict=True):
            assert named.setdefault(value, gram) == gram
        assert overlap.count(text) == len(words) == len(overlap.spans(text))
    assert len(set(named.values())) == len(named)


@drawn(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert len(overlap.grams([text], 3).values) == max(0, len(overlap.spans(text)) - 2)


def test_task_files_of_every_kind_are_read(tmp_path: Path) -> None:
    files = {
        "a.tsv": 'say "so\t1\n',
        "a.csv": '"say ""so",1\n',
        "a.jsonl": json.dumps({"q": {"x": ['say "so']}, "n": 1}) + "\n{torn\n",
        "a.json": json.dumps({"data": [{"context": 'say "so', "n": 3}]}),
        "a.txt": '\n\nsay "so\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert any('say "so' in item.texts for item in task_texts.items(SourceFile.of(tmp_path / name))), name
    with pytest.raises(ConfigError, match=r"must end in \.tsv"):
        DecontaminateConfig((TaskFiles("t", (SourceFile("x.exe", "", "x.exe"),)),))
    gone = SourceFile.of(tmp_path / "a.tsv")
    (tmp_path / "a.tsv").write_text("other")
    with pytest.raises(ArtifactError, match="not the file"):
        list(task_texts.items(gone))


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"action": "burn"}, {"ngram": 1}, {"window": -1}, {"max_documents": 0}):
        with pytest.raises(ConfigError, match="decontaminate"):
            DecontaminateConfig(**wrong)
