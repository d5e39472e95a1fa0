from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import shards
from infra.errors import ArtifactError
from training.feed.views import Lists, Rows, Shards

SIZES = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=5).filter(lambda s: sum(map(len, s)) > 0)


def lists(sizes: list[list[int]]) -> tuple[Lists, list[list[int]]]:
    """Chunks of lists; every id is its own place."""
    chunks, at = [], 0
    for chunk in sizes:
        chunks.append((np.concatenate([[0], np.cumsum(chunk)]).astype(np.int32), np.arange(at, at + sum(chunk), dtype=np.uint16)))
        at += sum(chunk)
    bounds = np.concatenate([[0], np.cumsum([n for chunk in sizes for n in chunk])]).astype(int)
    return Lists(chunks), [list(range(a, b)) for a, b in pairwise(bounds)]


@given(SIZES, st.data())
def test_any_run_of_lists_comes_back_across_chunks(sizes: list[list[int]], data: st.DataObject) -> None:
    column, plain = lists(sizes)
    start = data.draw(st.integers(0, len(plain)))
    stop = data.draw(st.integers(start, len(plain)))
    a, b = column.places(np.array([start, stop])).tolist()
    into = np.full(b - a, -1)
    column.copy(a, b, into)
    assert into.tolist() == [x for row in plain[start:stop] for x in row]


@given(SIZES, st.data())
def test_many_runs_are_laid_where_they_belong(sizes: list[list[int]], data: st.DataObject) -> None:
    column, plain = lists(sizes)
    flat = [x for row in plain for x in row]
    for count in (3, 60):  # one by one, and in bulk
        starts = np.array(data.draw(st.lists(st.integers(0, max(len(flat) - 1, 0)), min_size=count, max_size=count)))
        lengths = np.array([data.draw(st.integers(0, len(flat) - s)) for s in starts.tolist()], dtype=np.int64)
        at = np.concatenate([[0], np.cumsum(lengths + 1)])[:-1]
        into = np.full(int((lengths + 1).sum()), -1)
        column.scatter(starts, lengths, into, at)
        assert into.tolist() == [x for s, n in zip(starts.tolist(), lengths.tolist(), strict=True) for x in [*flat[s : s + n], -1]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any), st.data())
def test_rows_are_gathered_in_any_order_from_any_chunk(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes) * 2).reshape(-1, 2)
    column = Rows(np.split(whole, np.cumsum(sizes)[:-1]))
    wanted = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)), dtype=np.int64)
    into = np.zeros((len(wanted), 2), np.int64)
    column.gather(wanted, into)
    assert np.array_equal(into, whole[wanted])


def test_columns_are_views_of_the_file(tmp_path: Path) -> None:
    shards.write(pa.table({"tokens": pa.array([[1, 2], [3]], pa.list_(pa.uint16()))}), tmp_path / "00000.arrow")
    column = Shards([tmp_path / "00000.arrow"]).lists("tokens")
    assert not column.values[0].flags.owndata and not column.values[0].flags.writeable


def test_a_foreign_or_cut_shard_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "00000.arrow"
    shards.write(pa.table({"x": [1]}), path)
    with pytest.raises(ArtifactError, match="00000.arrow"):
        Shards([path]).lists("tokens")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="00000.arrow"):
        Shards([path])
