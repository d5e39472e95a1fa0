"""Tallies against dictionaries, piles against lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import shards
from data_prep.corpus import piles, tallies
from infra.errors import ArtifactError

SOME = st.integers(0, 40) | st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
TALLY = st.lists(st.tuples(SOME, st.integers(-9, 9)), max_size=30)


@settings(max_examples=40, deadline=None)
@given(st.lists(TALLY, max_size=4), st.integers(3, 9), st.lists(SOME, max_size=10))
def test_a_merged_tally_is_the_sum_of_all_and_lies_in_even_ranges(tmp_path_factory, parts, rows, others) -> None:
    folder = tmp_path_factory.mktemp("tally")
    paths = [folder / f"{number}.arrow" for number in range(len(parts))]
    expected: Counter[int] = Counter()
    for path, part in zip(paths, parts, strict=True):
        keys, values = [key for key, _ in part], [value for _, value in part]
        tallies.write(np.array(keys, np.uint64), path, np.array(values, np.int64))
        for key, value in part:
            expected[key] += value
    size, tallies.SHARD_ROWS = tallies.SHARD_ROWS, rows
    try:
        tallies.merge(paths, folder / "whole", counted=True)
    finally:
        tallies.SHARD_ROWS = size
    made = sorted((folder / "whole").glob("*.arrow"))
    merged = [row for path in made for row in shards.read(path).to_pylist()]
    assert [(row["hash"], row["value"]) for row in merged] == sorted(expected.items())
    wanted = np.array([*expected, *others], np.uint64)
    for tally in (tallies.Tally(made), tallies.Tally(paths)):
        assert tally.find(wanted).tolist() == [key in expected for key in wanted.tolist()]
        assert tally.sums(wanted).tolist() == [expected.get(key, 0) for key in wanted.tolist()]


def test_shards_of_a_tally_are_bounded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tallies, "SHARD_ROWS", 1_000)
    hashed = tallies.hashes(f"http://a.test/{n}" for n in range(20_000))
    tallies.write(hashed, tmp_path / "one.arrow")
    assert tallies.merge([tmp_path / "one.arrow"], tmp_path / "known", counted=False) == 20_000
    sizes = [shards.read(path).num_rows for path in sorted((tmp_path / "known").glob("*.arrow"))]
    assert len(sizes) == 20 and sum(sizes) == 20_000 and max(sizes) < 1_200
    assert hashed[7] == xxhash.xxh3_64(b"http://a.test/7").intdigest()


ROW = pa.schema([("text", pa.string()), ("n", pa.int64())])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 4)), max_size=9), max_size=5), st.integers(1, 12))
def test_a_pile_has_its_rows_in_the_order_they_came(tmp_path_factory, batches, held) -> None:
    path = tmp_path_factory.mktemp("piles") / "x.piles"
    size, piles.ROWS = piles.ROWS, held
    try:
        with piles.Writer(path, ROW) as writer:
            for batch in batches:
                table = pa.table({"text": pa.array([text for text, _ in batch], pa.string()), "n": range(len(batch))}, ROW)
                writer.add(table, np.array([pile for _, pile in batch], np.int32))
            writer.counts = {"read": 3}
    finally:
        piles.ROWS = size
    for pile in range(5):
        expected = [(text, n) for batch in batches for n, (text, at) in enumerate(batch) if at == pile]
        assert [(row["text"], row["n"]) for row in piles.read(path, pile).to_pylist()] == expected
    assert piles.counts(path) == {"read": 3}


def test_a_file_of_piles_is_whole_or_not_there(tmp_path) -> None:
    with pytest.raises(KeyError), piles.Writer(tmp_path / "x.piles", ROW) as writer:
        writer.add(pa.table({"text": ["a"], "n": [1]}, ROW), np.zeros(1, np.int32))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    shards.write(pa.table({"text": ["a"], "n": [1]}, ROW), tmp_path / "other")
    with pytest.raises(ArtifactError, match="no file of piles"):
        piles.counts(tmp_path / "other")
