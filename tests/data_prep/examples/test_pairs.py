from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from data_prep import shards
from data_prep.examples.pairs import PAIRS, PairsConfig, chunks, draw
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

LENGTHS = st.lists(st.integers(1, 60), min_size=2, max_size=80)


@given(LENGTHS, st.integers(5, 200), st.text(max_size=5))
def test_every_sentence_is_in_exactly_one_chunk_and_no_side_is_empty(lengths: list[int], length: int, key: str) -> None:
    found = list(chunks(np.array(lengths), PairsConfig(length), key))
    assert [a for a, _, _ in found] == [0, *(end for _, _, end in found)][:-1] and found[-1][2] == len(lengths)
    assert all(start < split < end for start, split, end in found)


@given(LENGTHS, st.integers(5, 200), st.text(max_size=3))
def test_a_chunk_ends_with_the_sentence_that_reaches_the_target_or_before_it(lengths: list[int], length: int, key: str) -> None:
    """Forwards in half of the documents, from the last sentence backwards in the other half."""
    found = list(chunks(np.array(lengths), PairsConfig(length, short_share=0), key))
    if draw(0, key, 0, "direction", 2):
        lengths = lengths[::-1]
        found = [(len(lengths) - end, len(lengths) - split, len(lengths) - start) for start, split, end in reversed(found)]
    for start, _, end in found:
        target = length - 3
        if end < len(lengths):
            assert sum(lengths[start : end + 1]) >= target or end - start == 2
            assert end - start == 2 or sum(lengths[start : end - 1]) < target
        else:
            assert sum(lengths[start : end - 2]) < target or end - start <= 3


def test_the_sentence_that_reaches_the_target_is_in_its_chunk_half_of_the_time() -> None:
    """Sentences of 1 and 9 tokens: the long ones reach targets most often, and are the first and the last of chunks equally often."""
    lengths = np.random.default_rng(0).choice([1, 9], 200_000)
    found = np.array(list(chunks(lengths, PairsConfig(128), "x")))
    opening, closing = lengths[found[1:, 0]], lengths[found[:-1, 2] - 1]
    assert np.mean(opening == 9) == pytest.approx(np.mean(closing == 9), abs=0.02)
    assert np.mean(opening == 9) > 0.6, "they are more frequent there than anywhere"


def test_half_of_the_documents_are_chunked_backwards() -> None:
    assert 400 < sum(draw(0, f"d{n}", 0, "direction", 2) for n in range(1000)) < 600


def test_one_chunk_of_ten_is_short_and_splits_are_anywhere() -> None:
    lengths = np.full(200_000, 5)
    found = np.array(list(chunks(lengths, PairsConfig(128), "x")))
    sizes = (found[:, 2] - found[:, 0]) * 5
    assert np.mean(sizes < 120) == pytest.approx(0.1 * (114 + 119) / 2 / 124, abs=0.01)
    full = found[sizes == 125]
    places = full[:, 1] - full[:, 0]
    assert stats.chisquare(np.bincount(places, minlength=25)[1:25]).pvalue > 1e-4


def test_draws_are_uniform_and_depend_on_every_argument() -> None:
    assert stats.chisquare(np.bincount([draw(1, "d", n, "split", 7) for n in range(14_000)])).pvalue > 1e-4
    assert len({draw(1, "d", 2, "split", 1 << 60), draw(2, "d", 2, "split", 1 << 60), draw(1, "e", 2, "split", 1 << 60)}) == 3
    assert draw(1, "d", 2, "short", 1 << 60) != draw(1, "d", 2, "split", 1 << 60)


def test_pairs_stay_within_one_document_and_one_split(encoded: Callable[..., tuple[Artifact, Artifact]], store: Store) -> None:
    sentences, _ = encoded("wordpiece", 400)
    made = run(PAIRS, PairsConfig(32), {"sentences": sentences}, store, LocalCompute())
    covered = 0
    for split, paths in (("train", made.shards), ("valid", made.side("valid"))):
        for path in paths:
            owner = shards.read(sentences.path / path.name)["document"].to_pylist()
            splits = shards.read(sentences.path / "documents" / path.name)["split"].to_pylist()
            for row in shards.read(path).to_pylist():
                part = owner[row["start"] : row["end"]]
                assert len(set(part)) == 1 and splits[part[0]] == split and row["start"] < row["split"] < row["end"]
                covered += len(part)
    counts = made.counts
    assert counts["read"] == 62 == counts["kept"] + counts["set_aside.single_sentence"] + counts["set_aside.empty"]
    assert counts["set_aside.empty"] == 1 and counts["set_aside.single_sentence"] >= 1
    assert covered == sentences.counts["sentences"] - counts["set_aside.single_sentence"]


def test_pairs_of_a_document_do_not_depend_on_its_shard(encoded: Callable[..., tuple[Artifact, Artifact]], store: Store) -> None:
    found = []
    for count in (1, 5):
        sentences, _ = encoded("wordpiece", 400, count=count)
        made = run(PAIRS, PairsConfig(24), {"sentences": sentences}, store, LocalCompute())
        pairs = set()
        for path in made.shards:
            side = shards.read(sentences.path / "documents" / path.name).to_pylist()
            owner = shards.read(sentences.path / path.name)["document"].to_pylist()
            for row in shards.read(path).to_pylist():
                document = side[owner[row["start"]]]
                pairs.add((document["id"], *(row[name] - document["first"] for name in ("start", "split", "end"))))
        found.append(pairs)
    assert found[0] == found[1]


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"length": 4}, {"short_share": 1.5}):
        with pytest.raises(ConfigError):
            PairsConfig(**wrong)  # type: ignore[arg-type]
