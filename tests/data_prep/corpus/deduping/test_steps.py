"""The steps one by one: against the same thing done in memory, at the borders, with more than a crowd, and broken off anywhere."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.corpus import clusters, words
from data_prep.corpus.dedup import DEDUP, DedupConfig
from data_prep.corpus.deduping import corpus as places
from data_prep.corpus.deduping import edges, fates, life, outside, pairs, paragraphs, signing
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ArtifactError, StageFailed
from infra.stage import run
from infra.store import Store
from tests.benchmarks import bench_dedup

EDGE_KEYS = [0, 1, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]


@drawn(st.lists(st.sampled_from(EDGE_KEYS) | st.integers(0, 2**64 - 1), max_size=40), st.sampled_from((1, 2, 4, 64)), st.integers(1, 7))
def test_keys_on_a_border_stay_together_in_whatever_files(keys: list[int], files: int, piece: int) -> None:
    rows = outside.rows_of(np.array(keys, np.uint64), np.arange(len(keys)))
    with mock_folder() as folder:
        paths = outside.deal(folder / "dealt", (rows[start : start + piece] for start in range(0, len(rows), piece)), files)
        dealt = [outside.load(path, 2) for path in paths]
    assert len(dealt) == files
    assert sorted(map(tuple, np.concatenate(dealt).tolist())) == sorted(map(tuple, rows.tolist()))
    for key in set(keys):
        assert sum(key in part[:, 0] for part in dealt) == 1
    firsts = [part[:, 0].min() for part in dealt if len(part)]
    assert firsts == sorted(firsts)  # ranges of keys, one after the other


@drawn(st.lists(st.integers(0, 9), max_size=40))
def test_crowded_keys_are_those_that_come_twice(keys: list[int]) -> None:
    found = outside.crowded(np.array(keys, np.uint64))
    assert sorted(found.tolist()) == [n for n, key in enumerate(keys) if keys.count(key) > 1]
    grouped = [keys[n] for n in found.tolist()]
    assert len(list(itertools.groupby(grouped))) == len(set(grouped))


@drawn(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1), max_size=50))
def test_a_sieve_never_loses_a_key(held: list[int], asked: list[int]) -> None:
    sieve = outside.Sieve([np.array(held, np.uint64)], len(held))
    assert sieve.may_hold(np.array(held, np.uint64)).all()
    told = sieve.may_hold(np.array(asked, np.uint64))
    assert all(answer for key, answer in zip(asked, told.tolist(), strict=True) if key in held)


def test_a_sieve_lets_few_strangers_through() -> None:
    rng = np.random.default_rng(3)
    sieve = outside.Sieve([rng.integers(0, 2**64 - 1, 1000, np.uint64)], 1000)
    assert sieve.may_hold(rng.integers(0, 2**64 - 1, 100_000, np.uint64)).mean() < 0.1


@settings(max_examples=60)
@drawn(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12), max_size=5))
def test_a_forest_knows_the_components_that_merging_one_by_one_finds(batches: list[list[tuple[int, int]]]) -> None:
    groups: dict[int, set[int]] = {n: {n} for n in range(31)}
    with mock_folder() as folder:
        (folder / "forest").touch()
        forest = clusters.Forest(folder / "forest", 31, "w+")
        for batch in batches:
            forest.join(np.array(batch, np.int64).reshape(-1, 2))
            for a, b in batch:
                groups[a] |= groups[b]
                for n in groups[a]:
                    groups[n] = groups[a]
            assert forest.roots(np.arange(31)).tolist() == [min(groups[n]) for n in range(31)]
        forest.close()
        assert (clusters.Forest(folder / "forest", 31).roots(np.arange(31)) == forest.roots(np.arange(31))).all()


def test_a_long_chain_is_one_component_whatever_the_order_of_its_links(tmp_path: Path) -> None:
    size = 200_000
    for number, order in enumerate((np.arange(size - 1), np.arange(size - 1)[::-1], np.random.default_rng(1).permutation(size - 1))):
        path = tmp_path / str(number)
        path.touch()
        forest = clusters.Forest(path, size, "w+")
        for part in np.array_split(order, 7):
            forest.join(np.stack((part, part + 1), axis=1))
        assert not forest.roots(np.arange(size)).any()


def test_a_forest_costs_disk_only_where_there_are_edges(tmp_path: Path) -> None:
    (tmp_path / "forest").touch()
    forest = clusters.Forest(tmp_path / "forest", 50_000_000, "w+")
    forest.join(np.array([[3, 49_999_999]]))
    forest.close()
    assert (tmp_path / "forest").stat().st_size == 200_000_000
    assert (tmp_path / "forest").stat().st_blocks * 512 < 1_000_000


@drawn(st.lists(st.integers(0, 4), max_size=60))
def test_pairs_under_keys_are_all_pairs_of_small_crowds_and_connect_large_ones(keys: list[int]) -> None:
    content = np.random.default_rng(len(keys)).permutation(len(keys))
    rows = outside.rows_of(np.array(keys, np.uint64), np.arange(len(keys)), content)
    table = pairs.differences(rows, np.full(len(keys), life.IS, np.uint8))
    assert set(table["bands"].to_pylist()) <= {1}
    found = list(zip(table["larger"].to_pylist(), table["smaller"].to_pylist(), strict=True))
    assert found == sorted(set(found))
    assert all(keys[a] == keys[b] and a > b for a, b in found)
    for key in set(keys):
        members = [n for n, k in enumerate(keys) if k == key]
        mine = [pair for pair in found if keys[pair[0]] == key]
        if len(members) <= clusters.CROWD:
            assert sorted(mine) == sorted((b, a) for a, b in itertools.combinations(members, 2))
        else:
            first = min(members, key=lambda n: content[n])
            assert {(max(first, n), min(first, n)) for n in members if n != first} <= set(mine)
            assert len(mine) <= len(members) * (clusters.REACH + 1)


def test_a_crowd_of_100_000_is_compared_in_linear_time() -> None:
    size = 100_000
    rows = outside.rows_of(np.zeros(size), np.arange(size), np.random.default_rng(2).permutation(size))
    found = pairs.differences(rows, np.full(size, life.IS, np.uint8))
    assert size <= found.num_rows <= size * (clusters.REACH + 1)


def test_100_000_equal_documents_need_no_comparison_and_their_clusters_add_up(given: Any, store: Store, local: Any) -> None:
    texts = pa.array(["the same words again and again"] * 100_000)
    table = given([[{"id": "x", "text": "other"}]])
    [path] = table.shards
    one = shards.read(path).replace_schema_metadata(None)
    columns = {name: pa.array(one[name].to_pylist() * 100_000, one.schema.field(name).type) for name in one.column_names}
    crowd = pa.table({**columns, "text": texts, "id": [str(n) for n in range(100_000)]}, schema=one.schema)
    with mock.patch("data_prep.corpus.deduping.corpus.shards.read", side_effect=lambda p: crowd if p == path else shards_read(p)):
        made = run(DEDUP, DedupConfig(), {"documents": table}, store, local)
    assert made.counts == {"read": 100_000, "kept": 1, "removed.exact": 99_999, "removed.near": 0}
    assert [shards.read(path).num_rows for path in made.side("edges")] == [0]
    assert shards.read(made.shards[0])["id"].to_pylist() == ["0"]


shards_read = shards.read


def test_paragraphs_are_cut_without_leaving_holes() -> None:
    text = "a\n\nb\n\nc"
    assert paragraphs.without([text] * 5, [[2], [0], [4], [0, 2], [0, 2, 4]]) == ["a\n\nc", "b\n\nc", "a\n\nb", "c", ""]
    assert paragraphs.without(["a\n\n\nb\nc"], [[4]]) == ["a\n\n\nb"]  # holes that were there stay


def test_paragraph_keys_know_their_row_and_line() -> None:
    texts = ["x y\nshort\nx  Y", "", None, "é\n\nX y z"]
    found = signing.paragraphs(DedupConfig(paragraph_min_words=2), pa.chunked_array([pa.array(texts[:2]), pa.array(texts[2:])]))
    assert list(zip(found["row"].to_pylist(), found["line"].to_pylist(), strict=True)) == [(0, 0), (0, 2), (3, 2)]
    assert len(set(found["high"].to_pylist())) == 2
    with mock.patch.object(words, "BATCH_BYTES", 1), mock.patch.object(signing, "LINES", 1):
        assert signing.paragraphs(DedupConfig(paragraph_min_words=2), pa.chunked_array([pa.array(texts)])).equals(found)


def corpus(families: int) -> list[dict[str, Any]]:
    """Texts with an equal, a near and a distant relative each, and a line that all have."""
    rng = random.Random(5)
    rows = []
    for number in range(families):
        base = [f"w{rng.randrange(3000)}" for _ in range(60)]
        texts = [base, [*base, "tail"], [word.upper() for word in base], [f"x{rng.randrange(3000)}" for _ in range(40)]]
        rows += [
            {"id": f"{number}-{n}", "text": " ".join(t) + "\nfor all of us this is the very same last line"} for n, t in enumerate(texts)
        ]
    return rows


GROWN = {"paragraphs": True, "permutations": 24, "ngram": 3}


def test_partitions_of_a_few_rows_give_the_bytes_of_one_in_memory(articles: Any, given: Any, content: Any) -> None:
    documents = articles[0][:300]
    parts = given([documents[:150], documents[150:200]]), given([documents[200:], documents[:20]])

    def days(root: str, partition: int) -> list[dict[str, bytes]]:
        config, store, made = DedupConfig(jaccard=0.5, paragraphs=True, partition=partition), Store(folder / root), []
        for part in parts:
            inputs = {"documents": part, **({"earlier": made[-1]} if made else {})}
            made.append(run(DEDUP, config, inputs, store, LocalCompute()))
        return [content(artifact) for artifact in made]

    with mock_folder() as folder, mock.patch("os.fsync"):
        whole = days("whole", 1 << 21)
        assert days("small", 40) == whole
    assert any(name.startswith("edges/") for name in whole[0])


def test_made_up_signatures_fall_into_the_clusters_they_were_made_with(capsys: Any) -> None:
    """The benchmark's soak in small: partitions and blocks of a fraction of all."""
    blocks = [mock.patch.object(module, "BLOCK", 5000) for module in (places, edges, fates)]
    with mock_folder() as folder, mock.patch.object(bench_dedup, "SHARD", 5000), mock.patch("os.fsync"), contextlib.ExitStack() as small:
        for block in blocks:
            small.enter_context(block)
        bench_dedup.soak(30_000, folder / "soak", 4000)  # exits with an error if they do not
    assert "kept 27," in capsys.readouterr().out


