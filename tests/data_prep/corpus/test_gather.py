from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import schemas, shards
from data_prep.corpus.gather import GATHER, GatherConfig
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store


def test_a_page_that_two_sets_hold_is_taken_once_from_the_first_by_name(given, rows, store, local) -> None:
    crawl = given(
        [[{"url": "http://a.test/", "text": "crawled a"}, {"url": "http://b.test/", "text": "b"}], [{"url": "http://c.test/", "text": "c"}]]
    )
    books = given([[{"id": "1", "text": "book one"}, {"url": "http://a.test/", "text": "another a"}], []])
    notes = given([[{"id": "1", "text": "note one"}, {"id": "1", "text": "book one"}]])
    made = run(GATHER, GatherConfig(), {"z_crawl": crawl, "a_books": books, "notes": notes}, store, local)
    assert [row["text"] for row in rows(made.shards)] == ["book one", "another a", "note one", "b", "c"]
    assert [path.name for path in made.shards] == [shards.name(n) for n in range(5)]
    assert {"read": 7, "kept": 5, "removed.same_id": 2}.items() <= made.counts.items()
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS


def test_continuing_gives_the_same_bytes(given, content, tmp_path: Path) -> None:
    class Stops(LocalCompute):
        def map(self, name, fn, items):
            items = list(items)
            if name == "gather":
                super().map(name, fn, items[:1])
                raise KeyboardInterrupt
            return super().map(name, fn, items)

    parts = {"one": given([[{"text": "a"}], [{"text": "b"}]]), "two": given([[{"text": "b"}, {"text": "c"}]])}
    store = Store(tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        run(GATHER, GatherConfig(), parts, store, Stops())
    whole = run(GATHER, GatherConfig(), parts, Store(tmp_path / "whole"), LocalCompute())
    assert content(run(GATHER, GatherConfig(), parts, store, LocalCompute())) == content(whole)


def test_nothing_gathered_is_nothing(given, store, local) -> None:
    assert run(GATHER, GatherConfig(), {"one": given([[]])}, store, local).counts["kept"] == 0
