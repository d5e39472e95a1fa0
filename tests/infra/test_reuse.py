"""What an earlier artifact made from an equal shard is taken over, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from data_prep import shards
from infra.artifact import Artifact, Counts
from infra.compute import Compute, LocalCompute
from infra.errors import ArtifactError
from infra.reuse import Shardwise, link
from infra.stage import Inputs, Stage, run
from infra.store import Store


@dataclass(frozen=True)
class Source:
    tables: tuple[tuple[int, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Factor:
    by: int = 2


def write_source(config: Source, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    for number, values in enumerate(config.tables):
        shards.write(pa.table({"value": pa.array([-v for v in values], pa.int64())}), out / "negative" / shards.name(number))
        shards.write(pa.table({"value": pa.array(values, pa.int64())}), out / shards.name(number))
    if config.note:
        (out / "note.txt").write_text(config.note)
    return {}


MADE: list[str] = []  # the shards that were worked on, in this process


def multiply(by: int, shard: Path, _out: Path) -> shards.Made:
    MADE.append(shard.name)
    values = shards.read(shard)["value"].to_pylist()
    odd = pa.table({"value": pa.array([v for v in values if v % 2], pa.int64())})
    return shards.Made(pa.table({"value": pa.array([v * by for v in values], pa.int64())}), {"read": len(values)}, {"odd": odd})


def work(config: Factor, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    return shards.each_path("times", partial(multiply, config.by), inputs["numbers"].shards, out, compute)


SOURCE = Stage("source", 1, write_source)
TIMES = Stage("times", 1, work, Shardwise("numbers"))
PLAIN = Stage("times", 1, work)


Tables = tuple[tuple[int, ...], ...]


def made_of(store: Store, stage: Stage[Factor], tables: Tables, by: int = 2, note: str = "", **more: Artifact) -> Artifact:
    MADE.clear()
    numbers = run(SOURCE, Source(tables, note), {}, store, LocalCompute())
    return run(stage, Factor(by), {"numbers": numbers, **more}, store, LocalCompute())


def content(artifact: Artifact) -> list[tuple[str, str]]:
    return [(entry["name"], entry["xxh3"]) for entry in artifact.files]


def test_only_the_changed_and_the_new_shards_are_made(store: Store) -> None:
    before = made_of(store, TIMES, ((1, 2), (3,), (4, 5)))
    assert MADE == ["00000.arrow", "00001.arrow", "00002.arrow"]
    after = made_of(store, TIMES, ((1, 2), (33,), (4, 5), (6,)))
    assert MADE == ["00001.arrow", "00003.arrow"]
    assert after.counts == {"read": 6}
    assert (after.path / "00000.arrow").samefile(before.path / "00000.arrow")
    assert (after.path / "odd" / "00002.arrow").samefile(before.path / "odd" / "00002.arrow")
    store.verify(after)


def test_another_config_another_input_or_another_file_beside_the_shards_makes_everything_anew(store: Store) -> None:
    tables = ((1,), (2,))
    made_of(store, TIMES, tables)
    made_of(store, TIMES, ((1,), (3,)), by=3)
    assert MADE == ["00000.arrow", "00001.arrow"]
    made_of(store, TIMES, ((1,), (4,)), note="another tokenizer, say")
    assert MADE == ["00000.arrow", "00001.arrow"]
    made_of(store, TIMES, ((1,), (5,)), also=run(SOURCE, Source(((9,),)), {}, store, LocalCompute()))
    assert MADE == ["00000.arrow", "00001.arrow"]


def test_a_side_that_the_stage_reads_counts_and_another_does_not(store: Store) -> None:
    reads_side = Stage("times", 1, work, Shardwise("numbers", ("negative",)))
    numbers = run(SOURCE, Source(((1,), (2,))), {}, store, LocalCompute())
    made_of(store, reads_side, ((1,), (2,)))
    other = run(Stage("source", 2, _other_negatives), Source(((1,), (2,))), {}, store, LocalCompute())
    assert [a["xxh3"] for a in numbers.files if "/" not in a["name"]] == [a["xxh3"] for a in other.files if "/" not in a["name"]]
    MADE.clear()
    run(reads_side, Factor(), {"numbers": other}, store, LocalCompute())
    assert MADE == ["00000.arrow", "00001.arrow"]


def _other_negatives(config: Source, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    write_source(config, inputs, out, compute)
    for number in range(len(config.tables)):
        shards.write(pa.table({"value": pa.array([7], pa.int64())}), out / "negative" / shards.name(number))
    return {}


def test_a_damaged_shard_is_never_taken_over(store: Store) -> None:
    before = made_of(store, TIMES, ((1, 2), (3,)))
    path = before.path / "00000.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])  # the size stays: only the hash can tell
    after = made_of(store, TIMES, ((1, 2), (4,)))
    assert MADE == ["00000.arrow", "00001.arrow"]
    assert (after.path / "00000.arrow").read_bytes() == whole
    with pytest.raises(ArtifactError, match=r"00000\.arrow does not hash"):
        store.verify(before)


def test_an_input_that_is_gone_gives_nothing_over(store: Store) -> None:
    before = made_of(store, TIMES, ((1,), (2,)))
    place = before.manifest["inputs"]["numbers"]
    place = Artifact(place["stage"], place["fingerprint"], store.path(place["stage"], place["fingerprint"]))
    place.path.rename(place.path.with_name(".gone"))
    made_of(store, TIMES, ((1,), (3,)))
    assert MADE == ["00000.arrow", "00001.arrow"]


tables = st.lists(st.lists(st.integers(-3, 3), max_size=3).map(tuple), min_size=1, max_size=4).map(tuple)


@settings(max_examples=40)
@given(history=st.lists(tables, min_size=1, max_size=4))
def test_taking_over_changes_no_byte(history: list[tuple[tuple[int, ...], ...]], tmp_path_factory: pytest.TempPathFactory) -> None:
    kept, fresh = Store(tmp_path_factory.mktemp("kept")), Store(tmp_path_factory.mktemp("fresh"))
    for each in history:
        grown = made_of(kept, TIMES, each)
    alone = made_of(fresh, PLAIN, history[-1])
    assert content(grown) == content(alone)
    assert grown.counts == alone.counts


def test_a_link_over_the_same_file_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    link(tmp_path / "a", tmp_path / "deep" / "b")
    link(tmp_path / "a", tmp_path / "deep" / "b")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == [".b.done", "b"]
    assert (tmp_path / "deep" / "b").samefile(tmp_path / "a")