class Broken(Exception):
    """The plug was pulled."""


@contextlib.contextmanager
def breaking(after: int, for_good: bool) -> Iterator[Callable[[], int]]:
    """Let the steps that make something stand on the disk fail, the one after so many and perhaps all that follow; how many came."""
    count = 0

    def step(real: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == after or (for_good and count > after):
                raise Broken
            return real(*args, **kwargs)

        return tried

    def halved(rows: Any) -> Any:
        nonlocal count
        for row in rows:
            yield row
            count += 1
            if count == after or (for_good and count > after):
                raise Broken

    deal = outside.deal
    with (
        mock.patch("os.replace", step(os.replace)),
        mock.patch("os.rename", step(os.rename)),
        mock.patch.object(Path, "touch", step(Path.touch)),
        mock.patch.object(Path, "rename", step(Path.rename)),
        mock.patch.object(outside, "deal", lambda folder, rows, files: deal(folder, halved(rows), files)),
        mock.patch("os.fsync"),
    ):
        yield lambda: count


@pytest.fixture
def growing(given: Any, content: Any) -> Iterator[tuple[Path, Callable[[Path], dict[str, bytes]], int]]:
    """A folder, a second day's run in a store of that folder, and how many steps the run takes unbroken."""
    rows, config = corpus(5), DedupConfig(**GROWN, partition=6)
    with mock_folder() as folder, mock.patch("os.fsync"):
        first = run(DEDUP, config, {"documents": given([rows[:6], rows[6:12]])}, Store(folder / "first"), LocalCompute())
        changed = [{**rows[0], "text": "a new version of the first page"}, {**rows[4], "text": rows[4]["text"] + " longer"}]
        inputs = {"documents": given([rows[12:], changed]), "earlier": first}

        def again(root: Path) -> dict[str, bytes]:
            return content(run(DEDUP, config, inputs, Store(root), LocalCompute()))

        with breaking(10**9, False) as steps:
            again(folder / "whole")
        assert steps() > 100
        yield folder, again, steps()


def test_when_any_one_step_fails_the_next_try_ends_with_the_same_bytes(growing: Any) -> None:
    folder, again, steps = growing
    whole = again(folder / "whole")
    for after in range(1, steps + 1, 9):
        with pytest.raises((Broken, StageFailed)), breaking(after, False):
            again(folder / str(after))
        assert again(folder / str(after)) == whole, after


def test_broken_off_again_and_again_it_gets_on_and_ends_with_the_same_bytes(growing: Any) -> None:
    folder, again, _ = growing
    broken = 0
    for after in itertools.islice(itertools.cycle((30, 4, 70, 11, 1)), 60):
        try:
            with breaking(after, True):
                again(folder / "broken")
            break
        except (Broken, StageFailed):
            broken += 1
    assert broken > 4
    assert again(folder / "broken") == again(folder / "whole")


SEEDED = """
import pickle, sys
from data_prep.corpus.dedup import DEDUP, DedupConfig
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
inputs, root, config = pickle.loads(bytes.fromhex(sys.argv[1]))
run(DEDUP, config, inputs, Store(root), LocalCompute())
"""


def test_the_seed_of_pythons_hash_changes_nothing(given: Any, content: Any, tmp_path: Path) -> None:
    import pickle

    config = DedupConfig(**GROWN)
    first = run(DEDUP, config, {"documents": given([corpus(3)])}, Store(tmp_path / "first"), LocalCompute())
    inputs = {"documents": given([corpus(5)[8:], [{"id": "0-0", "text": "changed"}]]), "earlier": first}
    found = []
    for seed in ("1", "2"):
        told = pickle.dumps((inputs, str(tmp_path / seed), config)).hex()
        subprocess.run(
            [sys.executable, "-c", SEEDED, told], env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": seed}, check=True
        )
        [made] = Store(tmp_path / seed).all()
        found.append(content(made))
    assert found[0] == found[1]


def test_texts_are_found_again_wherever_they_lie(given: Any, tmp_path: Path) -> None:
    """Kept, cut, removed as duplicate, superseded, cut to nothing: the earlier artifact tells every text as it came."""
    rows = [*corpus(4), {"id": "footer", "text": "for all of us this is the very same last line"}]
    config, store = DedupConfig(**GROWN), Store(tmp_path)
    first = run(DEDUP, config, {"documents": given([rows[:7], rows[7:]])}, store, LocalCompute())
    second = run(DEDUP, config, {"documents": given([[{**rows[1], "text": "new"}]]), "earlier": first}, store, LocalCompute())
    assert all(second.counts[f"removed.{rule}"] for rule in ("exact", "near", "superseded", "paragraphs"))
    where = places.opened(config, {"documents": given([[]]), "earlier": second}, tmp_path / "out", DEDUP.version)
    signing.sign(where, 3)
    where = places.counted(where)
    expected = [row["text"] for row in (*rows[:7], *rows[7:], {"text": "new"})]
    assert [text for shard in range(3) for text in places.original(where, shard)["text"].to_pylist()] == expected
    asked = np.array([0, 1, 2, 6, 7, 9, 16, 17])
    assert [text for _, found in places.texts(where, asked) for text in found.to_pylist()] == [expected[n] for n in asked]


@contextlib.contextmanager
def mock_folder() -> Iterator[Path]:
    import tempfile

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def test_a_side_that_went_missing_is_told(given: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = run(DEDUP, DedupConfig(), {"documents": given([corpus(1)])}, store, LocalCompute())
    (made.path / "signatures" / "00000.arrow").unlink()
    with pytest.raises(ArtifactError, match="signatures/00000.arrow is missing"):
        run(
            DEDUP,
            DedupConfig(),
            {"documents": given([corpus(2)]), "earlier": Artifact("dedup", made.fingerprint, made.path)},
            store,
            LocalCompute(),
        )
