"""A shard is whole or absent, carries its counts, and its ledger adds up."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import shards
from infra.compute import LocalCompute
from infra.errors import ArtifactError, StageFailed


def evens(table: pa.Table) -> shards.Made:
    values = table["n"].to_pylist()
    kept = [v for v in values if v % 2 == 0]
    return shards.Made(
        pa.table({"n": pa.array(kept, pa.int64())}),
        {"read": len(values), "kept": len(kept), "removed.odd": len(values) - len(kept)},
        {"odd": pa.table({"n": pa.array([v for v in values if v % 2], pa.int64())})},
    )


def numbers(folder: Path, shard_count: int = 3) -> list[Path]:
    paths = [folder / shards.name(i) for i in range(shard_count)]
    for i, path in enumerate(paths):
        shards.write(pa.table({"n": list(range(10 * i, 10 * i + 5))}), path)
    return paths


def test_each_makes_one_shard_of_one_with_its_sides_and_sums_the_counts(tmp_path: Path) -> None:
    counts = shards.each("evens", evens, numbers(tmp_path / "in"), tmp_path / "out", LocalCompute())
    assert counts == {"read": 15, "kept": 9, "removed.odd": 6}
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.arrow")) == [
        "00000.arrow", "00001.arrow", "00002.arrow", "odd/00000.arrow", "odd/00001.arrow", "odd/00002.arrow",
    ]  # fmt: skip


def test_a_second_each_counts_old_and_new_shards_and_does_only_the_missing(tmp_path: Path) -> None:
    inputs = numbers(tmp_path / "in")
    first = shards.each("evens", evens, inputs, tmp_path / "out", LocalCompute())
    kept = (tmp_path / "out" / "00000.arrow").stat().st_mtime_ns
    (tmp_path / "out" / "00001.arrow").unlink()
    assert shards.each("evens", evens, inputs, tmp_path / "out", LocalCompute()) == first
    assert (tmp_path / "out" / "00000.arrow").stat().st_mtime_ns == kept


@pytest.mark.parametrize("keep", [0, 5, -10])
def test_a_broken_shard_is_an_error_that_names_it_and_the_others_are_done(tmp_path: Path, keep: int) -> None:
    inputs = numbers(tmp_path / "in")
    inputs[1].write_bytes(inputs[1].read_bytes()[:keep])
    with pytest.raises(StageFailed, match=r"1 of 3 shards failed; shard 1: .*00001\.arrow: not a whole Arrow file"):
        shards.each("evens", evens, inputs, tmp_path / "out", LocalCompute())
    assert (tmp_path / "out" / "00002.arrow").exists()


@given(st.dictionaries(st.sampled_from(["kept", "removed.a", "removed.b", "set_aside.c"]), st.integers(0, 100)), st.integers(-1, 1))
def test_the_ledger_adds_up_or_is_refused(counts: dict[str, int], off: int) -> None:
    ledger = {**counts, "read": sum(counts.values()) + off}
    if off:
        with pytest.raises(ArtifactError, match="does not add up"):
            shards.balance("toy", ledger)
    else:
        assert shards.balance("toy", ledger) == ledger


@given(st.lists(st.text(), max_size=20))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("s") / "00000.arrow"
    clean = [t.encode("utf-8", "replace").decode() for t in texts]
    shards.write(pa.table({"text": pa.array(clean, pa.string())}), path, {"read": len(clean)})
    assert shards.read(path)["text"].to_pylist() == clean
    assert shards.counts(path) == {"read": len(clean)}
