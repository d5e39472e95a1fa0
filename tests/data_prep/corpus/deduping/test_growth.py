"""A corpus deduplicated day by day is the corpus of one run on all days."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import clusters
from data_prep.corpus.dedup import DEDUP, DedupConfig
from data_prep.corpus.deduping import corpus as places
from data_prep.corpus.deduping import edges, fates, signing
from infra.artifact import SEAL, Artifact, fingerprint, seal
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import Stage, run
from infra.store import Store

Row = dict[str, Any]
LOOSE = {"jaccard": 0.3, "permutations": 64, "ngram": 1}  # one slot a band: a pair at the threshold is missed once in 10^10
RULES = (("longest", "karma", "id"), ("karma", "longest"), ("id",), ("karma",))


def document(id: str, text: str, karma: int | None = None) -> Row:
    facts = {"url": f"http://x.test/{id}", "host": "x.test", "title": "", "language": "", "source": ""}
    return {"id": id, "text": text, "karma": karma, **facts}


def _put(tables: list[pa.Table], _config: object, _inputs: object, out: Path, _compute: object) -> dict[str, int]:
    for number, table in enumerate(tables):
        shards.write(table, out / shards.name(number))
    return {"read": 0, "kept": 0}


@dataclass
class Days:
    """A store in which a corpus grows."""

    store: Store
    config: DedupConfig
    made: list[Artifact] = field(default_factory=list)

    def given(self, rows: list[Row], parts: int) -> Artifact:
        tables = [pa.Table.from_pylist(rows[n::parts], schema=schemas.DOCUMENTS) for n in range(parts)]
        name = fingerprint([table.to_pylist() for table in tables])
        return run(Stage(f"given-{name}", 1, partial(_put, tables)), None, {}, self.store, LocalCompute())

    def add(self, rows: list[Row], parts: int = 1) -> Artifact:
        earlier = {"earlier": self.made[-1]} if self.made else {}
        self.made.append(run(DEDUP, self.config, {"documents": self.given(rows, parts), **earlier}, self.store, LocalCompute()))
        check_ledger(self.made[-1])
        return self.made[-1]


@contextmanager
def days(**config: Any) -> Iterator[Days]:
    memory = Path("/dev/shm")  # hundreds of small artifacts, none of which has to outlive a crash
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder, mock.patch("os.fsync"):
        yield Days(Store(folder), DedupConfig(**{**LOOSE, **config}))


def rows_of(paths: list[Path]) -> list[Row]:
    return [row for path in paths for row in shards.read(path).to_pylist()]


def kept(artifact: Artifact) -> set[tuple[str, str]]:
    found = [(row["id"], row["text"]) for row in rows_of(artifact.shards)]
    assert len(set(found)) == len(found)
    return set(found)


def clusters_of(artifact: Artifact) -> set[frozenset[tuple[str, str]]]:
    """The members of each cluster of more than one id: whether they stay, and how alike they are to what stays."""
    groups: dict[str, set[Any]] = defaultdict(set)
    for row in rows_of(artifact.side("clusters")):
        groups[row["cluster"]].add((row["document"], row["survivor"], round(row["jaccard"], 12)))
    return {frozenset(group) for group in groups.values() if len({id for id, _, _ in group}) > 1}


def proposals(artifact: Artifact) -> dict[frozenset[int], tuple[int, float]]:
    """By contents, how many bands propose a pair and how alike it is."""
    content = [row["low"] for row in rows_of(artifact.side("signatures"))]
    pairs = [row for row in rows_of(artifact.side("edges")) if row["bands"]]
    assert all(row["bands"] > 0 for row in pairs)
    return {frozenset((content[row["larger"]], content[row["smaller"]])): (row["bands"], row["jaccard"]) for row in pairs}


def check_ledger(artifact: Artifact) -> None:
    parts = shards.total(shards.counts(path) for path in artifact.shards)
    counts = {name: n for name, n in artifact.counts.items() if name != "new"}
    assert {name: n for name, n in counts.items() if n} == {name: n for name, n in parts.items() if n}
    assert counts["kept"] == sum(shards.read(path).num_rows for path in artifact.shards)
    gone = sum(n for name, n in counts.items() if name.startswith("removed.") and name != "removed.paragraphs")
    assert gone == sum(shards.read(path).num_rows for path in artifact.side("duplicates"))
    for path in artifact.shards:
        counts = shards.counts(path)
        assert counts["read"] == counts["kept"] + sum(n for name, n in counts.items() if name.startswith("removed."))
        assert counts["read"] == shards.read(artifact.path / "signatures" / path.name).num_rows


def newest(seen: list[list[Row]]) -> list[Row]:
    """What a corpus is after some days: of every id the texts of the last day it came; karma as high as it was while the text stayed."""
    found: dict[str, dict[str, Row]] = {}
    for rows in seen:
        today: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            today[row["id"]].append(row)
        for id, versions in today.items():
            before = found.get(id, {})
            found[id] = {}
            for row in versions:
                known = [r["karma"] for r in (before.get(row["text"]), found[id].get(row["text"]), row) if r and r["karma"] is not None]
                found[id][row["text"]] = {**row, "karma": max(known, default=None)}
    return [row for versions in found.values() for row in versions.values()]


def brute_force(rows: list[Row], config: DedupConfig) -> set[tuple[str, str]]:
    """Who stays, by comparing everything with everything."""
    sets = [frozenset("".join(c for c in word if c.isalnum()) for word in row["text"].lower().split()) - {""} for row in rows]
    exact = [tuple(row["text"].lower().split()) or row["text"] for row in rows]
    group = list(range(len(rows)))
    for a, b in itertools.combinations(range(len(rows)), 2):
        both = len(sets[a] & sets[b]) / len(sets[a] | sets[b]) if sets[a] | sets[b] else 0.0
        if exact[a] == exact[b] or (config.near and both >= config.jaccard):
            group = [group[a] if g == group[b] else g for g in group]

    def order(number: int) -> tuple[Any, ...]:
        row = rows[number]
        karma = -row["karma"] if row["karma"] is not None else float("inf")
        facts = {"longest": -len(row["text"]), "karma": karma, "id": row["id"]}
        text = signing.hashed(pa.chunked_array([pa.array([row["text"]])])).tolist()
        return (*(facts[name] for name in (*config.survivor, "id")), text)

    best = {g: min((n for n in range(len(rows)) if group[n] == g), key=order) for g in set(group)}
    return {(rows[n]["id"], rows[n]["text"]) for n in best.values()}


WORDS = st.sampled_from(["a", "b", "c", "d", "e", "A", "b.", "!", "가", "나다"])
TEXTS = st.lists(WORDS, max_size=5).map(" ".join)
KARMA = st.none() | st.integers(0, 3)
IDS = st.sampled_from([f"id{n}" for n in range(9)])


def shuffled_days(ids: st.SearchStrategy[str], most: int) -> st.SearchStrategy[list[tuple[list[Row], int]]]:
    rows = st.lists(st.builds(document, ids, TEXTS, KARMA), max_size=most)
    return st.lists(st.tuples(rows, st.integers(1, 3)), min_size=1, max_size=3)


@settings(max_examples=25)
@drawn(shuffled_days(IDS, 6), st.sampled_from(RULES), st.sampled_from((0.3, 1.0)))
def test_days_leave_what_one_run_leaves_and_what_brute_force_finds(
    seen: list[tuple[list[Row], int]], survivor: Any, jaccard: float
) -> None:
    with days(survivor=survivor, jaccard=jaccard) as grown, days(survivor=survivor, jaccard=jaccard) as once:
        for rows, parts in seen:
            last = grown.add(rows, parts)
        all_rows = newest([rows for rows, _ in seen])
        assert kept(last) == kept(once.add(all_rows, 2)) == brute_force(all_rows, grown.config)
        ever = sum(len(rows) for rows, _ in seen)
        assert last.counts["read"] == ever
        assert last.counts.get("new", ever) == (len(seen[-1][0]) if len(seen) > 1 else ever)


@settings(max_examples=20)
@drawn(shuffled_days(st.integers(0, 99).map(str), 16), st.integers(3, 9))
def test_days_leave_what_one_run_leaves_when_crowds_are_cut_short(seen: list[tuple[list[Row], int]], partition: int) -> None:
    """A crowd of two: what is compared hangs on who is in the bucket; blocks and partitions of next to nothing."""
    small = mock.patch.multiple(clusters, CROWD=2, REACH=1), mock.patch.object(places, "BLOCK", 5), mock.patch.object(edges, "BLOCK", 5)
    with small[0], days(permutations=12) as once:
        expected = once.add(newest([rows for rows, _ in seen]), 3)
        with small[1], small[2], mock.patch.object(fates, "BLOCK", 5), days(permutations=12, partition=partition) as grown:
            for rows, parts in seen:
                last = grown.add(rows, parts)
            assert kept(last) == kept(expected)
            assert clusters_of(last) == clusters_of(expected)
            assert proposals(last) == proposals(expected)


def long_text(*changes: tuple[int, str], size: int = 60) -> str:
    words = [f"w{n}" for n in range(size)]
    for place, word in changes:
        words[place] = word
    return " ".join(words)


STRICT = {"jaccard": 0.8, "permutations": 112, "ngram": 1}


def test_two_earlier_survivors_are_joined_by_a_document_between_them() -> None:
    line = [f"w{n}" for n in range(100)]
    a, b, c = (" ".join(line[start : start + 80]) for start in (0, 8, 16))
    with days(**STRICT) as corpus:
        first = corpus.add([document("a", a), document("c", c)], 2)
        assert first.counts["kept"] == 2
        second = corpus.add([document("b", b + " tail")])
        assert {id for id, _ in kept(second)} == {"b"}
        assert {row["cluster"] for row in rows_of(second.side("clusters"))} == {"b"}
        assert second.counts == {"read": 3, "new": 1, "kept": 1, "removed.exact": 0, "removed.near": 2, "removed.superseded": 0}


def test_the_bridge_goes_and_what_it_joined_comes_back() -> None:
    line = [f"w{n}" for n in range(100)]
    a, b, c = (" ".join(line[start : start + 80]) for start in (0, 8, 16))
    with days(**STRICT) as corpus:
        corpus.add([document("a", a), document("b", b + " tail"), document("c", c)], 2)
        second = corpus.add([document("b", "something else entirely")])
        assert kept(second) == {("a", a), ("c", c), ("b", "something else entirely")}
        assert second.counts["removed.superseded"] == 1
        third = corpus.add([document("b", b + " tail")])
        assert kept(third) == {("b", b + " tail")}
        assert third.counts["removed.superseded"] == 2


def test_the_second_of_a_cluster_stays_when_its_survivor_is_superseded() -> None:
    with days(**STRICT) as corpus:
        corpus.add([document("a", long_text() + " the longest"), document("b", long_text() + " short"), document("c", long_text())])
        second = corpus.add([document("a", "a new page")])
        assert kept(second) == {("b", long_text() + " short"), ("a", "a new page")}
        old = next(row for row in rows_of(second.side("duplicates")) if row["id"] == "a")
        assert (old["text"], old["survivor_id"]) == (long_text() + " the longest", "a")


def test_untouched_shards_are_the_same_files_and_touched_ones_are_made_again() -> None:
    texts = [" ".join(f"{letter}{n}" for n in range(50)) for letter in "abcdef"]
    with days(**STRICT) as corpus:
        first = corpus.add([document(str(n), text) for n, text in enumerate(texts)], 3)  # shard n % 3
        second = corpus.add([document("8", texts[1] + " longer"), document("9", "brand new words here")])
        same = [a.stat().st_ino == b.stat().st_ino for a, b in zip(first.shards, second.shards, strict=False)]
        assert same == [True, False, True]
        for side in ("signatures", "contents"):
            assert all(a.stat().st_ino == b.stat().st_ino for a, b in zip(first.side(side), second.side(side), strict=False))
        assert [path.name for path in second.shards] == [shards.name(n) for n in range(4)]
        third = corpus.add([document("a", texts[0])])  # an equal one, younger by its id: nobody earlier moves
        assert all(a.stat().st_ino == b.stat().st_ino for a, b in zip(second.shards, third.shards, strict=False))
        assert third.counts["removed.exact"] == 1


def test_earlier_texts_are_neither_signed_nor_compared_again() -> None:
    rng = [f"v{n}" for n in range(40)]
    rows = [document(str(n), " ".join([*rng[:35], f"own{n}"])) for n in range(6)]
    with days(**STRICT) as corpus:
        corpus.add(rows, 2)
        compared: list[tuple[int, int]] = []
        signed: list[int] = []

        def compare(where: Any, pairs: Any) -> Any:
            compared.extend(map(tuple, pairs.tolist()))
            return similarities(where, pairs)

        def sign(config: Any, table: pa.Table) -> pa.Table:
            signed.append(table.num_rows)
            return original(config, table)

        similarities, original = edges.similarities, signing.signed
        with mock.patch.object(edges, "similarities", compare), mock.patch.object(signing, "signed", sign):
            corpus.add([document("new", " ".join([*rng[:35], "mine", "more"]))])
        assert signed == [1]
        assert compared
        assert all(larger >= 6 for larger, _ in compared)


def test_an_equal_page_again_changes_nothing_but_raises_karma() -> None:
    with days(**STRICT, survivor=("karma", "id")) as corpus:
        corpus.add([document("a", long_text(), 1), document("b", long_text((3, "x")), 5)])
        second = corpus.add([document("a", long_text(), 2)])
        assert kept(second) == {("b", long_text((3, "x")))}
        third = corpus.add([document("a", long_text(), 9)])
        assert kept(third) == {("a", long_text())}
        [row] = rows_of(third.shards)
        assert row["karma"] == 1  # the earlier page stands as it was fetched
        assert third.counts["removed.superseded"] == 0


def test_another_config_is_refused_before_any_work() -> None:
    with days() as corpus:
        made = corpus.add([document("a", "x y z")])
        for change in ({"jaccard": 0.5}, {"survivor": ("id",)}, {"paragraphs": True}):
            config = DedupConfig(**{**LOOSE, **change})
            with pytest.raises(ConfigError, match=f"made with {next(iter(change))} .* one setting"):
                run(DEDUP, config, {"documents": corpus.given([], 1), "earlier": made}, corpus.store, LocalCompute())
        how = DedupConfig(**LOOSE, partition=7)
        assert run(DEDUP, how, {"documents": corpus.given([], 1), "earlier": made}, corpus.store, LocalCompute()).counts["kept"] == 1


def test_an_artifact_of_another_version_is_refused() -> None:
    with days() as corpus:
        made = corpus.add([document("a", "x y z")])
        manifest = made.path / "manifest.json"
        older = json.loads(manifest.read_text()) | {"version": 1}
        manifest.write_text(json.dumps(older | {SEAL: seal(older)}))
        with pytest.raises(ConfigError, match="another version of textmill"):
            corpus.made = [Artifact(made.stage, made.fingerprint, made.path)]
            corpus.add([])


def test_an_earlier_artifact_alone_is_enough() -> None:
    with days(**STRICT) as corpus:
        corpus.add([document("a", long_text()), document("b", long_text((1, "y")) + " tail"), document("c", "short one")])
        for folder in Path(corpus.store.root).glob("given-*"):
            for path in folder.rglob("*.arrow"):
                path.unlink()
        grown = corpus.add([document("d", long_text((5, "z")))])
        assert {id for id, _ in kept(grown)} == {"b", "c"}
        os.rename(corpus.made[0].path, corpus.made[0].path.with_name("gone"))
        assert {id for id, _ in kept(corpus.add([document("e", long_text() + " tail and more of it")]))} == {"e", "c"}


LINES = st.lists(
    st.sampled_from(["one two three", "One Two  THREE", "four five six seven", "ab cd", "", "eight nine ten", "x"]), max_size=6
)


def cut_by_hand(rows: list[Row], config: DedupConfig) -> dict[str, list[str]]:
    """The lines of words that are left in each document, by id, going through the documents from the best to the last."""

    def order(row: Row) -> tuple[Any, ...]:
        text = signing.hashed(pa.chunked_array([pa.array([row["text"]])])).tolist()
        return -len(row["text"]), -row["karma"] if row["karma"] is not None else float("inf"), row["id"], text

    stays, seen, found = brute_force(rows, config), set(), {}
    for row in sorted((r for r in rows if (r["id"], r["text"]) in stays), key=order):
        left, cut = [], False
        for line in row["text"].split("\n"):
            key = tuple(line.lower().split())
            if len(key) >= config.paragraph_min_words and key in seen:
                cut = True
                continue
            seen.add(key)
            left.append(line)
        if not cut or sum(len(line.split()) for line in left) >= config.paragraph_min_words:
            found[row["id"]] = [line for line in left if line.strip()]
    return found


@settings(max_examples=25)
@drawn(
    st.lists(st.lists(st.tuples(st.integers(0, 5), LINES, KARMA), max_size=5), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(8, 64),
)
def test_days_cut_the_paragraphs_that_one_run_and_a_walk_through_all_documents_cut(seen: Any, parts: int, partition: int) -> None:
    drawn_days = []
    for number, today in enumerate(seen):
        unique = {f"{number % 2}-{id}": document(f"{number % 2}-{id}", "\n".join(lines), karma) for id, lines, karma in today}
        drawn_days.append(list(unique.values()))
    config = {"jaccard": 1.0, "paragraphs": True, "paragraph_min_words": 3}
    with days(**config) as once, days(**config, partition=partition) as grown:
        for rows in drawn_days:
            last = grown.add(rows, parts)
        all_rows = newest(drawn_days)
        expected = once.add(all_rows, 2)
        assert kept(last) == kept(expected)
        found = {id: [line for line in text.split("\n") if line.strip()] for id, text in kept(last)}
        assert found == cut_by_hand(all_rows, grown.config)
        for made in (last, expected):
            shown = rows_of(made.side("paragraphs"))
            assert made.counts.get("cut.paragraphs", 0) == len(shown)
            assert made.counts.get("cut.documents", 0) == len(rows_of(made.side("uncut"))) == len({row["document"] for row in shown})
        assert shown == [] or {row["kept_in"] for row in shown} <= set(found)


def test_cut_paragraphs_are_shown_with_the_document_that_keeps_them() -> None:
    footer = "all rights reserved by the owners of this fine site"
    with days(**{**STRICT, "jaccard": 1.0}, paragraphs=True) as corpus:
        made = corpus.add(
            [
                document("a", f"{long_text()}\n\n{footer}\n\nmore words"),
                document("b", f"first paragraph of b, which is its own\n\n{footer.upper()}\n\nlast paragraph of b"),
                document("c", f"{footer}\nshort"),
            ]
        )
        assert dict(kept(made)) == {
            "a": f"{long_text()}\n\n{footer}\n\nmore words",
            "b": "first paragraph of b, which is its own\n\nlast paragraph of b",
        }
        told = [(row["document"], row["text"], row["kept_in"]) for row in rows_of(made.side("paragraphs"))]
        assert told == [("b", footer.upper(), "a"), ("c", footer, "a")]
        assert (made.counts["removed.paragraphs"], made.counts["cut.paragraphs"], made.counts["cut.documents"]) == (1, 2, 2)
        grown = corpus.add([document("a", "the page is another one now, without that line")])
        assert dict(kept(grown))["b"].splitlines()[2] == footer.upper()  # it came back where it now stands first
        assert "c" not in dict(kept(grown))
